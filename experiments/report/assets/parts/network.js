// The chapter's network, 784-64-16-10: forward, and backward by hand, in the
// book's terms (section 12.2). No state: all are functions of their arguments,
// on Float64Arrays; the page and its worker both have them.
//
// theta is all parameters, W1, B1, W2, B2, W3, B3, each row by row. m examples
// lie row after row: x is m x 784. Layers count from 1, as in the chapter.
"use strict";

const network = (() => {
  const SIZES = [784, 64, 16, 10];
  const LAST = SIZES.length - 1;
  const TENSORS = ["W1", "B1", "W2", "B2", "W3", "B3"];
  const COUNT = SIZES.slice(1).reduce((sum, n, k) => sum + (SIZES[k] + 1) * n, 0);

  const sigmoid = (z) => 1 / (1 + Math.exp(-z));
  const ACTIVATIONS = [null, sigmoid, Math.tanh];
  // In terms of the activation's output: (1 - A) A, and 1 - A A.
  const DERIVATIVES = [null, (a) => (1 - a) * a, (a) => 1 - a * a];

  // The layers of theta as views of it; layers[k] has W and B of layer k.
  function layersOf(theta) {
    const layers = [null];
    let at = 0;
    for (let k = 1; k <= LAST; k++) {
      const [fanIn, fanOut] = [SIZES[k - 1], SIZES[k]];
      const end = at + fanIn * fanOut;
      layers.push({
        fanIn,
        fanOut,
        at, // where W begins in theta; B begins at end
        end,
        w: theta.subarray(at, end),
        b: theta.subarray(end, end + fanOut),
      });
      at = end + fanOut;
    }
    return layers;
  }

  // Where each tensor lies in theta, in the order of TENSORS.
  function tensors() {
    return layersOf(new Float64Array(COUNT))
      .slice(1)
      .flatMap(({ at, end, fanIn, fanOut }, i) => [
        { name: TENSORS[2 * i], from: at, to: end, shape: [fanIn, fanOut] },
        { name: TENSORS[2 * i + 1], from: end, to: end + fanOut,
          shape: [1, fanOut] },
      ]);
  }

  // Z = A . W + B
  function affine(a, { w, b, fanIn, fanOut }, m) {
    const z = new Float64Array(m * fanOut);
    for (let n = 0; n < m; n++) {
      const row = z.subarray(n * fanOut, (n + 1) * fanOut);
      row.set(b);
      for (let i = 0; i < fanIn; i++) {
        const value = a[n * fanIn + i];
        if (value === 0) continue; // most pixels are
        const at = i * fanOut;
        for (let j = 0; j < fanOut; j++) row[j] += value * w[at + j];
      }
    }
    return z;
  }

  function softmax(z, width) {
    const a = new Float64Array(z.length);
    for (let at = 0; at < z.length; at += width) {
      let top = -Infinity;
      let sum = 0;
      for (let c = 0; c < width; c++) top = Math.max(top, z[at + c]);
      for (let c = 0; c < width; c++) {
        sum += a[at + c] = Math.exp(z[at + c] - top);
      }
      for (let c = 0; c < width; c++) a[at + c] /= sum;
    }
    return a;
  }

  // Every Z and A: a[0] is X, a[3] the probabilities.
  function forward(theta, x) {
    const layers = layersOf(theta);
    const m = x.length / SIZES[0];
    const z = [null];
    const a = [x];
    for (let k = 1; k <= LAST; k++) {
      z.push(affine(a[k - 1], layers[k], m));
      const f = ACTIVATIONS[k];
      a.push(f ? z[k].map((value) => f(value)) : softmax(z[k], SIZES[k]));
    }
    return { m, z, a };
  }

  // -ln softmax(z)[label], of 10 logits that begin at `at`, in nats.
  function crossEntropy(z, at, label) {
    let top = -Infinity;
    let sum = 0;
    for (let c = 0; c < SIZES[LAST]; c++) top = Math.max(top, z[at + c]);
    for (let c = 0; c < SIZES[LAST]; c++) sum += Math.exp(z[at + c] - top);
    return top + Math.log(sum) - z[at + label];
  }

  // J: the mean cross-entropy of the examples, in nats.
  function loss({ m, z }, labels) {
    let sum = 0;
    for (let n = 0; n < m; n++) {
      sum += crossEntropy(z[LAST], n * SIZES[LAST], labels[n]);
    }
    return sum / m;
  }

  function accuracy({ m, z }, labels) {
    let right = 0;
    for (let n = 0; n < m; n++) {
      const row = z[LAST].subarray(n * SIZES[LAST], (n + 1) * SIZES[LAST]);
      if (row.indexOf(Math.max(...row)) === labels[n]) right++;
    }
    return right / m;
  }

  // A^T . dZ
  function outer(a, dz, fanIn, fanOut, m) {
    const dw = new Float64Array(fanIn * fanOut);
    for (let n = 0; n < m; n++) {
      for (let i = 0; i < fanIn; i++) {
        const value = a[n * fanIn + i];
        if (value === 0) continue;
        const at = i * fanOut;
        const from = n * fanOut;
        for (let j = 0; j < fanOut; j++) dw[at + j] += value * dz[from + j];
      }
    }
    return dw;
  }

  function columnSums(dz, width) {
    const sums = new Float64Array(width);
    for (let at = 0; at < dz.length; at++) sums[at % width] += dz[at];
    return sums;
  }

  // dZ . W^T
  function through(dz, { w, fanIn, fanOut }, m) {
    const da = new Float64Array(m * fanIn);
    for (let n = 0; n < m; n++) {
      for (let i = 0; i < fanIn; i++) {
        let sum = 0;
        for (let j = 0; j < fanOut; j++) {
          sum += dz[n * fanOut + j] * w[i * fanOut + j];
        }
        da[n * fanIn + i] = sum;
      }
    }
    return da;
  }

  // Y, one row of zeros and a one for each label.
  function oneHot(labels) {
    const y = new Float64Array(labels.length * SIZES[LAST]);
    labels.forEach((label, n) => (y[n * SIZES[LAST] + label] = 1));
    return y;
  }

  // The gradient of J in theta, and every dZ and dA on the way to it.
  //
  // spoil(site, layer, value, at, dz) stands between each formula and what is
  // made of it, so that a mistake can be planted there; the sites are those of
  // mnist_jax.gradcheck.faults.
  function backward(theta, pass, labels, spoil = (site, k, value) => value) {
    const { m, a } = pass;
    const layers = layersOf(theta);
    const gradient = new Float64Array(COUNT);
    const found = layersOf(gradient);
    const at = { layers, pass, labels };
    const shares = spoil("shares", LAST, new Float64Array(m).fill(1 / m), at);
    const y = oneHot(labels);
    let dz = spoil("residual", LAST, a[LAST].map((p, i) => p - y[i]), at);
    dz = dz.map((value, i) => value * shares[Math.floor(i / SIZES[LAST])]);
    const dZ = [];
    const dA = [];
    for (let k = LAST; k >= 1; k--) {
      const layer = layers[k];
      dZ[k] = dz;
      const dw = outer(a[k - 1], dz, layer.fanIn, layer.fanOut, m);
      found[k].w.set(spoil("dw", k, dw, at, dz));
      found[k].b.set(spoil("db", k, columnSums(dz, layer.fanOut), at, dz));
      if (k === 1) break;
      const da = spoil("da", k - 1, through(dz, layer, m), at, dz);
      const prime = DERIVATIVES[k - 1];
      const slope = a[k - 1].map((value) => prime(value));
      const spoilt = spoil("derivative", k - 1, slope, at);
      dA[k - 1] = da;
      dz = da.map((value, i) => value * spoilt[i]);
    }
    return { gradient, dZ, dA };
  }

  // w <- w - eta dw, in place (section 12.4).
  function update(theta, gradient, rate) {
    for (let i = 0; i < theta.length; i++) theta[i] -= rate * gradient[i];
  }

  // One update on the examples; returns J before it.
  function step(theta, x, labels, rate) {
    const pass = forward(theta, x);
    update(theta, backward(theta, pass, labels).gradient, rate);
    return loss(pass, labels);
  }

  // The loss of example n if unit j of layer k had `by` more in its Z. What
  // follows changes by one product, and not by a whole layer's.
  function lossWith(pass, layers, n, k, j, by, label) {
    let z = pass.z[k].slice(n * SIZES[k], (n + 1) * SIZES[k]);
    z[j] += by;
    if (k < LAST) {
      const old = pass.a[k][n * SIZES[k] + j];
      const change = ACTIVATIONS[k](z[j]) - old;
      const { w, fanOut } = layers[k + 1];
      z = pass.z[k + 1].slice(n * fanOut, (n + 1) * fanOut);
      for (let c = 0; c < fanOut; c++) z[c] += change * w[j * fanOut + c];
      for (let next = k + 1; next < LAST; next++) {
        z = affine(z.map((v) => ACTIVATIONS[next](v)), layers[next + 1], 1);
      }
    }
    return crossEntropy(z, 0, label);
  }

  // (J(theta + h) - J(theta - h)) / 2h for every parameter (section 12.3).
  function numericGradient(theta, x, labels, h) {
    const pass = forward(theta, x);
    const layers = layersOf(theta);
    const gradient = new Float64Array(COUNT);
    for (let k = 1; k <= LAST; k++) {
      const { at, end, fanIn, fanOut } = layers[k];
      for (let i = 0; i <= fanIn; i++) { // i = fanIn is the bias, its input 1
        const row = i < fanIn ? at + i * fanOut : end;
        for (let n = 0; n < pass.m; n++) {
          const input = i < fanIn ? pass.a[k - 1][n * fanIn + i] : 1;
          if (input === 0) continue; // both losses are J
          for (let j = 0; j < fanOut; j++) {
            const more = [n, k, j, h * input, labels[n]];
            const less = [n, k, j, -h * input, labels[n]];
            gradient[row + j] +=
              (lossWith(pass, layers, ...more) -
                lossWith(pass, layers, ...less)) / (2 * h * pass.m);
          }
        }
      }
    }
    return gradient;
  }

  // The chapter's diff: |a - b| / (|a| + |b|), 0 where both are 0.
  function distance(a, b, from = 0, to = a.length) {
    let [difference, left, right] = [0, 0, 0];
    for (let i = from; i < to; i++) {
      difference += (a[i] - b[i]) ** 2;
      left += a[i] ** 2;
      right += b[i] ** 2;
    }
    const size = Math.sqrt(left) + Math.sqrt(right);
    return size ? Math.sqrt(difference) / size : 0;
  }

  // Grey levels 0 to 255 as X, 0 to 1.
  const scaled = (pixels) =>
    new Float64Array(pixels).map((level) => level / 255);

  return Object.freeze({
    SIZES, LAST, COUNT, ACTIVATIONS, DERIVATIVES, layersOf, tensors, forward,
    loss, accuracy, softmax, oneHot, outer, backward, update, step,
    numericGradient, distance, scaled,
  });
})();
