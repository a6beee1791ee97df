"""The best rate of one batch size, by a score of its runs.

Rates are the half octaves of `rate_columns`: place k is the rate 2^(k / 2).
First by factors of 2, on past an end where the best is; then the best's
neighbours, a factor of sqrt 2 on both sides.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mnist_jax import rate_columns

OCTAVES = 4  # the most that an end is moved


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
  runs: pd.DataFrame, batch_size: int, *, score: Score, centre: int
) -> list[int]:
  """The next place past the end at which the best rate is."""
  own = runs[runs["batch_size"] == batch_size]
  places = [rate_columns.place(rate) for rate in own["learning_rate"].unique()]
  best = rate_columns.place(_best(own, score))
  wanted = []
  if best == min(places):
    wanted.append(best - 2)
  if best == max(places):
    wanted.append(best + 2)
  return [place for place in wanted if abs(place - centre) <= 2 + 2 * OCTAVES]


def tune(
  run: rate_columns.Run,
  batch_size: int,
  guess: float,
  seeds: range,
  score: Score,
  *,
  refine: bool = True,
) -> Tuned:
  """The rate of least mean score over the seeds.

  Args:
    run: trains cells within one budget and returns their table.
    guess: where to begin; half and twice of it are tried too, and up to
      OCTAVES more where the best is at an end.
    score: last rows -> a number for each, the lower the better, finite.
    refine: whether the best's neighbours at a factor of sqrt 2 are tried.
  """
  centre = rate_columns.place(guess)
  runs = rate_columns.extended(
    run,
    {batch_size: [centre - 2, centre, centre + 2]},
    seeds,
    functools.partial(_beyond, score=score, centre=centre),
  )
  if refine:
    best = rate_columns.place(_best(runs, score))
    near = rate_columns.extended(
      run, {batch_size: [best - 1, best + 1]}, seeds, lambda table, size: []
    )
    runs = pd.concat([runs, near], ignore_index=True)
  scored = runs.assign(score=score(runs))
  if not np.isfinite(scored["score"]).all():
    raise ValueError("the score has a value that is not finite")
  return Tuned(_best(runs, score), scored)
