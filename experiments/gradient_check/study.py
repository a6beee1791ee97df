"""Checks the backward of the chapter's network, and the chapter's claims on it.

  python -m experiments.gradient_check                      # 2 minutes
  python -m experiments.gradient_check --preset=full        # 30 seeds
  python -m experiments.gradient_check --inject=dw2_sign    # break it yourself

Prints the check of every parameter on a batch of MNIST: the verdict, the place
and the cause. Without --inject it also measures the error against the step
(G1), in training (G2, G5) and with depth (G3), and writes figures and verdicts.
With --inject=NAME the backward has that fault; --inject=list shows all names.
Exit code 1: the gradient is wrong, as it is with a fault in it.
"""

import datetime
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments._shared import flags as shared
from experiments._shared import study
from experiments.gradient_check import figures, judge
from experiments.gradient_check import measure as check_study
from mnist_jax import data, gradcheck, plotting
from mnist_jax.gradcheck import _differences as finite_differences
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.gradcheck.network import check as network_gradcheck
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import environment
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop, run_directory

FLAGS = flags.FLAGS
RUNS = Path("runs/gradient_check")
ALL_DEPTHS = tuple(range(1, 13))
DEPTH_BATCH = 16
PRESETS: dict[str, dict[str, Any]] = {
  "quick": {"seeds": 2, "depths": (1, 2, 4, 8, 12), "epochs": (0, 1)},
  "full": {"seeds": 30, "depths": ALL_DEPTHS, "epochs": (0, 1, 5)},
}
_FAILED = (gradcheck.Verdict.WRONG, gradcheck.Verdict.NOT_FINITE)


def define_flags() -> None:
  shared.use("preset")
  flags.DEFINE_string("inject", None, "a fault to plant, or list")
  shared.use(
    *("hidden_sizes", "activations", "initializer", "l2", "dropout"),
    *("learning_rate", "batch_size", "seed", *shared.DATA_FLAGS),
    *("workdir", "overwrite"),
  )
  FLAGS.set_default("batch_size", 32)
  FLAGS.set_default("l2", 0.001)


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def chapter_name(path: str) -> str:
  """W1 for "[0].w"."""
  layer, _, kind = path.strip("[").partition("].")
  return f"{kind.upper()}{int(layer) + 1}"


def blame(report: gradcheck.Report) -> str:
  """In which layer the mistake is, from which tensors are wrong."""
  wrong = [chapter_name(path) for path in report.wrong_tensors]
  if not wrong:
    return ""
  layer = max(int(name[1:]) for name in wrong)
  below = sorted(name for name in wrong if int(name[1:]) < layer)
  text = f"wrong: {', '.join(wrong)}. Looked at from the output, layer {layer} "
  text += "is the first that is"
  if below:
    text += ": the mistake is in its dZ, or before; the rest follows from it"
  return text


def check(
  params: mlp.Params,
  names: tuple[mlp.Activation, ...],
  batch: objective.Batch,
  masks: objective.Masks,
) -> tuple[dict[str, network_gradcheck.TermReport], plotting.Figure]:
  """Term by term, with the fault if one was asked for; and the residuals."""
  l2 = FLAGS.l2 or None
  seam = network_gradcheck.value_and_grad_of("hand", names)
  subject = network_gradcheck.Subject(params, names, batch, l2, masks)
  candidates = None
  if FLAGS.inject:
    right = subject.gradient(seam)
    seam = catalogue.find(FLAGS.inject, names).value_and_grad(names)
    candidates = catalogue.known_mistakes(names)
    if not catalogue.differing(right, subject.gradient(seam)):
      raise InputError(
        f"--inject={FLAGS.inject} changes nothing here (l2 {FLAGS.l2:g}, "
        f"dropout {FLAGS.dropout:g}): expected a fault that does"
      )
  terms = network_gradcheck.check_network(
    params,
    names,
    batch,
    l2,
    masks,
    value_and_grad=seam,
    dropout_rate=FLAGS.dropout,
    candidates=candidates,
  )
  given = subject.gradient(seam)
  numeric = subject.numeric(check_study.PLAIN_STEP)
  paths = finite_differences.flatten(params, "params")[0].paths
  figure = figures.residual_map(
    [chapter_name(path) for path in paths],
    [np.asarray(x) for x in jax.tree.leaves(given)],
    [np.asarray(x) for x in jax.tree.leaves(numeric)],
  )
  return terms, figure


def table(terms: dict[str, network_gradcheck.TermReport]) -> str:
  """A line a term, then the whole report of the last, which has them all."""
  lines = [
    f"{'term':<9}{'verdict':<18}{'hand - numeric':>15}"
    f"{'jax.grad - numeric':>20}{'hand - jax.grad':>17}"
  ]
  for name, term in terms.items():
    lines.append(
      f"{name:<9}{term.hand.verdict:<18}{term.hand.distance:>15.2e}"
      f"{term.autodiff.distance:>20.2e}{term.between:>17.2e}"
    )
  last = list(terms.values())[-1].hand
  text = "\n".join([*lines, "", str(last)])
  place = blame(last)
  return f"{text}\n{place}" if place else text


