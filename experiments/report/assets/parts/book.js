// The bundle's arrays, what of them is looked at, and how the interactive parts
// draw: elements, tiles, numbers.
"use strict";

const book = (() => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  // Undoes bundle.py's `pack`: (zeros, others, the others) again and again.
  function unpack(packed, length) {
    const values = new Uint8Array(length);
    let at = 0;
    for (let i = 0; i < packed.length; ) {
      at += packed[i];
      const others = packed[i + 1];
      values.set(packed.subarray(i + 2, i + 2 + others), at);
      at += others;
      i += 2 + others;
    }
    return values;
  }

  function half(bits) {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    return exponent
      ? sign * 2 ** (exponent - 15) * (1 + fraction)
      : sign * 2 ** -14 * fraction;
  }

  const once = (make) => {
    const made = new Map();
    return (key) => made.get(key) || made.set(key, make(key)).get(key);
  };

  const epochs = BUNDLE.epochs;
  const theta = once((i) => {
    const { type, theta: text } = epochs[i];
    const { buffer } = bytes(text);
    return type === "float16"
      ? Float64Array.from(new Uint16Array(buffer), half)
      : Float64Array.from(new Float32Array(buffer));
  });
  // "train", "dev" or "test": {count, pixels, labels}, 784 pixels an image.
  const examples = once((name) => {
    const { count, images, labels } = BUNDLE[name];
    return {
      count,
      pixels: unpack(bytes(images), count * network.SIZES[0]),
      labels: bytes(labels),
    };
  });

  const listeners = { epoch: [], image: [], drawn: [] };
  const FIRST = 7; // a 3 that the trained network reads wrong
  const given = (name, values, otherwise) => {
    const at = values.indexOf(Number(state.get(name) || NaN));
    return at < 0 ? otherwise : at;
  };
  // Of the bundle's test images, or -1 for the pad's.
  let image = given("image", BUNDLE.test.indices, FIRST);
  let drawn = new Uint8Array(network.SIZES[0]);
  let epoch = given("epoch", epochs.map((each) => each.epoch),
    epochs.length - 1);
  const tell = (name) => listeners[name].forEach((listener) => listener());

  return {
    epochs,
    theta,
    examples,
    // What is looked at: weights after an epoch, and an image.
    epoch: () => epoch,
    image: () => image,
    pixels() {
      const size = network.SIZES[0];
      const { pixels } = examples("test");
      return image < 0
        ? drawn
        : pixels.subarray(image * size, (image + 1) * size);
    },
    drawn: () => drawn,
    // Of the image; of a drawn one nobody knows it.
    label: () => (image < 0 ? null : examples("test").labels[image]),
    lookAt(chosen) {
      if ("epoch" in chosen) epoch = chosen.epoch;
      if ("image" in chosen) image = chosen.image;
      if ("drawn" in chosen) drawn = chosen.drawn;
      if ("epoch" in chosen) state.set("epoch", epochs[epoch].epoch);
      if ("image" in chosen) {
        state.set("image", image < 0 ? "" : BUNDLE.test.indices[image]);
      }
      Object.keys(chosen).forEach(tell);
      if ("drawn" in chosen && image < 0) tell("image");
    },
    // To "epoch", "image" (that is looked at) or "drawn".
    subscribe: (name, listener) => listeners[name].push(listener),
  };
})();

