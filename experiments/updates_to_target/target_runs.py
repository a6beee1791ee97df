"""Runs to a target on the development loss: when to look, and their score."""

import math

import numpy as np
import pandas as pd

from mnist_jax.sweep import tables
from mnist_jax.sweep.plan import Budget, Target

GROWTH = 1.05  # from one evaluation to the next: the resolution
_SPAN = 16  # from the first evaluation to the limit


def budget(limit: int, target: float) -> Budget:
  """Up to `limit` updates, evaluated from 1/16 of them on every 5 %.

  Args:
    target: development loss in nats, at which a run ends.
  """
  count = math.ceil(math.log(_SPAN) / math.log(GROWTH))
  places = (limit * GROWTH ** -np.arange(count + 1.0)).tolist()
  return Budget(
    updates=limit,
    evaluate_at=tuple(sorted({max(1, round(place)) for place in places})),
    target=Target("dev_loss", target),
  )


def score(rows: pd.DataFrame, target: float) -> pd.Series:
  """log updates of last rows; of a run that fell short more, by its loss.

  Its limit counts as its updates; to the log of that the log of its loss over
  the target is added, so that rates which all fall short are still ranked.
  """
  beyond = np.log(np.fmax(tables.counted_loss(rows) / target, 1.0))
  return np.log(rows["step"]) + beyond.where(~rows["reached"].astype(bool), 0.0)


def took(rows: pd.DataFrame) -> int:
  """Updates of last rows, their geometric mean rounded."""
  return round(math.exp(float(np.log(rows["step"]).mean())))
