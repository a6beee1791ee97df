"""The best rates of a map of rate and batch, at every horizon."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments._shared import rate_search, study
from experiments._shared.rate_search import Target
from mnist_jax import stats
from mnist_jax.stats import effects, grid_minimum, slopes

HORIZONS = (1, 2, 5, 10, 20)  # epochs, and the end
SHORT = (32, 2)  # smaller batches are run to so many epochs: their cost


def full_sizes(values: study.Values) -> list[int]:
  """The sizes that are run to the end."""
  return [size for size in values.batch_sizes if size >= SHORT[0]]


def horizons(values: study.Values) -> list[int]:
  """In epochs, rising, the end last."""
  return [h for h in HORIZONS if h < values.epochs] + [values.epochs]


def after(epochs: study.Number) -> str:
  """A horizon in words."""
  return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def targets(values: study.Values) -> dict[int, list[Target]]:
  """Where the best rate of each size is looked for, the last horizon last."""
  found = {}
  for size in values.batch_sizes:
    last = values.epochs if size >= SHORT[0] else SHORT[1]
    own = [h for h in horizons(values) if h <= last]
    found[size] = [Target(h, "dev_loss") for h in own]
  return found


class Ridge(NamedTuple):
  """The best rates of K batch sizes at a horizon.

  Attributes:
    sizes: [K] rising.
    best: Those of the mean log loss, and of resamples of the seeds, the same
      at every horizon.
  """

  sizes: np.ndarray
  best: grid_minimum.MeanMinima

  @property
  def n(self) -> int:
    """Seeds."""
    return self.best.n

  @property
  def rates(self) -> Float[np.ndarray, "R K"]:
    """The estimates, then the resamples."""
    return np.vstack([self.best.at, self.best.draws])

  def of(self, sizes: tuple[int, ...]) -> np.ndarray:
    """The columns of those sizes."""
    return np.flatnonzero(np.isin(self.sizes, sizes))

  def exponents(self, sizes: tuple[int, ...]) -> Float[np.ndarray, " R"]:
    """Of rate against these sizes: the estimate, then the resamples."""
    at = self.of(sizes)
    return slopes.seed_slopes(self.sizes[at], self.rates[:, at])

  def censored(self, sizes: tuple[int, ...]) -> float:
    """The largest share of resamples at an end, of these sizes."""
    return float(self.best.censored[self.of(sizes)].max())

  def local(self) -> tuple[np.ndarray, Float[np.ndarray, "R _"]]:
    """Between neighbours: the sizes' geometric means, and the exponents."""
    logs = np.log(self.sizes)
    steps = np.diff(np.log(self.rates), axis=1) / np.diff(logs)
    return np.exp((logs[1:] + logs[:-1]) / 2), steps


Ridges = Mapping[Target, Ridge]


def effect_of(values: Float[np.ndarray, " R"], n: int) -> stats.Effect:
  return effects.from_draws(values[0], values[1:], n)


def ridges(
  measured: study.Tables, values: study.Values, *, test: bool = False
) -> dict[Target, Ridge]:
  """The best rates at every horizon, and by error at the end.

  Args:
    test: On the test set instead, which was read at the end only.
  """
  table = measured["table"]
  fresh = table[table["stage"] == "fresh"]
  wanted = targets(values)
  by_loss = wanted[full_sizes(values)[0]]
  found = {}
  for target in (*by_loss, Target(values.epochs, "dev_error")):
    sizes = [size for size in wanted if target.epoch <= wanted[size][-1].epoch]
    asked = target
    if test:
      asked = target._replace(metric=target.metric.replace("dev", "test"))
    if not test or target.epoch == values.epochs:
      best = rate_search.best_rates(fresh, sizes, asked)
      found[target] = Ridge(np.array(sizes), best)
  return found


def crossing(
  ridge: Ridge, level: float = 0.5
) -> tuple[Float[np.ndarray, " R"], float]:
  """The batch at which the local exponent first falls below a level.

  Between the middles of two gaps it is interpolated over log batch.

  Returns:
    It, then its resamples, the first or last middle where there is no such
    place; and the share of the resamples of which that is so.
  """
  middles, local = ridge.local()
  x = np.log(middles)
  below = local < level
  first = np.where(below.any(axis=1), below.argmax(axis=1), len(x))
  inside = (first > 0) & (first < len(x))
  right = np.clip(first, 1, len(x) - 1)
  rows = np.arange(len(local))
  y0, y1 = local[rows, right - 1], local[rows, right]
  share = np.where(inside, (y0 - level) / np.where(y0 == y1, 1, y0 - y1), 0)
  at = x[right - 1] + share * (x[right] - x[right - 1])
  at = np.where(first == 0, x[0], np.where(first == len(x), x[-1], at))
  return np.exp(at), float(1 - inside[1:].mean())
