"""Runs to a target, how rough their losses are, and what is found at an end."""

import math

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Real

from mnist_jax import analysis, data, stats, training
from mnist_jax.analysis import curvature
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import tables
from mnist_jax.sweep.plan import Budget, Target

GROWTH = 1.05  # from one evaluation to the next: the resolution
_SPAN = 16  # from the first evaluation to the limit
SHARPNESS_EXAMPLES = 5000
SHARPNESS_TOLERANCE = 0.01  # relative, of the residual


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


def best_rate(rows: pd.DataFrame) -> float:
  """Of tuning: where a parabola through the mean `score` is least.

  Args:
    rows: Last rows with the column `score`, each rate with the same seeds.
  """
  scores = rows.pivot(index="seed", columns="learning_rate", values="score")
  updates = np.exp(scores.sort_index(axis=1))
  grid = updates.columns.to_numpy(np.float64)
  return float(stats.mean_minima([grid], [updates.to_numpy()], seed=0).at[0])


def roughness(values: Real[np.ndarray, "... W"]) -> Float[np.ndarray, "..."]:
  """The sd of what is left of curves when a slow trend is taken out.

  The root of half the mean square successive difference (von Neumann et al.
  1941, "The mean square successive difference"): the sd itself for values that
  are independent about a constant; a trend adds the square of its step, over
  2, to the square. In the units of the values.

  Raises:
    InputError: fewer than 3 windows W, or a value that is not finite.
  """
  values = np.asarray(values, np.float64)
  if values.shape[-1] < 3 or not np.isfinite(values).all():
    raise InputError(
      f"found {values.shape[-1]} windows, {int((~np.isfinite(values)).sum())} "
      "values not finite; expected at least 3 windows, all finite"
    )
  return np.sqrt((np.diff(values, axis=-1) ** 2).mean(axis=-1) / 2)


def _end(
  config: training.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: int,
) -> mlp.Params:
  """The weights after the epochs."""
  states = training.params_at(config, learning_rate, split, seed, (epochs,))
  return next(states)[1]


def noise_scale(
  config: training.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: int,
) -> float:
  """tr(Sigma) / |G|^2 over the training set, in examples, after the epochs.

  See `gradient_noise.Moments.noise_scale`; arguments and InputError are those
  of `training.params_at`.
  """
  params = _end(config, learning_rate, split, seed, epochs)
  moments = analysis.network_moments(config.activations, params, split)
  return float(moments.noise_scale)


def sharpness(
  config: training.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: int,
) -> float:
  """The largest Hessian eigenvalue of the loss, after the epochs.

  Over the first SHARPNESS_EXAMPLES of the training set (it is in no particular
  order); see `curvature.sharpness`. Arguments as `noise_scale`.
  """
  found = curvature.network_sharpness(
    config.activations,
    _end(config, learning_rate, split, seed, epochs),
    data.Split(*(array[:SHARPNESS_EXAMPLES] for array in split)),
    jax.random.key(seed),
    tolerance=SHARPNESS_TOLERANCE,
  )
  return float(found.value)
