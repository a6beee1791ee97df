// What the page shows, kept in its address, so that a view can be sent; and
// the registry of its interactive parts.
"use strict";

const data = (id) => JSON.parse(document.getElementById(id).textContent);
window.BUNDLE = data("bundle");
const WORDS = data("words");

const state = (() => {
  const NAMES = ["lang", "section", "rate", "batch", "unit", "mistake", "epoch",
    "image", "horizon"];
  const listeners = {};
  const values = {};
  const given = new URLSearchParams(location.search);
  for (const name of NAMES) values[name] = given.get(name) || "";
  if (values.lang !== "zh") values.lang = "en";

  function write() {
    const query = new URLSearchParams();
    for (const name of NAMES) {
      if (values[name] && !(name === "lang" && values[name] === "en")) {
        query.set(name, values[name]);
      }
    }
    const text = query.toString();
    history.replaceState(null, "", location.pathname + (text && `?${text}`));
  }

  return {
    // Of a name: a string, "" where nothing was chosen.
    get: (name) => values[name],
    set(name, value) {
      if (!NAMES.includes(name)) throw new Error(`no state ${name}`);
      const text = String(value);
      if (values[name] === text) return;
      values[name] = text;
      write();
      for (const each of listeners[name] || []) each(text);
    },
    // Calls listener(value) whenever the value changes, not now.
    subscribe(name, listener) {
      (listeners[name] = listeners[name] || []).push(listener);
    },
  };
})();

// The string of a key in the language of now.
function words(key) {
  const found = WORDS[key];
  if (!found) throw new Error(`no words for ${key}`);
  return found[state.get("lang")];
}

const sections = (() => {
  const parts = {};
  return {
    // setUp(element, state, words) fills <div data-part="name">, once.
    register(name, setUp) {
      parts[name] = setUp;
    },
    start() {
      for (const element of document.querySelectorAll("[data-part]")) {
        const setUp = parts[element.dataset.part];
        if (setUp) setUp(element, state, words);
      }
    },
  };
})();
