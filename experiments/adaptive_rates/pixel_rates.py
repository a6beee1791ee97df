"""SGD whose first layer has a rate for each pixel, set by how often it shows.

The weights of pixel j, which is shown in a share p_j of the examples, learn at
rate * s_j, s_j ~ p_j^-power; all other weights and biases at rate. The s_j are
scaled so that sum p_j s_j = sum p_j: an update then moves the first layer's
outputs as far as SGD's does, on average over examples, and only shares the
movement out among the pixels in another way.
"""

import functools
import hashlib
import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import scaled_updates, study, tuning
from mnist_jax import data, sweep
from mnist_jax.model import mlp
from mnist_jax.sweep import tables
from mnist_jax.training import loop

POWERS = {"sgd, rates p^-1/2": 0.5, "sgd, rates p^-1": 1.0}


def scales(
  shown: Float[np.ndarray, " D"], power: float
) -> Float[np.ndarray, " D"]:
  """s_j of this module from p_j in (0, 1]; all 1 at power 0."""
  raw = shown**-power
  return raw * shown.sum() / (shown * raw).sum()


def _of_pixels(
  config: loop.TrainConfig, factors: Float[np.ndarray, "R D"]
) -> scaled_updates.Factors:
  """Those of the weights of the pixels; all else learns at the rate."""
  layer: Any = mlp.Layer  # of factors, where one of parameters has arrays
  others = [layer(None, None)] * (len(config.sizes) - 2)
  return layer(factors[:, :, None], None), *others


def _records(
  dataset: data.Dataset,
  shown: Float[np.ndarray, " D"],
  cells: tuning.Families,
  budget: sweep.Budget,
) -> list[dict[str, Any]]:
  """A record for each evaluation of each cell, as a sweep has them."""
  some = next(cell for own in cells.values() for cell in own)
  seeds = sorted({cell.seed for own in cells.values() for cell in own})
  members = list(
    dict.fromkeys(
      (arm, cell.learning_rate) for arm, own in cells.items() for cell in own
    )
  )
  if some.num_train is not None:
    dataset = data.take(dataset, some.num_train)
  config = some.train_config()
  factors = np.stack([scales(shown, POWERS[arm]) for arm, _ in members])
  found = scaled_updates.train(
    config,
    dataset,
    seeds,
    np.array([rate for _, rate in members]),
    _of_pixels(config, factors),
    int(budget.length),
    int(budget.evaluate_every or budget.length),
  )
  updates = some.updates_per_epoch(len(dataset.train.labels))
  records = []
  for (r, (arm, rate)), (s, seed) in itertools.product(
    enumerate(members), enumerate(seeds)
  ):
    (cell,) = sweep.product(some, learning_rate=rate, seed=seed)
    own: dict[str, Any] = {"arm": arm, "learning_rate": rate, "seed": seed}
    own["cell"] = sweep.cell_key(cell, budget)
    finite = np.isfinite(found["dev_loss"][:, s, r])
    for k, epoch in enumerate(found["epoch"]):
      broken = not finite[: k + 1].all()
      row: dict[str, Any] = {
        "epoch": float(epoch),
        "step": int(epoch) * updates,
        "diverged_step": int(epoch) * updates if broken else None,
      }
      ended = k == len(found["epoch"]) - 1
      for split in ("dev", "test") if ended else ("dev",):
        at = k if split == "dev" else 0
        loss = found[f"{split}_loss"][at, s, r]
        accuracy = found[f"{split}_accuracy"][at, s, r]
        row[f"{split}_loss"] = tables.GUESSING if broken else float(loss)
        row[f"{split}_accuracy"] = 0.1 if broken else float(accuracy)
      records.append(own | row)
  return records


def run(
  lab: study.Lab,
  dataset: data.Dataset,
  shown: Float[np.ndarray, " D"],
  cells: tuning.Families,
  budget: sweep.Budget,
) -> pd.DataFrame:
  """As `Lab.sweep`, for arms of POWERS: the same columns, filed likewise.

  A run whose loss is no longer finite counts as one that guesses.

  Args:
    shown: p_j of each pixel.
    cells: Of each arm; every seed at all of its rates, and all else alike.
    budget: In whole epochs.
  """
  keys = {
    arm: [sweep.cell_key(cell, budget) for cell in own]
    for arm, own in cells.items()
  }
  text = json.dumps([dataset.digest, keys])
  case = hashlib.sha256(text.encode()).hexdigest()[:16]
  work = functools.partial(_records, dataset, shown, cells, budget)
  return pd.DataFrame(lab.collect({case: work}, "pixel_rates"))