def measure(
  config: loop.TrainConfig, dataset: data.Dataset
) -> judge.Measurements:
  """The studies of G1, G2, G3 and G5, seed by seed."""
  preset = PRESETS[FLAGS.preset]
  seeds = range(FLAGS.seed, FLAGS.seed + preset["seeds"])
  on_device = loop.to_device(dataset)
  errors: dict[tuple[str, str], list[np.ndarray]] = {}
  by_depth: dict[str, list[list[float]]] = {}
  training = []
  begun = time.monotonic()
  for seed in seeds:
    batch = check_study.draw_batch(dataset.train, FLAGS.batch_size, seed)
    params = loop.init_state(config, seed).params
    for dtype in ("float64", "float32"):
      found = check_study.error_against_step(
        params,
        config.activations,
        batch,
        judge.STEPS,
        np.dtype(dtype),
        seed,
      )
      for method, error in found.items():
        errors.setdefault((dtype, method), []).append(error)
    moments = check_study.distances_in_training(
      config,
      on_device,
      preset["epochs"],
      seed,
      learning_rate=FLAGS.learning_rate,
      l2=FLAGS.l2,
      batch_size=FLAGS.batch_size,
    )
    training.append(list(moments))
    say(f"seed {seed}: steps and training, {time.monotonic() - begun:.0f} s")
  for activation in ("tanh", "sigmoid"):
    rows: dict[str, list[list[float]]] = {}
    for depth in preset["depths"]:
      for row, seed in enumerate(seeds):
        found_here = check_study.distance_at_depth(
          dataset.train, depth, activation, DEPTH_BATCH, seed
        )
        for what, value in found_here.items():
          kept = rows.setdefault(f"{what}, {activation}", [])
          if row == len(kept):
            kept.append([])
          kept[row].append(value)
      say(f"{depth} layers, {activation}: {time.monotonic() - begun:.0f} s")
    by_depth |= rows
  return judge.Measurements(
    {key: np.stack(rows) for key, rows in errors.items()},
    preset["depths"],
    {name: np.array(rows) for name, rows in by_depth.items()},
    preset["epochs"],
    training,
    check_study.dropout_and_training_facts(config, on_device, FLAGS.seed),
  )


def draw(
  found: judge.Measurements,
) -> dict[str, plotting.Figure]:
  def curve(*keys: str) -> np.ndarray:
    return judge.training_curve(found.training, *keys)

  return {
    "error_vs_step": figures.error_vs_step(
      judge.STEPS,
      found.errors,
      judge.slopes(found.errors),
    ),
    "distance_vs_depth": figures.distances(
      np.array(found.depths),
      found.by_depth,
      label="layers",
      title="Distance against depth: numeric at h = 1e-5, and float32's own",
    ),
    "distance_vs_training": figures.distances(
      np.array(found.epochs),
      {
        "right, h = 1e-5": curve("plain", "all"),
        "right, h = 1e-7": curve("step_1e-7"),
        "right, several steps": curve("best"),
        "L2 term left out": curve("no_l2", "distance"),
        "sigmoid' lost at |Z1| > 4": curve("late", "distance"),
      },
      label="epochs trained",
      title="Distance as training goes on",
    ),
  }


def plain(found: judge.Measurements) -> dict[str, Any]:
  """All that was measured, for JSON."""
  return {
    "steps": judge.STEPS.tolist(),
    "errors": {", ".join(k): v.tolist() for k, v in found.errors.items()},
    "depths": list(found.depths),
    "by_depth": {k: v.tolist() for k, v in found.by_depth.items()},
    "epochs": list(found.epochs),
    "training": [list(seed) for seed in found.training],
    "facts": dict(found.facts),
  }


def run_studies(
  run: run_directory.RunDirectory,
  config: loop.TrainConfig,
  dataset: data.Dataset,
) -> None:
  """Measures, judges, draws and records the claims."""
  begun = time.monotonic()
  found = measure(config, dataset)
  parts = judge.parts(found)
  for name, figure in draw(found).items():
    run.write_bytes(f"{name}.png", plotting.render(figure, "png"))
  run.write_json("measurements.json", plain(found))
  with run.replacing("verdict.json") as path:
    study.write_verdict(
      path,
      parts,
      preset=FLAGS.preset,
      values=PRESETS[FLAGS.preset] | {"first_seed": FLAGS.seed},
      wall_seconds=time.monotonic() - begun,
      data_digest=dataset.digest,
    )
  print("\n".join(study.verdict_lines(parts)))


def default_workdir() -> Path:
  return RUNS / datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]


def main(_: list[str]) -> None:
  names = tuple(FLAGS.activations)
  if FLAGS.inject == "list":
    for fault in catalogue.catalogue(names).values():
      print(f"{fault.name:<24}{fault.text}")
    return
  if FLAGS.inject:
    catalogue.find(FLAGS.inject, names)
  config = loop.TrainConfig(
    (784, *map(int, FLAGS.hidden_sizes), 10), names, FLAGS.initializer
  )
  dataset = shared.load_dataset()
  batch = check_study.draw_batch(dataset.train, FLAGS.batch_size, FLAGS.seed)
  params = loop.init_state(config, FLAGS.seed).params
  masks = None
  if FLAGS.dropout:
    key = jax.random.key(FLAGS.seed)
    masks = mlp.dropout_masks(key, params, FLAGS.batch_size, FLAGS.dropout)
  recorded = {
    "flags": shared.flag_values(without=("workdir", "overwrite", "data_dir"))
    | {"preset": FLAGS.preset, "inject": FLAGS.inject},
    "seed": FLAGS.seed,
    "data_digest": dataset.digest,
    **environment.describe(),
  }
  workdir = Path(FLAGS.workdir) if FLAGS.workdir else default_workdir()
  with run_directory.open_run(
    workdir, recorded, overwrite=FLAGS.overwrite
  ) as run:
    terms, figure = check(params, names, batch, masks)
    print(table(terms))
    run.write_bytes("report.txt", f"{table(terms)}\n".encode())
    run.write_json("report.json", {k: v.to_dict() for k, v in terms.items()})
    run.write_bytes("residual_map.png", plotting.render(figure, "png"))
    failed = any(t.hand.verdict in _FAILED for t in terms.values())
    if not FLAGS.inject and not failed:
      run_studies(run, config, dataset)
    print(f"written to {run.path}")
  if failed:
    sys.exit(1)
