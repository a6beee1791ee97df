// Trains the chapter's network in the worker: started, stopped, asked by
// messages. network.js stands before this in the worker's source.
"use strict";

const trainer = (() => {
  const SIZE = network.SIZES[0];
  const SLICE = 40; // milliseconds of training between two messages

  let run = null;

  // A permutation that a seed gives (mulberry32, Fisher and Yates).
  function shuffled(count, seed) {
    let a = seed >>> 0;
    const random = () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  function examples({ pixels, labels }, order) {
    const batch = new Uint8Array(order.length * SIZE);
    order.forEach((index, n) =>
      batch.set(pixels.subarray(index * SIZE, (index + 1) * SIZE), n * SIZE));
    return { x: network.scaled(batch),
      labels: order.map((index) => labels[index]) };
  }

  // The examples of the update that comes next; the last of an epoch may be
  // fewer. An order that was given is that of the first epoch.
  function next() {
    const { train, batch, seed } = run;
    if (!run.order) {
      run.order = run.given || shuffled(train.labels.length, seed + run.epoch);
      run.given = null;
    }
    const chosen = run.order.slice(run.at, run.at + batch);
    run.at += batch;
    return examples(train, chosen);
  }

  function judge({ pixels, labels }) {
    const pass = network.forward(run.theta, network.scaled(pixels));
    return { loss: network.loss(pass, labels),
      accuracy: network.accuracy(pass, labels) };
  }

  const finite = () => run.losses.every(Number.isFinite);

  // At least one update, and more until the slice or the epoch is over; then
  // lets messages in, and goes on.
  function work(current) {
    if (run !== current || run.ended) return;
    const until = performance.now() + SLICE;
    let epoch = null;
    run.losses = [];
    while (!epoch && run.updates < run.last) {
      const { x, labels } = next();
      run.losses.push(network.step(run.theta, x, labels, run.rate));
      run.updates += 1;
      if (run.at >= run.order.length) {
        [run.at, run.order] = [0, null];
        run.epoch += 1;
        epoch = { epoch: run.epoch, ...judge(run.dev) };
      }
      if (performance.now() > until) break;
    }
    const ended = !finite() ? "not finite"
      : run.updates >= run.last || run.epoch >= run.epochs ? "done" : "";
    run.ended = ended;
    postMessage({ type: "progress", id: run.id, updates: run.updates,
      losses: run.losses, epoch, ended, theta: ended ? run.theta : null });
    if (!ended) setTimeout(work, 0, current);
  }

  // theta, train and dev {pixels, labels}, rate, batch, epochs; for a test the
  // order of the first epoch and the number of updates as well.
  function start(asked) {
    run = { ...asked, given: asked.order || null, order: null, at: 0, epoch: 0,
      updates: 0, last: asked.updates ?? Infinity, seed: asked.seed || 0,
      ended: "", losses: [] };
    postMessage({ type: "progress", id: run.id, updates: 0, losses: [],
      epoch: { epoch: 0, ...judge(run.dev) }, ended: "", theta: null });
    work(run);
  }

  // The gradient at the weights of now, of some examples, against differences.
  function check({ examples: count, h }) {
    const { x, labels } = examples(run.train,
      Array.from({ length: count }, (_, i) => i));
    const pass = network.forward(run.theta, x);
    const { gradient } = network.backward(run.theta, pass, labels);
    const numeric = network.numericGradient(run.theta, x, labels, h);
    const tensors = network.tensors().map(({ name, from, to }) =>
      ({ name, count: to - from,
        distance: network.distance(gradient, numeric, from, to) }));
    postMessage({ type: "checked", id: run.id, updates: run.updates, tensors,
      distance: network.distance(gradient, numeric) });
  }

  return { start, check, stop: () => run && (run.ended = "stopped") };
})();

onmessage = ({ data }) => trainer[data.type](data);
