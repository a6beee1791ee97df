// The language, the map and the address; runs last.
"use strict";

function translate() {
  const lang = state.get("lang");
  document.documentElement.lang = lang;
  document.title = words("title");
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = words(element.dataset.word);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words(element.dataset.label));
  }
  for (const button of document.querySelectorAll("[data-lang]")) {
    button.setAttribute("aria-pressed", String(button.dataset.lang === lang));
  }
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  return element;
}

function command(line) {
  const place = make("p", `${words("command")} `, { class: "facts" });
  place.append(make("code", line));
  return place;
}

// --- the map -----------------------------------------------------------------

function openCell() {
  const place = document.getElementById("cell");
  if (!place) return;
  const cell = CHARTS.cells[`${state.get("rate")} ${state.get("batch")}`];
  for (const button of document.querySelectorAll("#cells button")) {
    const pressed =
      button.dataset.rate === state.get("rate") &&
      button.dataset.batch === state.get("batch");
    button.setAttribute("aria-pressed", String(pressed));
  }
  if (!cell) {
    place.replaceChildren(make("p", words("map.none")));
    return;
  }
  const values = { rate: cell.rate, batch: cell.batch, n: cell.n, lost: cell.lost };
  const title = words("map.cell").replace(/\{(\w+)\}/g, (_, key) => values[key]);
  const chart = make("div", "", { class: "live", role: "img", "aria-label": title });
  place.replaceChildren(make("p", title, { class: "caption" }), chart, command(cell.command));
  const spec = structuredClone(CHARTS.cell);
  spec.data.values = cell.dev_loss
    .filter((point) => point[1] !== null)
    .map(([x, y, low, high]) =>
      ({ x, y, low, high, below: low, i: 0, s: title }));
  charts.draw(chart, spec);
}

// Puts the losses after the chosen number of epochs into the map.
function paintMap() {
  const choice = document.getElementById("horizon");
  if (!choice) return;
  const wanted = state.get("horizon");
  if ([...choice.options].some((each) => each.value === wanted)) {
    choice.value = wanted;
  }
  for (const button of document.querySelectorAll("#cells button")) {
    const [text, back, ink] = JSON.parse(button.dataset.ends)[choice.value];
    button.textContent = text;
    button.style.background = back;
    button.style.color = ink;
  }
}

function startMap() {
  for (const button of document.querySelectorAll("#cells button")) {
    button.addEventListener("click", () => {
      state.set("rate", button.dataset.rate);
      state.set("batch", button.dataset.batch);
      openCell();
    });
  }
  for (const name of ["lang", "rate", "batch"]) state.subscribe(name, openCell);
  openCell();
  const choice = document.getElementById("horizon");
  if (!choice) return;
  choice.addEventListener("change", () => state.set("horizon", choice.value));
  state.subscribe("horizon", paintMap);
  paintMap();
}

// --- where one is ------------------------------------------------------------

function startPlace() {
  const chosen = document.getElementById(state.get("section"));
  if (chosen && !location.hash) chosen.scrollIntoView();
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) state.set("section", entry.target.id);
      }
    },
    { rootMargin: "-30% 0px -65% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) {
    seen.observe(section);
  }
}

document.documentElement.classList.add("with-script");
for (const button of document.querySelectorAll("[data-lang]")) {
  button.addEventListener("click", () => state.set("lang", button.dataset.lang));
}
state.subscribe("lang", translate);
translate();
startMap();
sections.start();
charts.start();
startPlace();
