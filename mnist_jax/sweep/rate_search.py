"""Searches of the best rate of each batch size, on half octaves.

Place k of a grid is the rate 2^(k / 2). A column is the last rows
(`tables.last_rows`) of one batch size's runs, each of its rates with the same
seeds. `search` finds the best rates of a map in two stages by the loss, `tune`
that of one batch size by any score; both go on past an end of a grid while the
best rate is there, up to the limits stated here.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mnist_jax.runtime import extras
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum
from mnist_jax.sweep import plan, tables
from mnist_jax.training.settings import Settings

with extras.needed("studies"):
  import pandas as pd

LOWEST, HIGHEST = -20, 16  # the places that a coarse column may reach
NEAR = (-2, -1, 0, 1, 2)  # where a fresh column begins, about the coarse best
BEYOND = 3  # how far it may go on past these, at each end
FURTHER = 8  # how far `tune` may move each end
SHARE = 0.2  # of seeds with their best at an end, from which it goes on


def rate(place: int) -> float:
  """2^(place / 2), to four digits where it is not a power of two."""
  exact = 2.0 ** (place / 2)
  return exact if place % 2 == 0 else float(f"{exact:.4g}")


def place(rate: float) -> int:
  """The nearest place of a rate above 0."""
  return round(2 * math.log2(rate))


class Column(NamedTuple):
  """The runs of one batch size; S seeds, K rates, rising."""

  rates: Float[np.ndarray, " K"]
  losses: Float[np.ndarray, "S K"]  # nats, as `tables.counted_loss` gives them
  lost: Bool[np.ndarray, "S K"]  # whether each run diverged

  @property
  def best(self) -> float:
    """The rate of least mean log loss."""
    return float(self.rates[grid_minimum.least_column(self.losses)])


def column(table: pd.DataFrame, batch_size: int) -> Column:
  """The column of a batch size, of the last rows of more.

  Raises:
    InputError: The rates have not the same seeds.
  """
  own = table[table["batch_size"] == batch_size]
  own = own.assign(loss=tables.counted_loss(own), lost=tables.lost(own))
  losses, lost = (
    tables.curves(own, "batch_size", name, point="learning_rate")
    for name in ("loss", "lost")
  )
  if not len(losses.arms) or np.isnan(losses.values).any():
    raise InputError(
      f"batch {batch_size} lacks runs, expected the same seeds at each rate"
    )
  return Column(losses.points, losses.values[0], lost.values[0] != 0)


def more_coarse(table: pd.DataFrame, batch_size: int) -> list[int]:
  """The places a coarse column lacks, a factor of 2 beyond its ends.

  It goes on below while its best rate is its lowest, and above while that is
  its highest or less than half of the runs there have diverged.
  """
  rates, losses, lost = column(table, batch_size)
  low, high = grid_minimum.open_ends(losses)
  high = high or bool(lost[:, -1].mean() < 0.5)
  beyond = (place(rates[0]) - 2, low), (place(rates[-1]) + 2, high)
  return [p for p, wanted in beyond if wanted and LOWEST <= p <= HIGHEST]


def more_fresh(table: pd.DataFrame, batch_size: int, centre: int) -> list[int]:
  """The places a fresh column lacks, a factor of sqrt 2 beyond its ends.

  It goes on while the best rate of the mean, or of more than SHARE of the
  seeds, is at that end. It began around the place `centre`.
  """
  rates, losses, _ = column(table, batch_size)
  low, high = grid_minimum.open_ends(losses, SHARE)
  beyond = (place(rates[0]) - 1, low), (place(rates[-1]) + 1, high)
  reach = NEAR[-1] + BEYOND
  return [p for p, wanted in beyond if wanted and abs(p - centre) <= reach]


Run = Callable[[list[Settings]], pd.DataFrame]  # a sweep within one budget


def extended(
  run: Run,
  begin: Mapping[int, Sequence[int]],
  seeds: range,
  more: Callable[[pd.DataFrame, int], list[int]],
) -> pd.DataFrame:
  """The last rows of all runs; each column goes on until it lacks nothing.

  Args:
    begin: The first places of each batch size.
    more: (last rows so far, batch size) -> the places still lacking.
  """
  found: list[pd.DataFrame] = []
  todo = {size: list(places) for size, places in begin.items()}
  while todo:
    cells = [
      cell
      for size, places in todo.items()
      for cell in plan.product(
        batch_size=size, learning_rate=map(rate, places), seed=seeds
      )
    ]
    found.append(tables.last_rows(run(cells)))
    table = pd.concat(found, ignore_index=True)
    lacking = {size: more(table, size) for size in todo}
    todo = {size: places for size, places in lacking.items() if places}
  return table


def search(
  run: Run,
  batch_sizes: Sequence[int],
  rates: Sequence[float],
  *,
  tuning_seeds: range,
  seeds: range,
) -> pd.DataFrame:
  """Coarse columns by factors of 2, then fresh ones around their best rates.

  Args:
    rates: Where the coarse columns begin, each twice the one before.
    tuning_seeds: The seeds of the coarse columns; those of the fresh differ.

  Returns:
    The last rows of all runs, with the column `stage`, "coarse" or "fresh".
  """
  begin = [place(rate) for rate in rates]
  coarse = extended(
    run, dict.fromkeys(batch_sizes, begin), tuning_seeds, more_coarse
  )
  centres = {size: place(column(coarse, size).best) for size in batch_sizes}
  fresh = extended(
    run,
    {size: [at + near for near in NEAR] for size, at in centres.items()},
    seeds,
    lambda table, size: more_fresh(table, size, centres[size]),
  )
  stages = [coarse.assign(stage="coarse"), fresh.assign(stage="fresh")]
  return pd.concat(stages, ignore_index=True)


def best_rates(
  table: pd.DataFrame, batch_sizes: Iterable[int]
) -> tuple[Float[np.ndarray, "S K"], Int[np.ndarray, "S K"]]:
  """Each seed's best rate (`grid_minimum.minimum`) at each batch size.

  Args:
    table: The last rows, of S seeds at every rate; K batch sizes.

  Returns:
    The rates, and at which end of its grid each is censored: -1, 0 or 1.
  """
  found = []
  for size in batch_sizes:
    rates, losses, _ = column(table, size)
    found.append(grid_minimum.minimum(rates, losses))
  return (
    np.stack([best.at for best in found], axis=1),
    np.stack([best.edge for best in found], axis=1),
  )


Score = Callable[[pd.DataFrame], pd.Series]


class Tuned(NamedTuple):
  """What `tune` found."""

  rate: float  # the best
  runs: pd.DataFrame  # the last rows of all runs, with the column `score`


def _best(runs: pd.DataFrame, score: Score) -> float:
  means = score(runs).groupby(runs["learning_rate"]).mean()
  return float(means.idxmin())


def _beyond(
  runs: pd.DataFrame, _: int, *, score: Score, step: int, reach: range
) -> list[int]:
  """The next place past the end at which the best rate is."""
  places = [place(rate) for rate in runs["learning_rate"].unique()]
  best = place(_best(runs, score))
  beyond = (min(places), best - step), (max(places), best + step)
  return [at for end, at in beyond if best == end and at in reach]


def tune(
  run: Run,
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
    guess: A rate, > 0.
    score: last rows -> a number for each, the lower the better, finite.
    step: The grid's step in places: 1 for factors of sqrt 2, 2 for factors of
      2.

  Raises:
    ValueError: A score is not finite.
  """
  centre = place(guess)
  reach = range(centre - 2 - FURTHER, centre + 3 + FURTHER)
  runs = extended(
    run,
    {batch_size: list(range(centre - 2, centre + 3, step))},
    seeds,
    functools.partial(_beyond, score=score, step=step, reach=reach),
  )
  scored = runs.assign(score=score(runs))
  if not np.isfinite(scored["score"]).all():
    raise ValueError("a score is not finite, expected a number for every run")
  return Tuned(_best(runs, score), scored)