const draw = (() => {
  // An element; `word` is the key of its text, `label` that of its label.
  function el(tag, { word, label, ...rest } = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(rest)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    if (word) {
      element.dataset.word = word;
      element.textContent = words(word);
    }
    if (label) {
      element.dataset.label = label;
      element.setAttribute("aria-label", words(label));
    }
    element.append(...children);
    return element;
  }

  let ids = 0;
  const newId = (stem) => `${stem}-${(ids += 1)}`;

  // A labelled slider whose value is told in words beside it.
  function slider(word, { min, max, step = 1, value }, tell, changed) {
    const id = newId("slider");
    const input = el("input", { type: "range", id, min, max, step, value });
    const output = el("output", { for: id });
    const show = () => {
      output.textContent = tell(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      show();
      changed(Number(input.value));
    });
    show();
    return {
      element: el("div", { class: "control" },
        el("label", { for: id, word }), input, output),
      show,
      set(to) {
        input.value = to;
        show();
      },
    };
  }

  // A labelled choice: pairs (value, text), told anew by fill().
  function choice(word, options, changed) {
    const id = newId("choice");
    const select = el("select", { id });
    const fill = () => {
      const { value } = select;
      select.replaceChildren(
        ...options().map(([of, text]) => el("option", { value: of }, text)));
      if (value) select.value = value;
    };
    fill();
    select.addEventListener("change", () => changed(select.value));
    return {
      element: el("div", { class: "control" },
        el("label", { for: id, word }), select),
      fill,
      set: (value) => (select.value = value),
    };
  }

  // From dark blue over grey to yellow, as cividis: lighter is always more, so
  // that it reads in grey and by the colour-blind.
  const RAMP = [[0, 32, 81], [60, 77, 110], [127, 124, 117], [187, 175, 113],
    [253, 234, 69]];
  function colour(t) {
    const at = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1);
    const i = Math.min(Math.floor(at), RAMP.length - 2);
    return RAMP[i].map((c, k) => c + (at - i) * (RAMP[i + 1][k] - c));
  }

  const PALETTE = Uint32Array.from({ length: 256 }, (_, i) => {
    const [r, g, b] = colour(i / 255).map(Math.round);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });

  // One pixel of the canvas for each value, `from` darkest and `to` lightest.
  function paint(canvas, values, width, from, to) {
    const height = values.length / width;
    canvas.width = width;
    canvas.height = height;
    const picture = new ImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const scale = 255 / (to - from || 1);
    for (let i = 0; i < pixels.length; i++) {
      const level = (values[i] - from) * scale;
      pixels[i] = PALETTE[Math.min(Math.max(Math.round(level) || 0, 0), 255)];
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  // A canvas that says what it shows.
  function tile(label, size = "small") {
    return el("canvas", { class: `tile ${size}`, role: "img", label });
  }

  // The colours between two values, told as text.
  function legend(tell) {
    const strip = el("canvas", { class: "strip", "aria-hidden": "true" });
    paint(strip, Float64Array.from({ length: 64 }, (_, i) => i), 64, 0, 63);
    const ends = [el("span"), el("span")];
    const show = (texts = tell()) =>
      texts.forEach((text, i) => (ends[i].textContent = text));
    show();
    return { element: el("span", { class: "scale" }, ends[0], strip, ends[1]),
      show };
  }

  const largest = (values) =>
    values.reduce((top, value) => Math.max(top, Math.abs(value)), 0);

  // The size that all but one in so many values stay below.
  function nearlyLargest(values, oneIn) {
    const sizes = Float64Array.from(values, Math.abs).sort();
    return sizes[Math.floor(sizes.length * (1 - 1 / oneIn))];
  }

  // Four digits, a minus that is one, small and large with a power of ten.
  function number(value, digits = 4) {
    if (!Number.isFinite(value)) return String(value);
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e5)
      ? value.toExponential(digits - 2)
      : value.toPrecision(digits).replace(/(\.\d*?)0+$/, "$1")
        .replace(/\.$/, "");
    return text.replaceAll("-", "\u2212");
  }

  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  // Of a probability, which is never quite 0 or 1.
  const probability = (p) =>
    p > 0.9995 ? "> 99.9 %" : p < 0.0005 ? "< 0.1 %" : percent(p);

  // The string of a key with its {names} filled in.
  const fill = (key, values) =>
    words(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);

  return { el, slider, choice, paint, tile, legend, largest, nearlyLargest,
    number, percent, probability, fill };
})();
