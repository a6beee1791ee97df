"""The columns of a map of rate x batch: their grids, how they go on, the best.

A column is the last rows (`tables.last_rows`) of one batch size's runs, each of
its rates with the same seeds. Grids are of half octaves: place k is the rate
2^(k / 2). Each column's best rate is searched in two stages, and no column ends
at its best rate but by the limits stated here.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum
from mnist_jax.sweep import plan, tables
from mnist_jax.training.settings import Settings

LOWEST, HIGHEST = -20, 16  # the places that a coarse column may reach
NEAR = (-2, -1, 0, 1, 2)  # where a fresh column begins, about the coarse best
BEYOND = 3  # how far it may go on past these, at each end
SHARE = 0.2  # of seeds with their best at an end, from which it goes on


def rate(place: int) -> float:
  """2^(place / 2), to four digits where it is not a power of two."""
  exact = 2.0 ** (place / 2)
  return exact if place % 2 == 0 else float(f"{exact:.4g}")


def place(rate: float) -> int:
  """The nearest place of a rate above 0."""
  return round(2 * math.log2(rate))


class Column(NamedTuple):
  """Of one batch size; S seeds, K rates, rising.

  Attributes:
    losses: as `tables.counted_loss`.
  """

  rates: Float[np.ndarray, " K"]
  losses: Float[np.ndarray, "S K"]
  lost: Bool[np.ndarray, "S K"]

  @property
  def best(self) -> float:
    """The rate of least mean log loss."""
    return float(self.rates[grid_minimum.least_column(self.losses)])


def column(table: pd.DataFrame, batch_size: int) -> Column:
  """The column of a batch size.

  Args:
    table: last rows, of other batch sizes as well.

  Raises:
    InputError: as `tables.curves`: rates that have not the same seeds.
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
  seeds, is at that end.

  Args:
    centre: the place it began around.
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
    begin: the first places of each batch size.
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
    rates: where the coarse columns begin, each twice the one before.
    tuning_seeds: of the coarse columns; others than `seeds`.

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
