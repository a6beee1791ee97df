// Mistakes planted in the chapter's backward, found by the gradient check, live.
//
// Names and formulas are those of mnist_jax.gradcheck.faults: what a site gives
// is replaced by what `change` makes of it.
"use strict";

const mistakes = (() => {
  const scale = (factor) => (value) => value.map((v) => factor * v);
  const probabilities = (at) => at.pass.a[network.LAST];
  const y = (at) => network.oneHot(at.labels);

  function entry(value) {
    const sizes = value.map(Math.abs);
    const largest = sizes.indexOf(draw.largest(value));
    return value.map((v, i) => (i === largest ? 1.01 * v : v));
  }

  function transposed(value, at, k) {
    const { fanIn, fanOut } = at.layers[k];
    return value.map((_, p) => value[(p % fanIn) * fanOut + Math.floor(p / fanIn)]);
  }

  // dZ times W whose numbers are read as a matrix of W^T's shape.
  function untransposed(value, at, k, dz) {
    const { w, fanIn, fanOut } = at.layers[k + 1];
    return value.map((_, p) => {
      const [n, i] = [Math.floor(p / fanIn), p % fanIn];
      let sum = 0;
      for (let j = 0; j < fanOut; j++) {
        sum += dz[n * fanOut + j] * w[j * fanIn + i];
      }
      return sum;
    });
  }

  const ofOutput = (f) => (value, at, k) => at.pass.a[k].map((a) => f(a));

  // name: [site, layer, change]
  const CATALOGUE = {
    dz3_sign: ["residual", 3, scale(-1)],
    dz3_of_logits: ["residual", 3, (value, at) =>
      at.pass.z[3].map((z, i) => z - y(at)[i])],
    dz3_without_y: ["residual", 3, (value, at) => probabilities(at)],
    dz3_times_derivative: ["residual", 3, (value, at) =>
      value.map((v, i) => v * probabilities(at)[i] * (1 - probabilities(at)[i]))],
    mean_missing: ["shares", 3, (value, at) => scale(at.pass.m)(value)],
    mean_twice: ["shares", 3, (value, at) => scale(1 / at.pass.m)(value)],
    dw3_entry: ["dw", 3, entry],
    dz2_of_sigmoid: ["derivative", 2, ofOutput(network.DERIVATIVES[1])],
    dz2_inner_sign: ["derivative", 2, ofOutput((a) => 1 + a * a)],
    dw2_sign: ["dw", 2, scale(-1)],
    dw2_transposed: ["dw", 2, transposed],
    dw2_of_z: ["dw", 2, (value, at, k, dz) => {
      const { fanIn, fanOut } = at.layers[k];
      return network.outer(at.pass.z[k - 1], dz, fanIn, fanOut, at.pass.m);
    }],
    dw2_float32: ["dw", 2, (value) => value.map(Math.fround)],
    db2_one_example: ["db", 2, (value, at, k, dz) => dz.slice(0, value.length)],
    da1_untransposed: ["da", 1, untransposed],
    dz1_missing: ["derivative", 1, ofOutput(() => 1)],
    dz1_of_tanh: ["derivative", 1, ofOutput(network.DERIVATIVES[2])],
    dw1_pixels: ["dw", 1, scale(255)],
  };

  // What `network.backward` needs to make that mistake.
  function spoil(name) {
    if (!CATALOGUE[name]) return undefined;
    const [site, layer, change] = CATALOGUE[name];
    return (where, k, value, at, dz) =>
      where === site && k === layer ? change(value, at, k, dz) : value;
  }

  // 1e-7: "very satisfying" in section 12.3; from 1e-2 on "check again".
  const SATISFYING = 1e-7;
  const RECHECK = 1e-2;
  const band = (distance) => distance < SATISFYING ? "band.satisfying"
    : distance > RECHECK ? "band.recheck" : "band.between";

  // The tensors of a gradient beside the numeric ones.
  function compare(given, numeric) {
    return network.tensors().map((tensor) => ({
      ...tensor,
      distance: network.distance(given, numeric, tensor.from, tensor.to),
    }));
  }

  // The number c of given = c x numeric; null if no number does.
  function factor(given, numeric, { from, to }) {
    let [product, square] = [0, 0];
    for (let i = from; i < to; i++) {
      product += given[i] * numeric[i];
      square += numeric[i] ** 2;
    }
    const c = product / square;
    const fitted = numeric.map((value) => c * value);
    return network.distance(given, fitted, from, to) < 1e-6 ? c : null;
  }

  // Where a gradient is wrong and why, from it and the numeric one alone:
  // {wrong, first, factor, shortened, named}. `first` is the wrong tensor
  // nearest to the output: what is behind it is computed from it. `named` are
  // the known mistakes that give these very numbers.
  function diagnose(given, numeric, gradientOf) {
    const tensors = compare(given, numeric);
    const wrong = tensors.filter(({ distance }) => !(distance < SATISFYING));
    const layer = Math.max(...wrong.map(({ name }) => Number(name[1])));
    const first = wrong.find(({ name }) => Number(name[1]) === layer);
    const named = Object.keys(CATALOGUE).filter((name) =>
      network.distance(given, gradientOf(name)) < 1e-12);
    const shortened = tensors.filter(({ from, to }) => {
      const part = given.subarray(from, to);
      return part.some(Boolean) && part.every((v) => Math.fround(v) === v);
    });
    return {
      tensors,
      wrong,
      first,
      named,
      shortened,
      factor: first ? factor(given, numeric, first) : null,
    };
  }

  // Distances by tensor, each with the chapter's reading of it.
  function table(tensors) {
    const { el } = draw;
    const head = ["tensor", "parameters", "distance", "reading"].map(
      (word) => `table.${word}`);
    return el("table", { class: "distances" },
      el("thead", {}, el("tr", {},
        ...head.map((word) => el("th", { scope: "col", word })))),
      el("tbody", {}, ...tensors.map(({ name, distance, count, from, to }) =>
        el("tr", { class: band(distance).replace("band.", "") },
          el("th", { scope: "row" }, `d${name}`),
          el("td", { class: "number" },
            (count || to - from).toLocaleString("en")),
          el("td", { class: "number" }, draw.number(distance, 3)),
          el("td", { word: band(distance) })))));
  }

  const CHECKED = 8; // examples
  const H = 1e-5;
  const AT = 1; // of book.epochs: after the first, when no bias is 0

  function setUp(element, state, words) {
    const { el } = draw;
    let point = null; // made when it is first needed: it takes a moment

    function pointed() {
      const { pixels, labels: all } = book.examples("train");
      const theta = book.theta(AT);
      const x = network.scaled(pixels.subarray(0, CHECKED * network.SIZES[0]));
      const labels = all.slice(0, CHECKED);
      const pass = network.forward(theta, x);
      return {
        numeric: network.numericGradient(theta, x, labels, H),
        gradientOf: (name) =>
          network.backward(theta, pass, labels, spoil(name)).gradient,
      };
    }

    const names = () => [["none", words("mistake.none")],
      ...Object.keys(CATALOGUE).map((name) => [name, words(`mistake.${name}`)])];
    const choice = draw.choice("mistake.choice", names,
      (name) => state.set("mistake", name === "none" ? "" : name));
    const output = el("div", { role: "status" });
    const map = draw.tile("mistake.map", "map");
    const scale = draw.legend(() => ["0", ""]);
    const figure = el("figure", {}, map, el("figcaption", {},
      el("span", { word: "mistake.map" }), " ", scale.element));
    const command = el("code");

    // |given - numeric| of the first wrong tensor; W1's by pixel.
    function drawMap({ name, from, to, shape: [fanIn, fanOut] }, given) {
      const { numeric } = point;
      let error = Float64Array.from({ length: to - from }, (_, i) =>
        Math.abs(given[from + i] - numeric[from + i]));
      let width = fanOut;
      if (name === "W1") {
        const pixel = (_, i) =>
          draw.largest(error.subarray(i * fanOut, (i + 1) * fanOut));
        error = Float64Array.from({ length: fanIn }, pixel);
        width = 28;
      }
      const top = draw.largest(error);
      draw.paint(map, error, width, 0, top);
      scale.show(["0", draw.number(top, 2)]);
    }

    const list = (tensors) => tensors.map(({ name }) => `d${name}`).join(", ");

    function sentences(found) {
      const { wrong, first, named, shortened, factor: c } = found;
      const lines = [];
      if (!wrong.length) lines.push(words("mistake.none_wrong"));
      else {
        lines.push(draw.fill("mistake.where", { wrong: list(wrong),
          layer: first.name[1] }));
      }
      if (shortened.length) {
        lines.push(draw.fill("mistake.shortened", { list: list(shortened) }));
      }
      if (c !== null) {
        lines.push(draw.fill("mistake.factor", { tensor: `d${first.name}`,
          factor: draw.number(c) }));
      }
      for (const name of wrong.length ? named : []) {
        lines.push(draw.fill("mistake.named", {
          count: Object.keys(CATALOGUE).length,
          formula: words(`mistake.${name}`) }));
      }
      return lines.map((line) => el("p", {}, line));
    }

    function show() {
      const name = state.get("mistake");
      const known = name in CATALOGUE;
      choice.set(known ? name : "none");
      point = point || pointed();
      const { numeric, gradientOf } = point;
      const given = gradientOf(name);
      const found = diagnose(given, numeric, gradientOf);
      const diff = network.distance(given, numeric);
      output.replaceChildren(
        el("p", { class: "said" }, draw.fill("mistake.diff", {
          diff: draw.number(diff, 3), band: words(band(diff)) })),
        ...sentences(found));
      tableHere.replaceChildren(table(found.tensors));
      figure.hidden = !found.first;
      if (found.first) drawMap(found.first, given);
      command.textContent = "python -m experiments.gradient_check" +
        (known ? ` --inject=${name}` : "");
    }

    const tableHere = el("div");
    element.append(choice.element, output, tableHere, figure,
      el("p", { class: "note", word: "mistake.note" }),
      el("pre", {}, command));
    state.subscribe("mistake", show);
    state.subscribe("lang", () => {
      choice.fill();
      show();
    });
    // Not before the reader comes near: it would delay the first figure.
    const near = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      show();
    }, { rootMargin: "400px" });
    near.observe(element);
    window.addEventListener("beforeprint", show);
  }

  sections.register("mistake", setUp);
  return { CATALOGUE, spoil, band, diagnose, table };
})();
