"""From what `measure` measured to the parts of G1, G2, G3 and G5.

All judged together, with Holm over the whole family; targets, margins and
ranges of fits are the constants here, fixed before the run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax.gradcheck import VERY_SATISFYING
from mnist_jax.stats.effects import Effect, mean_interval, paired_difference
from mnist_jax.stats.slopes import loglog_slope
from mnist_jax.stats.verdicts import Part, Question, derived, judge

STEPS = 10.0 ** np.arange(0, -12.1, -0.5)
# Between too large for Taylor's second term and too small for rounding.
FIT_RANGES = {
  ("float64", "one_sided"): (1e-5, 1e-1),
  ("float64", "two_sided"): (1e-3, 1e-1),
  ("float32", "one_sided"): (3e-2, 4e-1),
  ("float32", "two_sided"): (9e-2, 4e-1),
}
SLOPE_MARGIN = 0.1
CAUGHT = 0.9  # the fraction that must be exceeded
Errors = Mapping[tuple[str, str], Float[np.ndarray, "S K"]]
Moments = Sequence[Sequence[dict[str, Any]]]  # [S][K]
Curves = Mapping[str, Float[np.ndarray, "S K"]]


@dataclasses.dataclass(frozen=True)
class Measurements:
  """All that was measured."""

  errors: Errors  # the distances at STEPS
  depths: tuple[int, ...]  # numbers of layers
  by_depth: Curves  # by what was compared and the activation
  epochs: tuple[int, ...]  # after which the gradient was checked
  training: Moments  # of `measure.distances_in_training`
  facts: Mapping[str, bool]  # whether a part of G5, in words, is so


def slopes(
  errors: Errors,
) -> dict[tuple[str, str], tuple[Effect, tuple[float, float]]]:
  """The fitted exponents with the ranges of the fits."""
  found = {}
  for key, (low, high) in FIT_RANGES.items():
    inside = (low <= STEPS) & (high >= STEPS)
    x, y = STEPS[inside][::-1], errors[key][:, inside][:, ::-1]
    found[key] = loglog_slope(x, y, seed=0), (low, high)
  return found


def training_curves(training: Moments) -> Curves:
  """Each number of the moments, "plain all" for moment["plain"]["all"].

  "caught" is NaN between the first and the last moment.
  """
  seeds = [pd.json_normalize(list(seed), sep=" ") for seed in training]
  return {
    name: np.stack([seed[name].astype(float) for seed in seeds])
    for name in seeds[0].columns.drop("verdict", errors="ignore")
  }


def _of_steps(errors: Errors) -> list[Question]:
  fitted = slopes(errors)
  questions = [
    Question(
      "G1",
      f"{name} slope",
      f"error of the {name} difference ~ h^{order}, float64",
      fitted["float64", name.replace("-", "_")][0],
      "same",
      order,
      SLOPE_MARGIN,
    )
    for name, order in (("one-sided", 1.0), ("two-sided", 2.0))
  ]
  for dtype in ("float64", "float32"):
    both = [errors[dtype, method] for method in ("one_sided", "two_sided")]
    y = np.nan_to_num(both, nan=np.inf)
    least = np.log10(y.min(axis=2))
    valley = np.log10(STEPS[y.argmin(axis=2)])
    places = [f"10^{mean:.2f}" for mean in valley.mean(axis=1)]
    questions += [
      Question(
        "G1",
        f"best two-sided better, {dtype}",
        "log10 of the smallest error over h, two-sided less one-sided",
        paired_difference(least[1], least[0], seed=0),
        "less",
      ),
      Question(
        "G1",
        f"valley, {dtype}",
        "log10 h of the smallest error, two-sided less one-sided",
        paired_difference(valley[1], valley[0], seed=0),
        note=f"valleys at {' and '.join(places)} (one-, two-sided)",
      ),
    ]
  return questions


def _below(name: str, text: str, values: np.ndarray) -> Question:
  effect = mean_interval(np.log10(values), seed=0)
  target = float(np.log10(VERY_SATISFYING))
  return Question("G2", name, text, effect, "less", target)


def _of_training(training: Moments) -> list[Question]:
  curves = training_curves(training)
  whole, late = curves["plain all"], curves["late caught"]
  tensors = [curves[name] for name in curves if name.startswith("plain [")]
  worst = np.max(tensors, axis=0)
  text = "log10 distance at h = 1e-5, float64"
  return [
    _below("all, at the start", f"{text}, all parameters", whole[:, 0]),
    _below("worst tensor, at the start", f"{text}, worst tensor", worst[:, 0]),
    _below(
      "all, in training",
      f"{text}, all parameters, worst moment",
      whole.max(axis=1),
    ),
    _below(
      "worst tensor, in training",
      f"{text}, worst tensor and moment",
      worst.max(axis=1),
    ),
    Question(
      "G5",
      "leaving L2 out is caught",
      "fraction of the checks, before training and after, that catch it",
      mean_interval(curves["no_l2 caught"][:, [0, -1]].mean(axis=1), seed=0),
      "greater",
      CAUGHT,
    ),
    Question(
      "G5",
      "distance grows in training",
      f"{text}, after the last epoch less before the first",
      paired_difference(np.log10(whole[:, -1]), np.log10(whole[:, 0]), seed=0),
    ),
    Question(
      "G5",
      "checking again finds what the first check cannot",
      "fraction of runs in which a mistake made at large |Z1| alone is caught, "
      "after the last epoch less before the first",
      paired_difference(late[:, -1], late[:, 0], seed=0),
    ),
  ]


def parts(found: Measurements) -> list[Part]:
  """All parts of G1, G2, G3 and G5, judged."""
  questions = _of_steps(found.errors) + _of_training(found.training)
  for name, y in found.by_depth.items():
    effect = loglog_slope(np.array(found.depths, np.float64), y, seed=0)
    text = f"exponent of the distance against the number of layers, {name}"
    questions.append(Question("G3", name, text, effect))
  return judge(questions) + [
    derived("G5", name, name, truth) for name, truth in found.facts.items()
  ]
