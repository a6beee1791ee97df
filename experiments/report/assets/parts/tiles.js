// The trained network looked into: the first layer's weights over the epochs,
// one hidden unit opened, and both passes with the numbers of an image.
"use strict";

(() => {
  const { el } = draw;
  const [PIXELS, HIDDEN, SECOND, CLASSES] = network.SIZES;
  const ACROSS = 8; // tiles in a row

  const unitOf = (state) => {
    const unit = Number(state.get("unit"));
    return Number.isInteger(unit) && unit >= 0 && unit < HIDDEN ? unit : 0;
  };
  const thetaNow = () => book.theta(book.epoch());
  // The 784 weights into a hidden unit.
  const tileOf = (theta, unit) =>
    Float64Array.from({ length: PIXELS }, (_, i) => theta[i * HIDDEN + unit]);
  const range = (values) => {
    const top = draw.largest(values);
    return [-top, top];
  };
  const both = (top) => [draw.number(-top, 2), draw.number(top, 2)];

  function epochSlider() {
    const { epochs } = book;
    const told = (i) => draw.fill("tiles.told", {
      epoch: epochs[i].epoch, accuracy: draw.percent(epochs[i].dev_accuracy) });
    const slider = draw.slider("tiles.epoch", { min: 0, max: epochs.length - 1,
      value: book.epoch() }, told, (i) => book.lookAt({ epoch: i }));
    book.subscribe("epoch", () => slider.set(book.epoch()));
    return slider;
  }

  function unitSlider(state) {
    const slider = draw.slider("tiles.unit", { min: 0, max: HIDDEN - 1,
      value: unitOf(state) }, String, (unit) => state.set("unit", unit));
    state.subscribe("unit", () => slider.set(unitOf(state)));
    return slider;
  }

  // Twenty test images and the drawn one, as buttons of one choice.
  function imageChoice() {
    const { count, pixels, labels } = book.examples("test");
    const name = `image-${Math.random().toString(36).slice(2)}`;
    const options = Array.from({ length: count + 1 }, (_, i) => {
      const image = i < count ? i : -1;
      const input = el("input", { type: "radio", name, value: image,
        onchange: () => book.lookAt({ image }) });
      const canvas = el("canvas", { class: "tile tiny", "aria-hidden": "true" });
      const text = el("span", { class: "hidden" });
      return { image, input, canvas, text,
        element: el("label", { class: "image" }, input, canvas, text) };
    });
    const choose = () => options.forEach(({ image, input }) => {
      input.checked = image === book.image();
    });
    const own = () =>
      draw.paint(options[count].canvas, book.drawn(), 28, 0, 255);
    const show = () => options.forEach(({ image, text }) => {
      text.textContent = image < 0 ? words("image.drawn")
        : draw.fill("image.told", { label: labels[image],
          index: BUNDLE.test.indices[image] });
    });
    options.slice(0, count).forEach(({ canvas }, i) => draw.paint(canvas,
      pixels.subarray(i * PIXELS, (i + 1) * PIXELS), 28, 0, 255));
    book.subscribe("image", choose);
    book.subscribe("drawn", own);
    [choose, own, show].forEach((each) => each());
    return { show, element: el("fieldset", { class: "images" },
      el("legend", { word: "image.choice" }),
      ...options.map(({ element }) => element)) };
  }

  // All that shows the image, the epoch or the unit is drawn again with them.
  function whenever(state, names, show, ...told) {
    const again = () => {
      told.forEach((each) => each.show());
      show();
    };
    names.forEach((name) => book.subscribe(name, show));
    state.subscribe("unit", show);
    state.subscribe("lang", again);
    show();
  }

  function setUpTiles(element, state, words) {
    const slider = epochSlider();
    const unit = unitSlider(state);
    const canvas = draw.tile("tiles.picture", "wall");
    const scale = draw.legend(() => ["", ""]);
    const SIDE = 28;
    const GAP = 1;
    const PITCH = SIDE + GAP;
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (client, from, size) => Math.min(ACROSS - 1,
        Math.max(0, Math.floor(((client - from) / size) * ACROSS)));
      state.set("unit", place(event.clientY, box.top, box.height) * ACROSS +
        place(event.clientX, box.left, box.width));
    });

    // One scale for all epochs, so that growing shows; few weights are beyond.
    const last = book.theta(book.epochs.length - 1);
    const to = draw.nearlyLargest(last.subarray(0, PIXELS * HIDDEN), 200);
    scale.show(["≤ ", "≥ "].map((sign, i) => sign + both(to)[i]));

    const rows = el("tbody");
    const details = el("details", {}, el("summary", { word: "numbers" }),
      el("table", {}, el("thead", {}, el("tr", {}, ...["table.unit",
        "tiles.least", "tiles.most", "tiles.norm", "tiles.bias"].map(
        (word) => el("th", { scope: "col", word })))), rows));
    function list(theta) {
      if (!details.open) return;
      const { b } = network.layersOf(theta)[1];
      rows.replaceChildren(...Array.from({ length: HIDDEN }, (_, j) => {
        const w = tileOf(theta, j);
        const sizes = [Math.min(...w), Math.max(...w), Math.hypot(...w), b[j]];
        return el("tr", {}, el("th", { scope: "row" }, String(j)),
          ...sizes.map((size) =>
            el("td", { class: "number" }, draw.number(size))));
      }));
    }
    details.addEventListener("toggle", () => list(thetaNow()));

    function show() {
      const theta = thetaNow();
      list(theta);
      const wide = PITCH * ACROSS + GAP;
      const wall = new Float64Array(wide * wide);
      // The chosen unit's frame is light; the others' have the grey of 0.
      for (let j = 0; j < HIDDEN; j++) {
        const left = GAP + (j % ACROSS) * PITCH;
        const top = GAP + Math.floor(j / ACROSS) * PITCH;
        if (j === unitOf(state)) {
          for (let y = -GAP; y <= SIDE; y++) {
            for (let x = -GAP; x <= SIDE; x++) {
              wall[(top + y) * wide + left + x] = Infinity;
            }
          }
        }
        tileOf(theta, j).forEach((w, i) => {
          const row = top + Math.floor(i / SIDE);
          wall[row * wide + left + (i % SIDE)] = w;
        });
      }
      draw.paint(canvas, wall, wide, -to, to);
    }
    element.append(slider.element, unit.element,
      el("figure", {}, canvas, el("figcaption", {},
        el("span", { word: "tiles.caption" }), " ", scale.element)), details,
      el("p", { class: "note", word: "tiles.note" }),
      el("pre", {}, el("code", {}, BUNDLE.run.command)));
    whenever(state, ["epoch"], show, slider);
  }

  function setUpUnit(element, state, words) {
    const unit = unitSlider(state);
    const slider = epochSlider();
    const images = imageChoice();
    const tiles = ["unit.image", "unit.weights", "unit.products"]
      .map((label) => ({ canvas: draw.tile(label, "medium"), label,
        scale: draw.legend(() => ["", ""]) }));
    const signs = ["×", "="];
    const equation = el("p", { class: "equation" });
    const activated = el("p", { class: "equation" });
    const rows = el("tbody");
    const details = el("details", {}, el("summary", { word: "numbers" }),
      el("table", {}, el("caption", { word: "unit.largest" }),
        el("thead", {}, el("tr", {}, ...["unit.pixel", "x", "w", "xw"].map(
          (head) => head.startsWith("unit") ? el("th", { scope: "col",
            word: head }) : el("th", { scope: "col" }, head)))), rows));

    function show() {
      const theta = thetaNow();
      const j = unitOf(state);
      const x = network.scaled(book.pixels());
      const w = tileOf(theta, j);
      const products = x.map((value, i) => value * w[i]);
      [x, w, products].forEach((values, i) => {
        const ends = i ? range(values) : [0, 1];
        draw.paint(tiles[i].canvas, values, 28, ...ends);
        tiles[i].scale.show(i ? both(ends[1]) : ["0", "1"]);
      });
      const { z, a } = network.forward(theta, x);
      const b = network.layersOf(theta)[1].b[j];
      const sum = products.reduce((total, value) => total + value, 0);
      const n = draw.number;
      equation.replaceChildren(`z = Σ x·w + b = ${n(sum)} + (${n(b)}) = `,
        el("strong", {}, n(z[1][j])));
      activated.replaceChildren(
        `a = Sigmoid(z) = 1 / (1 + exp(−(${n(z[1][j])}))) = `,
        el("strong", {}, n(a[1][j])));
      if (!details.open) return;
      const order = Array.from(products.keys()).sort(
        (p, q) => Math.abs(products[q]) - Math.abs(products[p]));
      rows.replaceChildren(...order.slice(0, 20).map((p) => el("tr", {},
        ...[`${Math.floor(p / 28)}, ${p % 28}`, n(x[p]), n(w[p]), n(products[p])]
          .map((text) => el("td", { class: "number" }, text)))));
    }
    details.addEventListener("toggle", show);
    const figures = tiles.flatMap(({ canvas, label, scale }, i) => [
      ...(i ? [el("span", { class: "sign", "aria-hidden": "true" },
        signs[i - 1])] : []),
      el("figure", {}, canvas, el("figcaption", {},
        el("span", { word: label }), el("br"), scale.element))]);
    element.append(unit.element, slider.element, images.element,
      el("div", { class: "product" }, ...figures), equation, activated, details);
    whenever(state, ["epoch", "image"], show, slider, images);
  }

  // One line of a pass: the formula, an entry with its numbers, all entries.
  function line(formula, entry, values, signed) {
    const tile = el("canvas", { class: "tile values", "aria-hidden": "true" });
    const top = values && (signed ? draw.largest(values) : 1);
    if (values) {
      draw.paint(tile, values, values.length, signed ? -top : 0, top);
    }
    const ends = values && (signed ? both(top) : ["0", "1"]);
    const all = values
      ? el("details", {}, el("summary", {}, el("span", { class: "scale" },
        `${ends[0]} `, tile, ` ${ends[1]}`), el("span", { class: "hidden",
        word: "numbers" })), el("p", { class: "values" },
        Array.from(values, (v) => draw.number(v, 3)).join("  ")))
      : "";
    return el("tr", {}, el("th", { scope: "row", class: "formula" }, formula),
      el("td", { class: "entry" }, entry), el("td", {}, all));
  }

  function forwardLines({ z, a }, layers, [j, k, c]) {
    const n = draw.number;
    const sum = (at, unit) => {
      const { b } = layers[at];
      return `z${at}[${unit}] = ${n(z[at][unit] - b[unit])} + ` +
        `(${n(b[unit])}) = ${n(z[at][unit])}`;
    };
    return [
      line("Z1 = X · W1 + B1", sum(1, j), z[1], true),
      line("A1 = Sigmoid(Z1)", `a1[${j}] = Sigmoid(${n(z[1][j])}) = ` +
        n(a[1][j]), a[1], false),
      line("Z2 = A1 · W2 + B2", sum(2, k), z[2], true),
      line("A2 = Tanh(Z2)", `a2[${k}] = Tanh(${n(z[2][k])}) = ${n(a[2][k])}`,
        a[2], true),
      line("Z3 = A2 · W3 + B3", sum(3, c), z[3], true),
      line("A3 = Softmax(Z3)", `a3[${c}] = exp(${n(z[3][c])}) / Σ exp = ` +
        n(a[3][c]), a[3], false),
    ];
  }

  function backwardLines({ a }, { dZ, dA, gradient }, labels, [i, j, k, c]) {
    const n = draw.number;
    const found = network.layersOf(gradient);
    const y = labels[0] === c ? 1 : 0;
    const at = (layer, row, column) =>
      found[layer].w[row * found[layer].fanOut + column];
    const entry = (layer, row, column) => `dw${layer}[${row}, ${column}] = ` +
      `${n(a[layer - 1][row])} × (${n(dZ[layer][column])}) = ` +
      n(at(layer, row, column));
    return [
      line("dZ3 = A3 − Y", `dz3[${c}] = ${n(a[3][c])} − ${y} = ` +
        n(dZ[3][c]), dZ[3], true),
      line("dW3 = A2ᵀ · dZ3", entry(3, k, c), null),
      line("dB3 = dZ3", `db3[${c}] = ${n(found[3].b[c])}`, null),
      line("dA2 = dZ3 · W3ᵀ", `da2[${k}] = ${n(dA[2][k])}`, dA[2], true),
      line("dZ2 = dA2 ⊙ (1 − A2 ⊙ A2)", `dz2[${k}] = ${n(dA[2][k])} × ` +
        `(1 − ${n(a[2][k] ** 2)}) = ${n(dZ[2][k])}`, dZ[2], true),
      line("dW2 = A1ᵀ · dZ2", entry(2, j, k), null),
      line("dB2 = dZ2", `db2[${k}] = ${n(found[2].b[k])}`, null),
      line("dA1 = dZ2 · W2ᵀ", `da1[${j}] = ${n(dA[1][j])}`, dA[1], true),
      line("dZ1 = dA1 ⊙ (1 − A1) ⊙ A1", `dz1[${j}] = ${n(dA[1][j])} × ` +
        `(1 − ${n(a[1][j])}) × ${n(a[1][j])} = ${n(dZ[1][j])}`, dZ[1], true),
      line("dW1 = Xᵀ · dZ1", entry(1, i, j), null),
      line("dB1 = dZ1", `db1[${j}] = ${n(found[1].b[j])}`, null),
    ];
  }

  function setUpPasses(element, state, words) {
    const images = imageChoice();
    const slider = epochSlider();
    const unit = unitSlider(state);
    let [k, c] = [0, 3];
    let target = 0; // of an image that nobody labelled
    const second = draw.slider("passes.second", { min: 0, max: SECOND - 1,
      value: k }, String, (value) => show((k = value)));
    const third = draw.slider("passes.class", { min: 0, max: CLASSES - 1,
      value: c }, String, (value) => show((c = value)));
    const label = draw.slider("passes.label", { min: 0, max: CLASSES - 1,
      value: target }, String, (value) => show((target = value)));
    const said = el("p", { class: "said", role: "status" });
    const body = (word) => {
      const rows = el("tbody");
      const table = el("table", { class: "passes" }, el("caption", { word }),
        el("thead", {}, el("tr", {},
          ...["passes.formula", "passes.entry", "passes.all"].map(
            (head) => el("th", { scope: "col", word: head })))), rows);
      return { rows, element: el("div", { class: "wide", tabindex: 0,
        role: "region", label: word }, table) };
    };
    const forward = body("passes.forward");
    const backward = body("passes.backward");

    function show() {
      const theta = thetaNow();
      const x = network.scaled(book.pixels());
      const known = book.label();
      label.element.hidden = known !== null;
      const labels = [known === null ? target : known];
      const pass = network.forward(theta, x);
      const found = network.backward(theta, pass, labels);
      const j = unitOf(state);
      const i = x.indexOf(draw.largest(x));
      forward.rows.replaceChildren(
        ...forwardLines(pass, network.layersOf(theta), [j, k, c]));
      backward.rows.replaceChildren(
        ...backwardLines(pass, found, labels, [i, j, k, c]));
      const best = pass.a[3].indexOf(draw.largest(pass.a[3]));
      said.textContent = draw.fill("passes.said", { label: labels[0],
        best, percent: draw.probability(pass.a[3][best]),
        loss: draw.number(network.loss(pass, labels)) });
    }
    element.append(images.element, slider.element, unit.element, second.element,
      third.element, label.element, said, forward.element, backward.element,
      el("p", { class: "note", word: "passes.note" }));
    whenever(state, ["epoch", "image"], show, slider, images);
  }

  sections.register("tiles", setUpTiles);
  sections.register("unit", setUpUnit);
  sections.register("passes", setUpPasses);
})();
