"""B3: runs at rates above 1.0, and the largest stable rate of a batch size."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import rate_search, study
from experiments._shared.metric import ACCURACY, LOSS, Metric
from mnist_jax import stats, sweep
from mnist_jax.stats import grid_minimum
from mnist_jax.sweep import tables

FIRST, LAST = 0.5, 32.0
LIMIT = 1.0  # the claim's
BELOW, ABOVE, HIGHER = 0.5, 1.5, 2.0
BATCH, SMALL_BATCH = 128, 32
ARMS = (
  (BATCH, BELOW),
  (BATCH, ABOVE),
  (BATCH, HIGHER),
  (SMALL_BATCH, BELOW),
  (SMALL_BATCH, ABOVE),
)
POINTS = (0.25, 0.5, 1, 2, 5, 10, 20)  # epochs, beside the start and the end
REACHED = 0.95
LOST_ACCURACY = 0.1


def more_rates(table: pd.DataFrame, batch_size: int) -> list[int]:
  """The places beyond the ends where a seed's limit may still be."""
  rates, _, lost = rate_search.column(table, batch_size)
  largest = grid_minimum.largest_stable(rates, ~lost)
  below, above = np.isnan(largest).any(), (largest == rates[-1]).any()
  places = (
    (rate_search.place(rates[0]) - 1, below),
    (rate_search.place(rates[-1]) + 1, above),
  )
  low, high = rate_search.LOWEST, rate_search.HIGHEST
  return [p for p, wanted in places if wanted and low <= p <= high]


def whole_batches(
  lab: study.Lab, cells: Sequence[sweep.Settings], budget: sweep.Budget
) -> pd.DataFrame:
  """The runs without short last batches, to compare batch sizes by."""
  kept = [dataclasses.replace(cell, drop_last=True) for cell in cells]
  return lab.sweep(kept, budget)


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  """The last rows of the runs of the limit, and those of the long runs."""
  first, last = map(rate_search.place, (FIRST, LAST))
  short = sweep.Budget(updates=values.updates)
  table = rate_search.extended(
    functools.partial(whole_batches, lab, budget=short),
    dict.fromkeys(values.batch_sizes, range(first, last + 1)),
    range(values.seeds),
    more_rates,
  )
  cells = [
    cell
    for size, rate in ARMS
    for cell in sweep.product(
      batch_size=size, learning_rate=rate, seed=range(values.seeds)
    )
  ]
  points = tuple(point for point in POINTS if point < values.epochs)
  budget = sweep.Budget(
    epochs=values.epochs, evaluate_at=points, final_splits=("test",)
  )
  return {"table": table, "above": whole_batches(lab, cells, budget)}


def largest(
  table: pd.DataFrame, batch_size: int
) -> tuple[Float[np.ndarray, " S"], int]:
  """Each seed's largest stable rate, and how many had none."""
  rates, _, lost = rate_search.column(table, batch_size)
  found = grid_minimum.largest_stable(rates, ~lost)
  none = np.isnan(found)
  below = rate_search.rate(rate_search.place(rates[0]) - 1)
  return np.where(none, below, found), int(none.sum())


def ends(
  above: pd.DataFrame, arm: tuple[int, float], column: str
) -> Float[np.ndarray, " S"]:
  """A column at the end of an arm's runs; a lost run counts as guessing."""
  size, rate = arm
  own = above[(above["batch_size"] == size) & (above["learning_rate"] == rate)]
  own = tables.last_rows(own).sort_values("seed")
  values = own[column].to_numpy(np.float64)
  counted = np.fmax(values, tables.GUESSING)
  if column.endswith("accuracy"):
    counted = np.full_like(values, LOST_ACCURACY)
  return np.where(tables.lost(own), counted, values)


def failed(above: pd.DataFrame, arm: tuple[int, float]) -> stats.Effect:
  """The share of an arm's runs that end below 0.95 on development data."""
  reached = ends(above, arm, "dev_accuracy") >= REACHED
  return stats.proportion(int((~reached).sum()), len(reached))


