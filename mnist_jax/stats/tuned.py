"""Effects of arms that were tuned, with the doubt about the tuning in them.

An arm's setting is chosen of K candidates by its mean over T tuning seeds, and
judged on S other seeds. Had other seeds tuned it, it might have been another
candidate: an interval that takes the choice as given is too short, and a choice
on the judged seeds favours the arm with more candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Real

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import (
  RESAMPLES,
  Effect,
  finite,
  from_draws,
)


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


def contenders(
  scores: Real[np.ndarray, "T K"], *, seed: int, most: int = 3
) -> list[int]:
  """The candidates that other tuning seeds might have chosen, likeliest first.

  As few as are chosen in 95 % of the resamples of the tuning seeds, at most
  `most`, and always the one of least mean: those to run on the judged seeds.
  """
  draws = _draw_choices(scores, np.random.default_rng(seed))
  wins = np.bincount(draws, minlength=scores.shape[1])
  wins[chosen(scores)] += 1  # there even where no resample chooses it
  order = np.argsort(-wins, kind="stable")
  enough = 1 + int(np.searchsorted(wins[order].cumsum(), 0.95 * len(draws)))
  found = order[: min(enough, most)].tolist()
  first = chosen(scores)
  return [first, *(k for k in found if k != first)][:most]


def _draw_choices(
  scores: Real[np.ndarray, "T K"], rng: np.random.Generator
) -> Int[np.ndarray, " R"]:
  """What each resample of the tuning seeds chooses."""
  t = len(scores)
  counts = rng.multinomial(t, np.full(t, 1.0 / t), size=RESAMPLES)
  # A lost run's score is infinite, and 0 of it is none of it.
  lost = np.isinf(scores)
  means = counts @ np.where(lost, 0.0, scores) / t
  return np.where(counts @ lost > 0, np.inf, means).argmin(axis=1)


def tuned_contrast(
  arms: Sequence[TunedArm], weights: Sequence[float], *, seed: int
) -> Effect:
  """A weighted sum of the arms' mean outcomes, each at its tuned candidate.

  Weights (1, -1) give a paired difference, those of a least-squares line a
  slope. The interval resamples the tuning seeds, chooses anew, and resamples
  the judged seeds, which all arms share.

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
  judged = rng.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES) / n
  estimate, draws = 0.0, np.zeros(RESAMPLES)
  for arm, weight in zip(arms, weights, strict=True):
    choice = _draw_choices(arm.scores, rng)
    draws += weight * (judged @ arm.outcomes)[np.arange(RESAMPLES), choice]
    estimate += weight * arm.outcomes[:, chosen(arm.scores)].mean()
  return from_draws(estimate, draws, n, "seeds and those of tuning")


def tuned_difference(a: TunedArm, b: TunedArm, *, seed: int) -> Effect:
  """The mean outcome of a less that of b, paired; see `tuned_contrast`."""
  return tuned_contrast([a, b], [1.0, -1.0], seed=seed)
