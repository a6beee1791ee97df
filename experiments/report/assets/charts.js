// The live figures: the specs of the build, drawn by Vega without eval, when
// they come into view.
"use strict";

const CHARTS = data("charts");

const charts = (() => {
  const NARROW = 520;
  const views = new Map(); // element of a figure -> its view, once drawn

  // A copy of a spec with its "@key" strings in the language of now.
  function inWords(content) {
    if (typeof content === "string") {
      return content.startsWith("@") ? words(content.slice(1)) : content;
    }
    if (Array.isArray(content)) return content.map(inWords);
    if (content && typeof content === "object") {
      return Object.fromEntries(
        Object.entries(content).map(([key, value]) => [key, inWords(value)]),
      );
    }
    return content;
  }

  // Where there is no room for names, a list below the legend has them.
  function narrow(spec) {
    spec.padding.left = 44;
    spec.config.axisY = { minExtent: 18, maxExtent: 18 };
    for (const layer of spec.layer) {
      const y = layer.encoding.y;
      if (y && y.axis) {
        y.axis = { ...y.axis, labelExpr: "indexof(domain('y'), datum.value) + 1" };
      }
    }
  }

  async function draw(element, spec) {
    const drawn = inWords(spec);
    // Letters grow with those of the page, which on a projector are larger.
    const { fontSize } = getComputedStyle(document.documentElement);
    const width = Math.floor((element.clientWidth * 16) / parseFloat(fontSize));
    if (width < 80) return null;
    const categories = drawn.layer.some(
      (layer) => layer.encoding.y && layer.encoding.y.type === "nominal",
    );
    const small = width < NARROW;
    if (categories && small) narrow(drawn);
    drawn.width = width - drawn.padding.left - drawn.padding.right;
    if (small) drawn.config.axisX = { ...drawn.config.axisX, tickCount: 5 };
    const figure = element.closest("[data-figure]");
    const box = figure && figure.querySelector("[data-seeds]");
    drawn.layer = drawn.layer.filter(
      (layer) => layer.name !== "seeds" || (box && box.checked),
    );
    const result = await vegaEmbed(element, drawn, {
      ast: true,
      actions: false,
      renderer: "svg",
      mode: "vega-lite",
      tooltip: { theme: "custom" },
    });
    if (figure) figure.classList.add("is-live");
    return result.view;
  }

  async function redraw(figure) {
    const element = figure.querySelector(".live");
    const view = await draw(element, CHARTS[figure.dataset.figure]);
    if (!view) return;
    const before = views.get(figure);
    views.set(figure, view);
    if (before) before.finalize();
    pickOut(figure);
  }

  // Lets the series of the value in the state stand out.
  function pickOut(figure) {
    const slider = figure.querySelector("[data-pick]");
    if (!slider) return;
    const name = slider.dataset.pick;
    const values = slider.dataset.values.split(" ");
    const chosen = values.indexOf(state.get(name));
    if (chosen >= 0) slider.value = String(chosen);
    const place = Number(slider.value);
    slider.parentElement.querySelector("output").textContent = values[place];
    slider.setAttribute("aria-valuetext", values[place]);
    const view = views.get(figure);
    if (view) view.signal(name, place).run();
  }

  function start() {
    const figures = [...document.querySelectorAll("[data-figure]")];
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          seen.unobserve(entry.target);
          redraw(entry.target);
        }
      },
      { rootMargin: "300px" },
    );
    for (const figure of figures) {
      seen.observe(figure);
      const box = figure.querySelector("[data-seeds]");
      if (box) box.addEventListener("change", () => redraw(figure));
      const slider = figure.querySelector("[data-pick]");
      if (slider) {
        slider.addEventListener("input", () => {
          const values = slider.dataset.values.split(" ");
          state.set(slider.dataset.pick, values[Number(slider.value)]);
          pickOut(figure);
        });
        state.subscribe(slider.dataset.pick, () => pickOut(figure));
        pickOut(figure);
      }
    }
    for (const choice of document.querySelectorAll("[data-choose]")) {
      choice.addEventListener("change", () => {
        const panel = choice.closest(".panel");
        for (const figure of panel.querySelectorAll("[data-figure]")) {
          figure.hidden = figure.dataset.figure !== choice.value;
        }
      });
    }
    const again = () => views.forEach((_, figure) => redraw(figure));
    state.subscribe("lang", again);
    let waiting = 0;
    let wide = document.documentElement.clientWidth;
    addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (wide === document.documentElement.clientWidth) return;
        wide = document.documentElement.clientWidth;
        again();
      }, 150);
    });
  }

  return { start, draw };
})();
