"""Searches of the best rate of each batch size, on half octaves.

Place k of a grid is the rate 2^(k / 2). A column is the rows of one batch
size's runs at one point of training, each of its rates with the same seeds.
`search` finds the best rates of a map of batch sizes and horizons, `tune` that
of one batch size by any score; both go on past an end of a grid while the best
rate is there, up to the limits stated here.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum
from mnist_jax.sweep import plan, tables
from mnist_jax.training.settings import Number, Settings

LOWEST, HIGHEST = -20, 16  # the places that a coarse column may reach
_RESAMPLES = 300  # of the seeds, to know it by
FURTHER = 8  # how far `tune` may move each end
AT_END = 0.05  # the share of resamples whose best may be at an end


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
  losses: Float[np.ndarray, "S K"]  # as `counted` gives them
  lost: Bool[np.ndarray, "S K"]  # whether each run diverged

  @property
  def best(self) -> float:
    """The rate of least mean log loss."""
    return float(self.rates[grid_minimum.least_column(self.losses)])


def counted(table: pd.DataFrame, metric: str) -> pd.Series:
  """A metric of each row, the lower the better, a lost run's as by guessing.

  Args:
    metric: "dev_loss" or "test_loss" (nats), "dev_error" or "test_error" (the
      fraction that is wrong; of none, half of an example).
  """
  split, kind = metric.split("_")
  if kind == "loss":
    value, guessing = table[metric], tables.GUESSING
  else:
    value = (1 - table[f"{split}_accuracy"]).clip(lower=1e-4)
    guessing = 0.9
  return value.where(~tables.lost(table), np.fmax(value, guessing))


def column(
  table: pd.DataFrame, batch_size: int, metric: str = "dev_loss"
) -> Column:
  """The column of a batch size, of rows at one point of training.

  Raises:
    InputError: The rates have not the same seeds.
  """
  own = table[table["batch_size"] == batch_size]
  own = own.assign(loss=counted(own, metric), lost=tables.lost(own))
  losses, lost = (
    tables.curves(own, "batch_size", name, point="learning_rate")
    for name in ("loss", "lost")
  )
  if not len(losses.arms) or np.isnan(losses.values).any():
    raise InputError(
      f"batch {batch_size} lacks runs, expected the same seeds at each rate"
    )
  return Column(losses.points, losses.values[0], lost.values[0] != 0)


def at_horizon(table: pd.DataFrame, epoch: Number) -> pd.DataFrame:
  """The rows of a sweep's table after that many epochs."""
  return table[np.isclose(table["epoch"], epoch)]


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


RunFor = Callable[[list[Settings], Number], pd.DataFrame]  # cells, epochs
Needs = dict[tuple[int, int], Number]  # by batch size and place: epochs


class Target(NamedTuple):
  """Where a best rate is looked for."""

  epoch: Number  # a horizon
  metric: str  # as in `counted`


Targets = Mapping[int, Sequence[Target]]  # of each batch size


def _longest(needs: Iterable[tuple[int, int, Number]]) -> Needs:
  """Of each batch size and place the longest run that is needed."""
  result: Needs = {}
  for size, at, epoch in needs:
    if LOWEST <= at <= HIGHEST:
      result[size, at] = max(epoch, result.get((size, at), 0.0))
  return result


def _grown(
  run: RunFor,
  needs: Needs,
  seeds: range,
  lacking: Callable[[pd.DataFrame], Needs],
) -> pd.DataFrame:
  """The rows of all runs, each as long as needed, until nothing lacks."""
  done: Needs = {}
  found: list[pd.DataFrame] = []
  while todo := {
    key: epochs for key, epochs in needs.items() if epochs > done.get(key, 0.0)
  }:
    for epochs in sorted(set(todo.values()), reverse=True):
      cells = [
        cell
        for (size, at), own in todo.items()
        if own == epochs
        for cell in plan.product(
          batch_size=size, learning_rate=rate(at), seed=seeds, drop_last=True
        )
      ]
      found.append(run(cells, epochs))
    done |= todo
    # A run that had to go on was made again, and has its first rows twice.
    table = pd.concat(found, ignore_index=True).drop_duplicates(
      ["batch_size", "learning_rate", "seed", "epoch"], keep="last"
    )
    needs = lacking(table)
  return table


