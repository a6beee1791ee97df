// The language, the address and the parts; runs last.
"use strict";

function translate() {
  document.documentElement.lang = state.get("lang");
  document.title = words("title");
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = words(element.dataset.word);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words(element.dataset.label));
  }
}

state.subscribe("lang", translate);
translate();
sections.start();
