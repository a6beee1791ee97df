"""What a gradient check measures: claims G1, G2, G3 and G5 (12.3).

  python -m experiments.gradient_check --preset=full

G1: the error of the two-sided difference is smaller than that of the
one-sided. Primary, all of: log of the ratio of the smallest errors over the
step h is below 0, in float64 and in float32. Secondary: the exponents 1 and 2
of the error against h, margin 0.1. Diagnostic: the valleys.
G2: a distance below 1e-7 is very satisfying, above 1e-2 calls for a re-check.
Primary, all of: correct code is below 1e-7 at h = 1e-5 in float64, at the start
and at the worst moment of training, over all parameters. Secondary: its worst
tensor; and that less than 5 % of all planted mistakes lie below 1e-7, or below
1e-2, without which the bars do not tell right from wrong.
G3: the error builds up with depth. Primary, all of: the exponent of the
distance against the number of layers is above 0, for tanh and for sigmoid.
Secondary: of the gradient's own rounding in float32. Diagnostic: whether the
deepest is still below 1e-7.
G5: do not forget regularisation; no check under dropout; check again as weights
grow. Primary, all of: L2 left out is caught, and a mistake that shows at large
weights alone is caught by checking again, in more than 85 % of runs each
(exact binomial); dropout is refused unless its masks are frozen, and checks
leave training bit for bit (tried out). Secondary: the distance grows.
Seeds: from 0; nothing is tuned. Test: Student's t over seeds, 95 % bootstrap
intervals, Holm over the secondaries of a claim.
Cost on two cores: full (30 seeds) an estimated 8 minutes; stopped, it goes on.
"""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments.gradient_check import figures, judge
from experiments.gradient_check import measure as measures
from mnist_jax import plotting, stats, training

DEPTH_BATCH = 16
ACTIVATIONS = ("tanh", "sigmoid")  # of the networks of G3
BATCH = 32  # of the checks in training

OPTIONS = (
  study.Option("seeds", 2, 30, "networks, batches and runs"),
  study.Option(
    "depths", (1, 2, 4, 8, 12), tuple(range(1, 13)), "layers", rises=2
  ),
  study.Option("epochs", 1, 5, "epochs trained between checks"),
  study.Option("mistakes", 6, 1000, "planted mistakes of the catalogue"),
)


def moments(values: SimpleNamespace) -> tuple[int, ...]:
  """The epochs after which the gradient is checked: 0, 1 and the last."""
  return tuple(sorted({0, 1, values.epochs}))


def _of_seed(
  lab: study.Lab, seed: int, values: SimpleNamespace
) -> list[dict[str, Any]]:
  """G1, G2 and G5 of one seed."""
  config = training.Settings().train_config()
  batch = measures.draw_batch(lab.dataset.train, BATCH, seed)
  params = training.init_state(config, seed).params
  errors = {
    f"{dtype}, {method}": error.tolist()
    for dtype in ("float64", "float32")
    for method, error in measures.error_against_step(
      params, config.activations, batch, judge.STEPS, np.dtype(dtype), seed
    ).items()
  }
  on_device = training.to_device(lab.dataset)
  checked = measures.distances_in_training(
    config, on_device, batch, moments(values), seed
  )
  return [{"errors": errors, "training": list(checked)}]


def _of_depth(
  lab: study.Lab, activation: str, depth: int, values: SimpleNamespace
) -> list[dict[str, Any]]:
  """G3 of one depth, all seeds."""
  return [
    measures.distance_at_depth(
      lab.dataset.train, depth, activation, DEPTH_BATCH, seed
    )
    for seed in range(values.seeds)
  ]


def _of_mistakes(
  lab: study.Lab, values: SimpleNamespace
) -> list[dict[str, float]]:
  """G2's other side."""
  config = training.Settings().train_config()
  return [
    measures.planted_distances(
      config, lab.dataset.train, BATCH, 0, values.mistakes
    )
  ]


def measure(lab: study.Lab, values: SimpleNamespace) -> judge.Measurements:
  by_seed = lab.collect(
    {
      f"seed {seed} to epoch {values.epochs}": functools.partial(
        _of_seed, lab, seed, values
      )
      for seed in range(values.seeds)
    },
    "seeds",
    at_once=True,
  )
  found = lab.collect(
    {
      f"{depth} layers, {activation}, {values.seeds} seeds": functools.partial(
        _of_depth, lab, activation, depth, values
      )
      for activation in ACTIVATIONS
      for depth in values.depths
    },
    "depths",
    at_once=True,
  )
  planted = lab.collect(
    {
      f"{values.mistakes} planted mistakes": functools.partial(
        _of_mistakes, lab, values
      )
    },
    "mistakes",
  )
  shape = len(ACTIVATIONS), len(values.depths), values.seeds
  by_depth = {
    f"{what}, {activation}": np.reshape([r[what] for r in found], shape)[i].T
    for i, activation in enumerate(ACTIVATIONS)
    for what in found[0]
  }
  return judge.Measurements(
    {
      tuple(key.split(", ")): np.array([r["errors"][key] for r in by_seed])
      for key in by_seed[0]["errors"]
    },
    values.depths,
    by_depth,
    moments(values),
    [record["training"] for record in by_seed],
    measures.dropout_and_training_facts(
      training.Settings().train_config(), training.to_device(lab.dataset), 0
    ),
    planted[0],
  )


def draw(
  found: judge.Measurements, values: SimpleNamespace
) -> dict[str, plotting.Figure]:
  curve = judge.training_curves(found.training)
  return {
    "error_vs_step": figures.error_vs_step(
      judge.STEPS, found.errors, judge.slopes(found.errors)
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
        "right, h = 1e-5": curve["plain all"],
        "right, h = 1e-7": curve["step_1e-7"],
        "right, several steps": curve["best"],
        "L2 term left out": curve["no_l2 distance"],
        "sigmoid' lost at |Z1| > 4": curve["late distance"],
      },
      label="epochs trained",
      title="Distance as training goes on",
    ),
  }


def judged(
  found: judge.Measurements, values: SimpleNamespace
) -> list[stats.Judged]:
  return judge.judged(found)


def summarise(
  found: judge.Measurements, values: SimpleNamespace
) -> dict[str, Any]:
  """The mean of what the figures show, and all that was measured."""
  rows = [
    {"what": f"distance, {dtype}, {method}", "at": step, "mean": mean}
    for (dtype, method), errors in found.errors.items()
    for step, mean in zip(judge.STEPS, errors.mean(axis=0), strict=True)
  ]
  rows += [
    {"what": f"distance by layers, {name}", "at": depth, "mean": mean}
    for name, each in found.by_depth.items()
    for depth, mean in zip(found.depths, each.mean(axis=0), strict=True)
  ]
  return {
    "summary.csv": pd.DataFrame(rows),
    "measurements.json": vars(found)
    | {
      "steps": judge.STEPS,
      "errors": {", ".join(key): each for key, each in found.errors.items()},
    },
  }


STUDY = study.Study("gradient_check", OPTIONS, measure, judged, draw, summarise)
