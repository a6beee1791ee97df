"""The best rate of one batch size, by a score of its runs.

Rates are the half octaves of `rate_columns`: place k is the rate 2^(k / 2).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mnist_jax.sweep import rate_search

FURTHER = 8  # places: the most that an end is moved


class Tuned(NamedTuple):
  """The best rate, and the last rows of all runs that were made for it.

  Attributes:
    runs: with the column `score`, the lower the better.
  """

  rate: float
  runs: pd.DataFrame


Score = Callable[[pd.DataFrame], pd.Series]


def _best(runs: pd.DataFrame, score: Score) -> float:
  means = score(runs).groupby(runs["learning_rate"]).mean()
  return float(means.idxmin())


def _beyond(
  runs: pd.DataFrame, batch_size: int, *, score: Score, step: int, reach: range
) -> list[int]:
  """The next place past the end at which the best rate is."""
  own = runs[runs["batch_size"] == batch_size]
  places = [rate_search.place(rate) for rate in own["learning_rate"].unique()]
  best = rate_search.place(_best(own, score))
  beyond = (min(places), best - step), (max(places), best + step)
  return [place for end, place in beyond if best == end and place in reach]


def tune(
  run: rate_search.Run,
  batch_size: int,
  guess: float,
  seeds: range,
  score: Score,
  *,
  step: int = 1,
) -> Tuned:
  """The rate of least mean score over the seeds, on a grid about a guess.

  From half the guess to twice it, and on past an end as long as the best rate
  is there, up to FURTHER places.

  Args:
    run: trains cells within one budget and returns their table.
    score: last rows -> a number for each, the lower the better, finite.
    step: of the grid, in places: 1 for factors of sqrt 2, 2 for factors of 2.

  Raises:
    ValueError: a score that is not finite.
  """
  centre = rate_search.place(guess)
  reach = range(centre - 2 - FURTHER, centre + 3 + FURTHER)
  runs = rate_search.extended(
    run,
    {batch_size: list(range(centre - 2, centre + 3, step))},
    seeds,
    functools.partial(_beyond, score=score, step=step, reach=reach),
  )
  scored = runs.assign(score=score(runs))
  if not np.isfinite(scored["score"]).all():
    raise ValueError("a score is not finite, expected a number for every run")
  return Tuned(_best(runs, score), scored)
