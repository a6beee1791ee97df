"""From what `check_study` measured to the parts of G1, G2, G3 and G5.

All judged together, with Holm over the whole family; targets, margins and
ranges of fits are the constants here, fixed before the run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mnist_jax.gradcheck._report import VERY_SATISFYING
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
Moments = Sequence[Sequence[Mapping[str, Any]]]  # [S][K]


@dataclasses.dataclass(frozen=True)
class Measurements:
  """All that was measured.

  Attributes:
    errors: by (precision, method) the distances at STEPS.
    depths: the numbers of layers.
    by_depth: by what was compared and the activation, [S, depths].
    epochs: after which the gradient was checked.
    training: for each seed `check_study.distances_in_training`'s moments.
    facts: by name of a part of G5 (in words), whether it is so.
  """

  errors: Errors
  depths: tuple[int, ...]
  by_depth: Mapping[str, Float[np.ndarray, "S K"]]
  epochs: tuple[int, ...]
  training: Moments
  facts: Mapping[str, bool]


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


def _ends(training: Moments) -> Moments:
  """The first and the last moment of each run."""
  return [[seed[0], seed[-1]] for seed in training]


def training_curve(training: Moments, *keys: str) -> Float[np.ndarray, "S K"]:
  """One number of every moment, found under the keys one after the other."""

  def number(moment: Any) -> float:
    for key in keys:
      moment = moment[key]
    return float(moment)

  return np.array([[number(m) for m in seed] for seed in training])


def _worst_tensor(training: Moments) -> Float[np.ndarray, "S K"]:
  return np.array(
    [
      [max(v for k, v in m["plain"].items() if k != "all") for m in seed]
      for seed in training
    ]
  )


def _of_steps(errors: Errors) -> list[Question]:
  fitted = slopes(errors)
  questions = [
    Question(
      "G1",
      f"{method.replace('_', '-')} slope",
      f"error of the {method.replace('_', '-')} difference ~ h^{order}, "
      "float64",
      fitted["float64", method][0],
      "same",
      order,
      SLOPE_MARGIN,
    )
    for method, order in (("one_sided", 1.0), ("two_sided", 2.0))
  ]
  for dtype in ("float64", "float32"):
    least, valley = {}, {}
    for method in ("one_sided", "two_sided"):
      y = np.nan_to_num(errors[dtype, method], nan=np.inf)
      least[method] = np.log10(y.min(axis=1))
      valley[method] = np.log10(STEPS[y.argmin(axis=1)])
    questions += [
      Question(
        "G1",
        f"best two-sided better, {dtype}",
        "log10 of the smallest error over h, two-sided less one-sided",
        paired_difference(least["two_sided"], least["one_sided"], seed=0),
        "less",
      ),
      Question(
        "G1",
        f"valley, {dtype}",
        "log10 h of the smallest error, two-sided less one-sided",
        paired_difference(valley["two_sided"], valley["one_sided"], seed=0),
        note="valleys at 10^"
        + " and 10^".join(f"{v.mean():.2f}" for v in valley.values())
        + " (one-, two-sided)",
      ),
    ]
  return questions


def _below(name: str, text: str, values: np.ndarray) -> Question:
  effect = mean_interval(np.log10(values), seed=0)
  target = float(np.log10(VERY_SATISFYING))
  return Question("G2", name, text, effect, "less", target)


def _of_training(training: Moments) -> list[Question]:
  whole = training_curve(training, "plain", "all")
  worst = _worst_tensor(training)
  late = training_curve(_ends(training), "late", "caught")
  no_l2 = training_curve(_ends(training), "no_l2", "caught")
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
      mean_interval(no_l2.mean(axis=1), seed=0),
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
