"""SGD whose first layer has a rate for each pixel, set by how often it shows.

The weights of pixel j, which is shown in a share p_j of the examples, learn at
rate * s_j, s_j ~ p_j^-power; all other weights and biases at rate. The s_j are
scaled so that sum p_j s_j = sum p_j: an update then moves the first layer's
outputs as far as SGD's does, on average over examples, and only shares the
movement out among the pixels in another way.

S seeds, R members (a power and a rate each), T updates of B examples an epoch.
Order, initial weights and batches are those of the sweep's cells.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from experiments._shared import study, tuning
from mnist_jax import data, runtime, sweep
from mnist_jax.runtime import devices
from mnist_jax.sweep import tables
from mnist_jax.training import loop

POWERS = {"sgd, rates p^-1/2": 0.5, "sgd, rates p^-1": 1.0}
EVALUATION_CHUNK = 500


def scales(
  shown: Float[np.ndarray, " D"], power: float
) -> Float[np.ndarray, " D"]:
  """s_j of this module from p_j in (0, 1]; all 1 at power 0."""
  raw = shown**-power
  return raw * shown.sum() / (shown * raw).sum()


class _Programs(NamedTuple):
  """Compiled: `epoch` gives the states after it, `evaluate` loss, accuracy."""

  epoch: Callable[..., loop.TrainState]
  evaluate: Callable[..., tuple[Float[Array, "S R"], Float[Array, "S R"]]]


def _epoch(
  config: loop.TrainConfig,
  states: loop.TrainState,
  indices: Int[Array, "S T B"],
  weights: Float[Array, "S T B"],
  split: data.Split,
  rates: Float[Array, " R"],
  factors: Float[Array, "R D"],
) -> loop.TrainState:
  """The rows of one device; the members of a row read the same batches."""
  hparams = loop.make_hparams(0)  # plain SGD draws nothing from it

  def update(
    state: loop.TrainState,
    batch: Any,
    rate: Float[Array, ""],
    factor: Float[Array, " D"],
  ) -> tuple[loop.TrainState, Float[Array, ""]]:
    new, loss = loop.train_step(config, state, batch, rate, hparams)
    before, after = state.params[0].w, new.params[0].w
    w = before + factor[:, None] * (after - before)
    params = (new.params[0]._replace(w=w), *new.params[1:])
    return new._replace(params=params), loss

  def row(of_row: tuple[Any, ...]) -> loop.TrainState:
    members, *batches = of_row

    def step(members: loop.TrainState, now: Any) -> Any:
      batch = loop.gather_batch(split, *now)
      every = jax.vmap(update, in_axes=(0, None, 0, 0))
      members, losses = every(members, batch, rates, factors)
      return members, losses.mean()

    last: loop.TrainState = loop.scan_steps(step, members, tuple(batches))[0]
    return last

  return jax.lax.map(row, (states, indices, weights))


def _evaluate(
  config: loop.TrainConfig, params: Any, split: data.Split
) -> tuple[Float[Array, "S R"], Float[Array, "S R"]]:
  def one(member: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    found = loop.evaluate_params(
      config.activations, member, split, EVALUATION_CHUNK
    )
    return found.loss, found.accuracy

  return jax.lax.map(jax.vmap(one), params)


@functools.lru_cache
def _programs(config: loop.TrainConfig, mesh: Mesh) -> _Programs:
  rows, whole = PartitionSpec(devices.AXIS), PartitionSpec()
  shard = functools.partial(
    jax.shard_map, mesh=mesh, out_specs=rows, check_vma=False
  )
  epoch = shard(
    functools.partial(_epoch, config),
    in_specs=(rows, rows, rows, whole, whole, whole),
  )
  evaluate = shard(functools.partial(_evaluate, config), in_specs=(rows, whole))
  return _Programs(jax.jit(epoch, donate_argnums=0), jax.jit(evaluate))


def _plans(
  config: loop.TrainConfig, seeds: list[int], epoch: int, count: int
) -> tuple[Int[np.ndarray, "S T B"], Float[np.ndarray, "S T B"]]:
  """What the rows read in an epoch."""
  batches = {
    seed: data.batch_indices(
      data.epoch_order(seed, epoch, count), config.batch_size, config.drop_last
    )
    for seed in seeds
  }
  indices, weights = zip(*(batches[seed] for seed in seeds), strict=True)
  return np.stack(indices), np.stack(weights)


def train(
  config: loop.TrainConfig,
  dataset: data.Dataset,
  seeds: list[int],
  rates: Float[np.ndarray, " R"],
  factors: Float[np.ndarray, "R D"],
  epochs: int,
  every: int,
) -> dict[str, Float[np.ndarray, "K S R"]]:
  """Trains all seeds at all members.

  Args:
    factors: s_j of each member.
    every: Epochs between evaluations; the start and the end have one each.

  Returns:
    "epoch" [K], and by column of a sweep's table the values; those of the test
    set at the end alone, with K = 1.
  """
  mesh = runtime.mesh()
  padded = seeds + seeds[-1:] * (-len(seeds) % mesh.size)
  programs = _programs(config, mesh)
  splits = {
    name: jax.device_put(getattr(dataset, name), devices.copied(mesh))
    for name in ("train", "dev", "test")
  }
  starts = [loop.init_state(config, seed) for seed in padded]
  states = jax.tree.map(
    lambda *leaves: jnp.repeat(jnp.stack(leaves)[:, None], len(rates), 1),
    *starts,
  )
  states = jax.device_put(states, devices.spread(mesh))
  moving = jnp.asarray(rates, jnp.float32), jnp.asarray(factors, jnp.float32)
  points = sorted({*range(0, epochs, every), epochs})
  found: dict[str, list[Any]] = {"dev_loss": [], "dev_accuracy": []}

  def measured(name: str) -> None:
    values = programs.evaluate(states.params, splits[name])
    for metric, each in zip(("loss", "accuracy"), values, strict=True):
      found.setdefault(f"{name}_{metric}", []).append(
        np.asarray(each)[: len(seeds)]
      )

  measured("dev")
  for epoch in range(epochs):
    plan = _plans(config, padded, epoch, len(dataset.train.labels))
    plan = jax.device_put(plan, devices.spread(mesh))
    states = programs.epoch(states, *plan, splits["train"], *moving)
    if epoch + 1 in points:
      measured("dev")
  measured("test")
  return {"epoch": np.array(points, float)} | {
    name: np.stack(values) for name, values in found.items()
  }


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
  found = train(
    some.train_config(),
    dataset,
    seeds,
    np.array([rate for _, rate in members]),
    np.stack([scales(shown, POWERS[arm]) for arm, _ in members]),
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
