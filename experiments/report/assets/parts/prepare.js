// A drawing brought to the form of MNIST's images, as mnist_jax.data.picture
// does it for clean strokes: specks left out, thin strokes widened, the longer
// side 20 pixels, the centre of mass at pixel (14, 14) of 28x28.
"use strict";

const prepare = (() => {
  const SIDE = 28;
  const BOX = 20;
  const CENTRE = 14;
  const EDGE = 0.08; // of full ink: where a digit ends
  const SPECK = 0.02; // of the largest stroke's ink: what is no part of it
  const THINNEST = 2; // pixels of MNIST

  // A grid of ink, 0 to 1: {values, width, height}.
  const grid = (values, width) =>
    ({ values, width, height: values.length / width });

  // Ties to the even number, as Python and NumPy do.
  function rint(x) {
    const floor = Math.floor(x);
    if (x - floor !== 0.5) return Math.round(x);
    return floor % 2 ? floor + 1 : floor;
  }

  // True on strokes: pieces that hang together, corners included, less specks.
  function strokes({ values, width, height }) {
    const piece = new Int32Array(values.length);
    const weights = [0];
    for (let start = 0; start < values.length; start++) {
      if (piece[start] || values[start] <= EDGE) continue;
      const label = weights.push(0) - 1;
      const todo = [start];
      piece[start] = label;
      while (todo.length) {
        const p = todo.pop();
        weights[label] += values[p];
        const [x, y] = [p % width, Math.floor(p / width)];
        for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
          for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
            const q = v * width + u;
            if (piece[q] || values[q] <= EDGE) continue;
            piece[q] = label;
            todo.push(q);
          }
        }
      }
    }
    const least = SPECK * Math.max(...weights);
    return Uint8Array.from(piece, (label) => (weights[label] > least ? 1 : 0));
  }

  // Without the rows and columns around that are 0; null where all is.
  function cut({ values, width, height }) {
    let [left, right, top, bottom] = [width, -1, height, -1];
    values.forEach((value, p) => {
      if (!value) return;
      const [x, y] = [p % width, Math.floor(p / width)];
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    });
    if (right < 0) return null;
    const wide = right - left + 1;
    const kept = new Float64Array(wide * (bottom - top + 1));
    for (let y = top; y <= bottom; y++) {
      const from = y * width;
      kept.set(values.subarray(from + left, from + right + 1), (y - top) * wide);
    }
    return grid(kept, wide);
  }

  // Squared distances to the nearest 0 along one line, in place
  // (Felzenszwalb & Huttenlocher 2012, section 2).
  function lowerEnvelope(f, n, d, v, z) {
    let k = 0;
    v[0] = 0;
    z[0] = -Infinity;
    z[1] = Infinity;
    for (let q = 1; q < n; q++) {
      let s;
      do {
        const r = v[k];
        s = (f[q] + q * q - f[r] - r * r) / (2 * (q - r));
      } while (s <= z[k] && --k > -1);
      k += 1;
      v[k] = q;
      z[k] = s;
      z[k + 1] = Infinity;
    }
    k = 0;
    for (let q = 0; q < n; q++) {
      while (z[k + 1] < q) k += 1;
      d[q] = (q - v[k]) ** 2 + f[v[k]];
    }
  }

  // The mean distance of a mask's pixels to the nearest outside of it.
  function meanDistance(mask, width) {
    const [wide, high] = [width + 2, mask.length / width + 2];
    const far = 1e6; // squared; larger than any, and exact beside squares
    const squared = new Float64Array(wide * high);
    mask.forEach((inside, p) => {
      const row = Math.floor(p / width) + 1;
      if (inside) squared[row * wide + (p % width) + 1] = far;
    });
    const n = Math.max(wide, high);
    const [f, d, v, z] = [n, n, n, n + 1].map((size) => new Float64Array(size));
    const along = (start, stride, length) => {
      for (let i = 0; i < length; i++) f[i] = squared[start + i * stride];
      lowerEnvelope(f, length, d, v, z);
      for (let i = 0; i < length; i++) squared[start + i * stride] = d[i];
    };
    for (let x = 0; x < wide; x++) along(x, wide, high);
    for (let y = 0; y < high; y++) along(y * wide, 1, wide);
    let [sum, count] = [0, 0];
    for (const value of squared) {
      if (!value) continue;
      sum += Math.sqrt(value);
      count += 1;
    }
    return sum / count;
  }

  // Strokes thinner than MNIST's are widened by a disc, else they would fade.
  function thicken({ values, width }, kept) {
    const { width: w, height: h } = cut(grid(kept, width));
    const pixel = Math.max(w, h) / BOX;
    const stroke = 4 * meanDistance(kept, width);
    const radius = Math.trunc((THINNEST * pixel - stroke) / 2);
    const ink = values.map((value, p) => (kept[p] ? value : 0));
    if (radius < 1) return grid(ink, width);
    const wide = width + 2 * radius;
    const high = values.length / width + 2 * radius;
    const wider = new Float64Array(wide * high);
    const disc = [];
    for (let y = -radius; y <= radius; y++) {
      for (let x = -radius; x <= radius; x++) {
        if (x * x + y * y <= radius * radius) disc.push(y * wide + x);
      }
    }
    ink.forEach((value, p) => {
      if (!value) return;
      const row = Math.floor(p / width) + radius;
      const at = row * wide + (p % width) + radius;
      for (const by of disc) wider[at + by] = Math.max(wider[at + by], value);
    });
    return grid(wider, wide);
  }

  function hamming(x) {
    if (x === 0) return 1;
    if (Math.abs(x) >= 1) return 0;
    const t = Math.PI * x;
    return (Math.sin(t) / t) * (0.54 + 0.46 * Math.cos(t));
  }

  // Which inputs make each output, by Pillow's resampling with that filter.
  function weightsOf(input, output) {
    const scale = input / output;
    const support = Math.max(scale, 1);
    return Array.from({ length: output }, (_, out) => {
      const centre = (out + 0.5) * scale;
      const from = Math.max(Math.trunc(centre - support + 0.5), 0);
      const to = Math.min(Math.trunc(centre + support + 0.5), input);
      const weights = [];
      for (let i = from; i < to; i++) {
        weights.push(hamming((i - centre + 0.5) / support));
      }
      const sum = weights.reduce((a, b) => a + b);
      return { from, weights: weights.map((weight) => weight / sum) };
    });
  }

  function resize({ values, width, height }, wide, high) {
    const across = weightsOf(width, wide);
    const down = weightsOf(height, high);
    // Pillow keeps float32 between the two passes.
    const half = new Float32Array(wide * height);
    const whole = new Float32Array(wide * high);
    for (let y = 0; y < height; y++) {
      across.forEach(({ from, weights }, x) => {
        half[y * wide + x] = weights.reduce(
          (sum, w, i) => sum + w * values[y * width + from + i], 0);
      });
    }
    down.forEach(({ from, weights }, y) => {
      for (let x = 0; x < wide; x++) {
        whole[y * wide + x] = weights.reduce(
          (sum, w, i) => sum + w * half[(from + i) * wide + x], 0);
      }
    });
    return grid(whole, wide);
  }

  // To a longer side of BOX, aspect kept, the brightest pixel 1.
  function fit(ink) {
    const scale = BOX / Math.max(ink.height, ink.width);
    const side = (length) => Math.max(1, rint(length * scale));
    const { values, width } = resize(ink, side(ink.width), side(ink.height));
    const top = values.reduce((a, b) => Math.max(a, b), 0);
    return grid(Float64Array.from(values, (value) => value / top), width);
  }

  // Into 28x28 by whole pixels, the centre of mass nearest CENTRE.
  function centred({ values, width, height }) {
    let [sum, x, y] = [0, 0, 0];
    values.forEach((value, p) => {
      sum += value;
      x += value * (p % width);
      y += value * Math.floor(p / width);
    });
    const before = (mass, length) =>
      Math.min(Math.max(rint(CENTRE - mass), 0), SIDE - length);
    const [left, top] = [before(x / sum, width), before(y / sum, height)];
    const image = new Uint8Array(SIDE * SIDE);
    values.forEach((value, p) => {
      const row = Math.floor(p / width) + top;
      image[row * SIDE + (p % width) + left] = rint(255 * value);
    });
    return image;
  }

  // 784 grey levels, 0 to 255; null where nothing is drawn. `ink` is 0 to 1 on
  // a ground of exactly 0, with nothing at the border of the picture.
  function prepared(ink, width) {
    const drawn = cut(grid(ink, width));
    if (!drawn) return null;
    const kept = strokes(drawn);
    return kept.some(Boolean) ? centred(fit(cut(thicken(drawn, kept)))) : null;
  }

  return { SIDE, prepared };
})();
