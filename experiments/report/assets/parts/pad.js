// A pad to draw a digit on, and what the book's network makes of it.
"use strict";

const pad = (() => {
  const SIDE = 280; // pixels of the drawing
  const MARGIN = 20; // of a saved picture around it, so that no stroke is cut
  const PEN = 12; // radius
  const LEVELS = 15; // of ink; few, so that none is taken for the ground
  const STEP = 14; // of an arrow key: a pixel of MNIST

  // Ink in fifteenths. The strokes are rasterised here, not by the canvas, so
  // that the same strokes are the same picture in every browser.
  const ink = new Uint8Array(SIDE * SIDE);

  // A disc moved from one point to the other.
  function stroke([x0, y0], [x1, y1]) {
    const reach = PEN + 1;
    const [dx, dy] = [x1 - x0, y1 - y0];
    const length = dx * dx + dy * dy;
    const range = (a, b) => [
      Math.max(Math.floor(Math.min(a, b) - reach), 0),
      Math.min(Math.ceil(Math.max(a, b) + reach), SIDE - 1),
    ];
    const [left, right] = range(x0, x1);
    const [top, bottom] = range(y0, y1);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const t = length ? ((x - x0) * dx + (y - y0) * dy) / length : 0;
        const along = Math.min(Math.max(t, 0), 1);
        const away = Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
        const cover = Math.min(Math.max(PEN + 0.5 - away, 0), 1);
        const level = Math.round(LEVELS * cover);
        const p = y * SIDE + x;
        if (level > ink[p]) ink[p] = level;
      }
    }
  }

  const image = () =>
    prepare.prepared(Float64Array.from(ink, (n) => n / LEVELS), SIDE);

  // White strokes on black with a margin, as experiments.predict reads it.
  function picture() {
    const canvas = document.createElement("canvas");
    const side = SIDE + 2 * MARGIN;
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const pixels = new ImageData(side, side);
    for (let p = 3; p < pixels.data.length; p += 4) pixels.data[p] = 255;
    ink.forEach((level, p) => {
      const row = Math.floor(p / SIDE) + MARGIN;
      const at = 4 * (row * side + (p % SIDE) + MARGIN);
      pixels.data.fill((255 / LEVELS) * level, at, at + 3);
    });
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  function probabilities(pixels) {
    const theta = book.theta(book.epochs.length - 1);
    return network.forward(theta, network.scaled(pixels));
  }

  // The three layers and the ten probabilities, for an image or for none.
  function layersPanel() {
    const { el } = draw;
    const tiles = {
      input: draw.tile("pad.input", "medium"),
      first: draw.tile("pad.first", "medium"),
      second: draw.tile("pad.second", "medium"),
    };
    const rows = Array.from({ length: 10 }, (_, digit) => {
      const bar = el("span", { class: "bar", "aria-hidden": "true" });
      const value = el("td", { class: "number" });
      const row = el("tr", {}, el("th", { scope: "row" }, String(digit)),
        value, el("td", { class: "bars" }, bar));
      return { row, value, bar };
    });
    const table = el("table", { class: "probabilities" },
      el("caption", { word: "pad.probabilities" }),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col", word: "table.digit" }),
        el("th", { scope: "col", word: "pad.percent" }), el("td"))),
      el("tbody", {}, ...rows.map(({ row }) => row)));
    const figure = (canvas, word, ends) => el("figure", {}, canvas,
      el("figcaption", {}, el("span", { word }), el("br"),
        draw.legend(() => ends).element));
    const numbers = el("tbody");
    const element = el("div", { class: "layers" },
      figure(tiles.input, "pad.input", ["0", "1"]),
      figure(tiles.first, "pad.first", ["0", "1"]),
      figure(tiles.second, "pad.second", ["−1", "1"]), table,
      el("details", {}, el("summary", { word: "numbers" }),
        el("table", {}, el("thead", {}, el("tr", {},
          el("th", { scope: "col", word: "table.layer" }),
          el("th", { scope: "col", word: "table.unit" }),
          el("th", { scope: "col" }, "Z"),
          el("th", { scope: "col" }, "A"))), numbers)));
    const details = element.querySelector("details");
    let shown = null;

    function list() {
      if (!details.open) return;
      const lines = [];
      for (let k = 1; shown && k <= network.LAST; k++) {
        shown.a[k].forEach((a, unit) => lines.push(el("tr", {},
          ...[k, unit, draw.number(shown.z[k][unit]), draw.number(a)]
            .map((text) => el("td", { class: "number" }, String(text))))));
      }
      numbers.replaceChildren(...lines);
    }
    details.addEventListener("toggle", list);

    return { element, show(pixels) {
      shown = pixels && probabilities(pixels);
      const none = (count) => new Float64Array(count);
      const [, a1, a2, a3] = shown ? shown.a : [0, none(64), none(16), none(10)];
      draw.paint(tiles.input, pixels || none(784), 28, 0, 255);
      draw.paint(tiles.first, a1, 8, 0, 1);
      draw.paint(tiles.second, a2, 4, -1, 1);
      const best = a3.indexOf(Math.max(...a3));
      rows.forEach(({ row, value, bar }, digit) => {
        row.className = shown && digit === best ? "best" : "";
        value.textContent = shown ? draw.probability(a3[digit]) : "";
        bar.style.width = `${100 * a3[digit]}%`;
      });
      list();
      return shown && { digit: best, share: a3[best] };
    } };
  }

  // Draws by mouse, finger, pen and keys; calls changed(ended) after each.
  function surface(changed) {
    const canvas = draw.el("canvas", {
      class: "pad", tabindex: 0, role: "application", label: "pad.label",
      "aria-describedby": "pad-keys", width: SIDE, height: SIDE,
    });
    const context = canvas.getContext("2d");
    let last = null; // where the pointer that draws was
    let cursor = null; // that of the keys, [x, y]
    let down = false;

    // While a pointer draws, once a frame is enough.
    let waiting = false;
    function soon() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        show();
        changed(false);
      });
    }

    function show() {
      const style = getComputedStyle(canvas);
      const pixels = new ImageData(SIDE, SIDE);
      for (let p = 0; p < ink.length; p++) {
        pixels.data[4 * p + 3] = (255 / LEVELS) * ink[p];
      }
      context.putImageData(pixels, 0, 0);
      // Strokes in the colour of the text, whichever theme it is.
      context.globalCompositeOperation = "source-in";
      context.fillStyle = style.color;
      context.fillRect(0, 0, SIDE, SIDE);
      context.globalCompositeOperation = "source-over";
      if (!cursor) return;
      context.beginPath();
      context.arc(...cursor, PEN, 0, 2 * Math.PI);
      context.lineWidth = down ? 5 : 2;
      context.strokeStyle = style.outlineColor;
      context.stroke();
    }

    function place(event) {
      const box = canvas.getBoundingClientRect();
      const style = getComputedStyle(canvas);
      const [left, top] = [style.borderLeftWidth, style.borderTopWidth];
      const scale = (client, from, border, size) =>
        ((client - from - parseFloat(border)) / size) * SIDE - 0.5;
      return [scale(event.clientX, box.left, left, canvas.clientWidth),
        scale(event.clientY, box.top, top, canvas.clientHeight)];
    }

    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      cursor = null;
      last = place(event);
      stroke(last, last);
      soon();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last || !event.isPrimary) return;
      const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const each of all.length ? all : [event]) {
        const to = place(each);
        stroke(last, to);
        last = to;
      }
      soon();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        if (!last) return;
        last = null;
        show();
        changed(true);
      });
    }

    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
      ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = ARROWS[event.key];
      if (arrow) {
        const from = cursor || [SIDE / 2, SIDE / 2];
        const size = event.shiftKey ? STEP / 4 : STEP;
        cursor = from.map((at, i) =>
          Math.min(Math.max(at + size * arrow[i], PEN), SIDE - PEN));
        if (down) stroke(from, cursor);
      } else if (event.key === " " || event.key === "Enter") {
        cursor = cursor || [SIDE / 2, SIDE / 2];
        down = !down;
        if (down) stroke(cursor, cursor);
      } else if (event.key === "Delete" || event.key === "Backspace") {
        ink.fill(0);
        down = false;
      } else return;
      event.preventDefault();
      show();
      changed(true, down);
    });
    canvas.addEventListener("blur", () => {
      cursor = null;
      down = false;
      show();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    return { canvas, show };
  }

  function setUp(element, state, words) {
    const { el } = draw;
    const layers = layersPanel();
    const said = el("p", { class: "said", role: "status" });
    let result = null;
    let penDown = false;

    function say() {
      const pen = penDown ? ` ${words("pad.pen")}` : "";
      said.textContent = (result
        ? draw.fill("pad.says", { digit: result.digit,
          percent: draw.probability(result.share) })
        : words("pad.blank")) + pen;
    }
    function changed(ended, down = false) {
      penDown = down;
      const pixels = image();
      result = layers.show(pixels);
      if (ended && pixels) book.lookAt({ drawn: pixels });
      say();
    }

    const { canvas, show } = surface(changed);
    const clear = () => {
      ink.fill(0);
      show();
      changed(true);
    };
    const save = () => {
      const link = el("a", { download: "digit.png",
        href: picture().toDataURL("image/png") });
      link.click();
    };
    element.append(
      el("div", { class: "drawpad" }, canvas,
        el("div", { class: "buttons" },
          el("button", { type: "button", word: "pad.clear", onclick: clear }),
          el("button", { type: "button", word: "pad.save", onclick: save })),
        el("p", { id: "pad-keys", class: "note", word: "pad.keys" })),
      el("div", { class: "reading" }, said, layers.element),
      el("p", { class: "note", word: "pad.note" }),
      el("pre", {}, el("code", {}, "python -m experiments.train\n" +
        "python -m experiments.predict --run=runs/train/TIME digit.png")));
    state.subscribe("lang", say);
    show();
    changed(false);
  }

  sections.register("pad", setUp);
  return { SIDE, image, picture, probabilities };
})();
