"""Effects of arms that were tuned, with the doubt about the tuning in them.

An arm's setting is chosen of K candidates by its mean over T tuning seeds, and
judged on S other seeds. Had other seeds tuned it, it might have been another
candidate: an interval that takes the choice as given is too short, and a choice
on the judged seeds favours the arm with more candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Int, Real

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  FEWEST_TO_RESAMPLE,
  RESAMPLES,
  Effect,
  far_off,
  finite,
  from_draws,
  two_sided_p,
)

LIKELY = 0.02  # of the resamples of the tuning


class TunedArm(NamedTuple):
  """A family of candidates.

  Attributes:
    scores: What tuning goes by, the lower the better; infinite where a run is
      lost.
    outcomes: What is judged, of other seeds at the same candidates; NaN in the
      whole column of one that was not run. Only the others are chosen of.
  """

  scores: Real[np.ndarray, "T K"]
  outcomes: Real[np.ndarray, "S K"]


def _checked(arms: Sequence[TunedArm]) -> list[TunedArm]:
  """The arms with the candidates that were run alone.

  Raises:
    InputError: see `tuned_contrast`.
  """
  seeds = {len(arm.outcomes) for arm in arms}
  if len(seeds) != 1:
    raise InputError(
      f"the arms have {sorted(seeds)} judged seeds, expected the same in each"
    )
  run = []
  for arm in arms:
    scores, outcomes = (np.asarray(x, np.float64) for x in arm)
    if scores.shape[1:] != outcomes.shape[1:]:
      raise InputError(
        f"outcomes have {outcomes.shape[1]} candidates, expected those of the "
        f"scores, {scores.shape[1]}"
      )
    there = ~np.isnan(outcomes).all(axis=0)
    finite("outcomes", outcomes[:, there], ndim=2)
    run.append(TunedArm(scores[:, there], outcomes[:, there]))
  return run


def chosen(scores: Real[np.ndarray, "T K"]) -> int:
  """The candidate of least mean score."""
  return int(np.asarray(scores, np.float64).mean(axis=0).argmin())


def _choices(
  scores: Real[np.ndarray, "T K"], rng: np.random.Generator
) -> Int[np.ndarray, " R"]:
  """What `chosen` gives for each of R resamples of the tuning seeds."""
  t = len(scores)
  counts = rng.multinomial(t, np.full(t, 1.0 / t), size=RESAMPLES)
  # A lost run's score is infinite, and 0 of it is none of it.
  lost = np.isinf(scores)
  means = counts @ np.where(lost, 0.0, scores) / t
  return np.where(counts @ lost > 0, np.inf, means).argmin(axis=1)


def likely_choices(
  scores: Real[np.ndarray, "T K"], *, share: float = LIKELY, seed: int
) -> tuple[int, ...]:
  """The candidates to judge, for `tuned_contrast` to choose anew of.

  Rising: those that at least `share` of the resamples of the tuning seeds
  choose, and the one chosen.
  """
  scores = np.asarray(scores, np.float64)
  choices = _choices(scores, np.random.default_rng(seed))
  shares = np.bincount(choices, minlength=scores.shape[1]) / len(choices)
  shares[chosen(scores)] = 1.0
  return tuple(np.flatnonzero(shares >= share).tolist())


def tuned_contrast(
  arms: Sequence[TunedArm],
  weights: Sequence[float],
  *,
  seed: int,
  median: bool | None = False,
) -> Effect:
  """A weighted sum of the arms' outcomes, each at its tuned candidate.

  Weights (1, -1) give a paired difference, those of a least-squares line a
  slope. The interval resamples the tuning seeds, chooses anew, and resamples
  the judged seeds, which all arms share.

  Args:
    median: Whether the median of the seeds' sums is taken, or their mean; for
      None the median where one is `far_off`, as in `typical_interval`.

  Raises:
    InputError: arms of different judged seeds or candidates, as many weights
      as there are no arms, or an outcome not finite in a column that was run.
  """
  if len(weights) != len(arms) or not arms:
    raise InputError(
      f"found {len(weights)} weights, expected one per arm: {len(arms)}"
    )
  arms = _checked(arms)
  n = len(arms[0].outcomes)
  rng = np.random.default_rng(seed)
  judged = rng.integers(n, size=(RESAMPLES, n))
  own, draws = np.zeros(n), np.zeros((RESAMPLES, n))
  for arm, weight in zip(arms, weights, strict=True):
    choices = _choices(arm.scores, rng)
    draws += weight * arm.outcomes[judged, choices[:, None]]
    own += weight * arm.outcomes[:, chosen(arm.scores)]
  if median is None:
    median = n >= FEWEST_TO_RESAMPLE and bool(far_off(own).any())
  middle = np.median if median else np.mean
  resampled = "seeds and those of tuning"
  found = from_draws(float(middle(own)), middle(draws, axis=1), n, resampled)
  return _by_quantiles(found) if median else found


def _by_quantiles(effect: Effect) -> Effect:
  """With a standard error to which the interval's ends are Student's.

  The sd of a median's resamples is that of the few in which most runs fail.
  """
  reach = scipy.stats.t.isf((1.0 - effect.confidence) / 2.0, effect.n - 1)
  error = (effect.high - effect.low) / 2.0 / float(reach)
  return dataclasses.replace(
    effect,
    standard_error=error,
    test="Student t on a standard error from the interval",
    p_value=two_sided_p(effect.estimate, error, effect.n),
  )


def tuned_difference(
  a: TunedArm, b: TunedArm, *, seed: int, median: bool | None = False
) -> Effect:
  """The outcome of a less that of b, paired; see `tuned_contrast`."""
  return tuned_contrast([a, b], [1.0, -1.0], seed=seed, median=median)
