// Trains the chapter's network on 2,000 images in the page, in a worker, and
// draws the loss as it falls, or does not.
"use strict";

const training = (() => {
  const EPOCHS = 40;
  const CHECKED = 8; // examples of a gradient check
  const H = 1e-5; // its step
  const GUESSING = Math.log(10); // nats, of ten digits alike
  const RECENT = 20; // updates whose mean loss is said
  const POINTS = 300; // of a curve
  const REDRAW = 100; // milliseconds between two drawings
  const RUNS = 4; // shown: the one of now and those before

  const MANTISSAS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const RATES = [-3, -2, -1, 0, 1].flatMap((power) =>
    MANTISSAS.map((m) => Number(`${m}e${power}`))).concat([100]);
  const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2000];

  const nearest = (values, wanted) => {
    const away = values.map((v) => Math.abs(Math.log(v / wanted)));
    return away.indexOf(Math.min(...away));
  };

  function worker() {
    const source = document.getElementById("worker-source").textContent;
    const url = URL.createObjectURL(
      new Blob([source], { type: "text/javascript" }));
    return new Worker(url);
  }

  // Means of the losses, in ever wider buckets so that there are few.
  function curve() {
    let width = 1; // updates in a bucket
    let buckets = []; // {sum, count}
    return {
      add(loss) {
        const last = buckets[buckets.length - 1];
        if (last && last.count < width) {
          last.sum += loss;
          last.count += 1;
        } else buckets.push({ sum: loss, count: 1 });
        if (buckets.length <= POINTS) return;
        const merged = [];
        for (let i = 0; i < buckets.length; i += 2) {
          const [a, b] = [buckets[i], buckets[i + 1] || { sum: 0, count: 0 }];
          merged.push({ sum: a.sum + b.sum, count: a.count + b.count });
        }
        buckets = merged;
        width *= 2;
      },
      // [updates, mean loss] at the middle of each bucket.
      points: () => buckets.map(({ sum, count }, i) =>
        [i * width + count / 2, sum / count]),
    };
  }

  // The curves of the runs as SVG, `width` pixels wide.
  function plot(runs, width) {
    const NS = "http://www.w3.org/2000/svg";
    const height = 300;
    const [left, right, top, bottom] = [46, 10, 12, 44];
    const svg = (tag, attributes, ...children) => {
      const element = document.createElementNS(NS, tag);
      for (const [name, value] of Object.entries(attributes)) {
        element.setAttribute(name, value);
      }
      element.append(...children);
      return element;
    };
    // The scale is the newest run's; those before may leave it.
    const all = runs.slice(-1)
      .flatMap((run) => [...run.curve.points(), ...run.epochs.map((each) =>
        [each.epoch, each.loss])])
      .map(([, loss]) => loss).filter(Number.isFinite);
    const most = Math.min(Math.max(2.5, ...all) * 1.05, 12);
    const last = Math.max(1, ...runs.map((run) => run.updates / run.perEpoch));
    const x = (epoch) => left + (epoch / last) * (width - left - right);
    const y = (loss) =>
      top + (1 - Math.min(loss, most) / most) * (height - top - bottom);
    const path = (points) => points.filter(([, loss]) => Number.isFinite(loss))
      .map(([at, loss]) => `${x(at).toFixed(1)},${y(loss).toFixed(1)}`)
      .join(" ");
    const step = (span) => {
      const rough = span / 5;
      const power = 10 ** Math.floor(Math.log10(rough));
      return power * [1, 2, 5, 10].find((n) => n * power >= rough);
    };
    const ticks = (end) => {
      const size = step(end);
      return Array.from({ length: Math.floor(end / size + 1e-9) + 1 },
        (_, i) => i * size);
    };
    const text = (at, label, anchor, more = {}) => svg("text",
      { x: at[0], y: at[1], "text-anchor": anchor, ...more }, label);
    const short = (value) => String(Number(value.toPrecision(3)));
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height,
      class: "plot", role: "img", "aria-label": words("train.plot") });
    for (const loss of ticks(most)) {
      root.append(svg("line", { class: "grid", x1: left, x2: width - right,
        y1: y(loss), y2: y(loss) }));
      root.append(text([left - 6, y(loss) + 4], short(loss), "end"));
    }
    for (const epoch of ticks(last)) {
      root.append(text([x(epoch), height - bottom + 18], short(epoch),
        "middle"));
    }
    root.append(
      text([(left + width) / 2, height - 6], words("train.x"), "middle"),
      text([12, (height - bottom) / 2], words("train.y"), "middle",
        { transform: `rotate(-90 12 ${(height - bottom) / 2})` }),
      svg("line", { class: "guessing", x1: left, x2: width - right,
        y1: y(GUESSING), y2: y(GUESSING) }),
      text([width - right, y(GUESSING) - 5], words("train.guessing"), "end"));
    runs.forEach((run, i) => {
      const line = run.curve.points()
        .map(([at, loss]) => [at / run.perEpoch, loss]);
      const dev = run.epochs.map(({ epoch, loss }) => [epoch, loss]);
      const kind = `run-${runs.length - 1 - i}`;
      root.append(svg("polyline", { class: `train ${kind}`,
        points: path(line) }));
      if (i < runs.length - 1) return;
      root.append(svg("polyline", { class: `dev ${kind}`, points: path(dev) }));
      for (const [at, loss] of dev.filter(([, l]) => Number.isFinite(l))) {
        root.append(svg("circle", { class: `dev ${kind}`, r: 3, cx: x(at),
          cy: y(loss) }));
      }
    });
    return root;
  }

  // What is to be said of a run.
  function verdict(run) {
    const recent = run.recent.reduce((a, b) => a + b, 0) / run.recent.length;
    const said = { updates: run.updates, loss: draw.number(recent, 3),
      rate: run.rate, batch: run.batch, recent: run.recent.length };
    if (run.ended === "not finite") return draw.fill("train.not_finite", said);
    const at = run.epochs[run.epochs.length - 1];
    if (!at || !run.updates) return run.ended ? "" : words("train.waiting");
    if (recent > GUESSING) {
      // At the very start the loss may rise and still come down.
      const late = run.updates >= 2 * RECENT && at.epoch >= 2;
      return draw.fill(late ? "train.diverges" : "train.above", said);
    }
    return draw.fill("train.falls", { ...said, epoch: at.epoch,
      accuracy: draw.percent(at.accuracy) });
  }

  function rowsOf(run) {
    return run.epochs.map(({ epoch, loss, accuracy, mean }) =>
      draw.el("tr", {}, ...[epoch, epoch * run.perEpoch,
        mean === null ? "" : draw.number(mean), draw.number(loss),
        draw.percent(accuracy)].map((text) =>
        draw.el("td", { class: "number" }, String(text)))));
  }

  function setUp(element, state, words) {
    const { el } = draw;
    const started = worker();
    const runs = []; // that are shown, the newest last
    let current = null; // what the worker has: that, or weights to check
    let checked = null;
    let busy = false; // a check is under way

    const chosen = () => ({ rate: Number(state.get("rate")) || 0.2,
      batch: Number(state.get("batch")) || 128 });
    const rate = draw.slider("train.rate", { min: 0, max: RATES.length - 1,
      value: nearest(RATES, chosen().rate) }, (i) => String(RATES[i]),
    (i) => state.set("rate", RATES[i]));
    const batch = draw.slider("train.batch", { min: 0, max: BATCHES.length - 1,
      value: nearest(BATCHES, chosen().batch) },
    (i) => draw.fill("train.examples", { count: BATCHES[i] }),
    (i) => state.set("batch", BATCHES[i]));
    state.subscribe("rate", () => rate.set(nearest(RATES, chosen().rate)));
    state.subscribe("batch", () => batch.set(nearest(BATCHES, chosen().batch)));

    const figure = el("div", { class: "figure" });
    const keys = el("ul", { class: "keys" });
    const said = el("p", { class: "said", role: "status" });
    const live = el("p", { class: "note" });
    const result = el("div", { role: "status" });
    const rows = el("tbody");
    const details = el("details", {}, el("summary", { word: "numbers" }),
      el("table", {}, el("thead", {}, el("tr", {}, ...["train.epoch",
        "train.updates", "train.mean", "train.dev_loss", "train.dev_accuracy"]
        .map((word) => el("th", { scope: "col", word })))), rows));

    function show() {
      const width = Math.max(280, Math.round(figure.clientWidth || 600));
      figure.replaceChildren(plot(runs, width));
      keys.replaceChildren(...runs.map((run, i) => el("li", {},
        el("span", { class: `key run-${runs.length - 1 - i}` }),
        draw.fill("train.key", run))));
      const run = runs[runs.length - 1];
      if (!run) return;
      // Read aloud at the end, not at every update.
      const ended = run.ended && `${words(run.ended === "stopped"
        ? "train.stopped" : "train.ended")} ${verdict(run)}`;
      if (said.textContent !== ended) said.textContent = ended;
      live.textContent = ended ? "" : verdict(run);
      stop.disabled = Boolean(ended);
      if (details.open) rows.replaceChildren(...rowsOf(run));
    }

    // Messages may come faster than the figure can be drawn.
    let waiting = false;
    function soon() {
      if (waiting) return;
      waiting = true;
      setTimeout(() => {
        waiting = false;
        show();
      }, REDRAW);
    }

    function post(type, more = {}) {
      started.postMessage({ type, ...more });
    }
    function begin(more = {}) {
      const { pixels, labels, count } = book.examples("train");
      const size = { rate: RATES[nearest(RATES, chosen().rate)],
        batch: BATCHES[nearest(BATCHES, chosen().batch)] };
      const run = { ...size, id: performance.now(), updates: 0, ended: "",
        perEpoch: Math.ceil(count / size.batch), curve: curve(), epochs: [],
        recent: [], inEpoch: [], theta: null };
      current = run;
      if (more.updates !== 0) runs.push(run);
      if (runs.length > RUNS) runs.shift();
      const { pixels: dev, labels: devLabels } = book.examples("dev");
      post("start", { ...size, id: run.id, epochs: EPOCHS,
        theta: book.theta(0).slice(), train: { pixels, labels },
        dev: { pixels: dev, labels: devLabels }, ...more });
      checked = null;
      tell();
      show();
    }

    function progress(message) {
      const run = current;
      if (message.id !== run.id || run.ended) return;
      const { losses, epoch, ended, updates } = message;
      losses.forEach((loss) => run.curve.add(loss));
      run.inEpoch.push(...losses);
      run.recent = [...run.recent, ...losses].slice(-RECENT);
      run.updates = updates;
      run.ended = ended;
      if (epoch) {
        const mean = run.inEpoch.length
          ? run.inEpoch.reduce((a, b) => a + b) / run.inEpoch.length : null;
        run.epochs.push({ ...epoch, mean });
        run.inEpoch = [];
      }
      soon();
    }

    function tell() {
      if (!checked) {
        result.replaceChildren(busy ? words("train.checking") : "");
        return;
      }
      const { updates, distance, tensors } = checked;
      result.replaceChildren(
        el("p", {}, draw.fill("train.checked", { updates, h: "10⁻⁵",
          examples: CHECKED, count: network.COUNT.toLocaleString("en"),
          distance: draw.number(distance, 3),
          band: words(mistakes.band(distance)) })),
        mistakes.table(tensors));
    }

    started.onmessage = ({ data: message }) => {
      if (message.type === "progress") progress(message);
      else {
        [checked, busy] = [message, false];
        tell();
      }
    };
    const stop = el("button", { type: "button", word: "train.stop",
      onclick() {
        post("stop");
        current.ended = "stopped";
        show();
      } });
    stop.disabled = true;
    element.append(
      rate.element, batch.element,
      el("div", { class: "buttons" },
        el("button", { type: "button", word: "train.start",
          onclick: () => begin() }), stop,
        el("button", { type: "button", word: "train.check", onclick() {
          if (!current) begin({ updates: 0 });
          [checked, busy] = [null, true];
          tell();
          post("check", { examples: CHECKED, h: H });
        } })),
      said, live, figure, keys,
      el("p", { class: "note", word: "train.lines" }), details, result,
      el("p", { class: "note", word: "train.note" }));
    details.addEventListener("toggle", show);
    new ResizeObserver(() => show()).observe(element);
    state.subscribe("lang", () => {
      [rate, batch].forEach((each) => each.show());
      tell();
      show();
    });
    show();
  }

  sections.register("training", setUp);
  return { worker };
})();