def _columns(
  table: pd.DataFrame, targets: Targets
) -> Iterable[tuple[int, Target, Column]]:
  for size, wanted in targets.items():
    for target in wanted:
      rows = at_horizon(table, target.epoch)
      yield size, target, column(rows, size, target.metric)


def _more_coarse(table: pd.DataFrame, targets: Targets) -> Needs:
  """A factor of 2 beyond each end at which the mean log loss is least."""
  return _longest(
    (size, place(end) + away, target.epoch)
    for size, target, (rates, losses, _) in _columns(table, targets)
    for end, away, is_open in zip(
      rates[[0, -1]], (-2, 2), grid_minimum.open_ends(losses), strict=True
    )
    if is_open
  )


def _centre(found: Column) -> int:
  """The place of the best rate, or the nearest with room to both sides."""
  return min(max(place(found.best), LOWEST + 2), HIGHEST - 2)


def _step(found: Column) -> int:
  """Half octaves beside rates that are lost, where the loss is steep."""
  above = found.lost[:, found.rates > found.best]
  return 1 if above.shape[1] and above[:, 0].mean() >= 0.5 else 2


def _more_fresh(table: pd.DataFrame, targets: Targets) -> Needs:
  """Beyond each end at which more than AT_END of the resamples are best.

  And half an octave to both sides of a best rate below rates that are lost.
  """
  needs = []
  for size, target, found in _columns(table, targets):
    centre, step = _centre(found), _step(found)
    if step == 1:
      needs += [(size, centre + away, target.epoch) for away in (-1, 1)]
    best = grid_minimum.mean_minima(
      [found.rates], [found.losses], seed=0, resamples=_RESAMPLES
    )
    for end, away in ((found.rates[0], -2), (found.rates[-1], step)):
      at_end = max(best.at[0] == end, (best.draws[:, 0] == end).mean())
      if at_end > AT_END:
        needs.append((size, place(end) + away, target.epoch))
  return _longest(needs)


def search(
  run: RunFor,
  targets: Targets,
  rates: Sequence[float],
  *,
  tuning_seeds: range,
  seeds: range,
) -> pd.DataFrame:
  """Coarse columns by factors of 2, then fresh ones around their best rates.

  Coarse columns look for the best rate of each batch size at its last target. A
  fresh one begins with that rate and one to each side: a factor of 2 away, or
  of sqrt 2 where half of the runs next above are lost. It goes on while more
  than AT_END of the resampled seeds have their best rate at an end, at any of
  its targets; each rate only to the last horizon at which it is needed.
  Batches are whole (`drop_last`).

  Args:
    run: The rows at every horizon up to so many epochs.
    targets: Of each batch size, the longest horizon last.
    rates: Where the coarse columns begin, each twice the one before.
    tuning_seeds: The seeds of the coarse columns; those of the fresh differ.

  Returns:
    The rows of all runs, with the column `stage`, "coarse" or "fresh".
  """
  last = {size: wanted[-1:] for size, wanted in targets.items()}
  begin = _longest(
    (size, place(rate), target.epoch)
    for size, (target,) in last.items()
    for rate in rates
  )
  coarse = _grown(
    run, begin, tuning_seeds, lambda table: _more_coarse(table, last)
  )
  around = _longest(
    (size, _centre(found) + away * _step(found), target.epoch)
    for size, target, found in _columns(coarse, last)
    for away in (-1, 0, 1)
  )
  fresh = _grown(run, around, seeds, lambda table: _more_fresh(table, targets))
  stages = [coarse.assign(stage="coarse"), fresh.assign(stage="fresh")]
  return pd.concat(stages, ignore_index=True)


def best_rates(
  table: pd.DataFrame, batch_sizes: Iterable[int], target: Target
) -> grid_minimum.MeanMinima:
  """The rate of least mean log loss at each batch size, with resamples.

  Those of two targets are of the same resamples of the seeds.

  Args:
    table: The fresh rows of `search`.
  """
  rows = at_horizon(table, target.epoch)
  found = [column(rows, size, target.metric) for size in batch_sizes]
  return grid_minimum.mean_minima(
    [each.rates for each in found], [each.losses for each in found], seed=0
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