def _worse(
  above: pd.DataFrame, size: int, rate: float, metric: Metric, **role: Any
) -> stats.Question:
  """Whether a rate ends worse than 0.5."""
  dev, test = (
    metric.gain(
      ends(above, (size, BELOW), column), ends(above, (size, rate), column)
    )
    for column in (metric.column, metric.on_test)
  )
  return metric.question(
    f"{rate:g} is worse at batch {size}",
    f"at batch {size} rate {rate:g} ends worse than {BELOW:g}",
    dev,
    on_test=test,
    **role,
  )


def _fails(
  above: pd.DataFrame, size: int, rate: float, **role: Any
) -> stats.Question:
  return stats.Question(
    f"{rate:g} fails at batch {size}",
    f"at batch {size} most runs at rate {rate:g} end with an accuracy below "
    f"{REACHED}",
    failed(above, (size, rate)),
    target=0.5,
    **role,
  )


def _limit(table: pd.DataFrame, size: int, updates: int) -> stats.Question:
  found, none = largest(table, size)
  return stats.Question(
    f"limit at batch {size}",
    f"at batch {size} the largest stable rate is below {LIMIT:g} (its log)",
    stats.typical_interval(np.log(found), seed=0),
    "less",
    target=math.log(LIMIT),
    role="secondary",
    restriction=f"in the first {updates} updates at batch {size}",
    censored=none / len(found),
    note=f"{none} seeds had none" if none else "",
  )


def _beside(
  table: pd.DataFrame, starts: Float[np.ndarray, " S"], size: int
) -> stats.Question:
  found, _ = largest(table, size)
  return stats.Question(
    "limit beside the curvature",
    f"at batch {size} the largest stable rate is 2 / the largest eigenvalue "
    "at the start (log of the ratio)",
    stats.typical_interval(np.log(found * starts / 2), seed=0),
    "same",
    margin=math.log(1.25),
    role="diagnostic",
  )


def _sentence(judged: stats.Judged, epochs: int) -> str:
  lost = judged.found(f"{ABOVE:g} is worse at batch {BATCH}, accuracy")
  fails, higher = (
    judged.found(f"{rate:g} fails at batch {BATCH}") for rate in (ABOVE, HIGHER)
  )
  limits = [
    math.exp(part.effect.estimate)
    for part in judged.parts
    if part.name.startswith("limit at batch") and part.effect
  ]
  return (
    f"After {epochs} epochs at batch {BATCH} {stats.share(fails)} of "
    f"{fails.n} runs at rate {ABOVE:g} are below {100 * REACHED:g} % accuracy, "
    f"and {stats.share(higher)} at rate {HIGHER:g}; the accuracy at rate "
    f"{BELOW:g} less that at rate {ABOVE:g} is {ACCURACY.amount(lost)}; the "
    f"largest stable rate is {min(limits):.2g} to {max(limits):.2g}, by batch "
    "size."
  )


def claim(
  table: pd.DataFrame,
  above: pd.DataFrame,
  starts: Float[np.ndarray, " S"],
  values: study.Values,
) -> stats.Judged:
  """B3, judged.

  Args:
    starts: The largest eigenvalue of each seed's Hessian before training.
  """
  for runs in (table, above):
    sweep.require_whole_batches(runs)
  parts = []
  for size, rate in ARMS:
    if rate == BELOW:
      continue
    where = f"at batch {size}, rate {rate:g}"
    role = {"role": "secondary", "restriction": where}
    by_loss = role | {"restriction": f"{where}, by the loss"}
    if (size, rate) == (BATCH, ABOVE):
      role = {"role": "primary"}
    parts += [
      _fails(above, size, rate, **role),
      _worse(above, size, rate, ACCURACY, **role),
      _worse(above, size, rate, LOSS, **by_loss),
    ]
  parts += [_limit(table, size, values.updates) for size in values.batch_sizes]
  parts.append(_beside(table, starts, values.batch_sizes[-1]))
  sentence = functools.partial(_sentence, epochs=values.epochs)
  return stats.judge(stats.Claim("B3", parts, sentence, logic="any"))
