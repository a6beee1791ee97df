"""SGD in which some parameters learn faster or slower than the others.

A parameter with the factor s moves s times as far in each update as plain SGD
would move it, so its rate is rate * s. S seeds, R members (a rate and factors
each), T updates of B examples an epoch. Order, initial weights and batches are
those of the sweep's cells.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from mnist_jax import data, runtime
from mnist_jax.model import mlp
from mnist_jax.runtime import devices
from mnist_jax.training import loop

EVALUATION_CHUNK = 500
# Of the structure of the parameters; None leaves one as plain SGD moves it.
Factors: TypeAlias = PyTree


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
  factors: Factors,
) -> loop.TrainState:
  """The rows of one device; the members of a row read the same batches."""
  hparams = loop.make_hparams(0)  # plain SGD draws nothing from it

  def update(
    state: loop.TrainState,
    batch: Any,
    rate: Float[Array, ""],
    own: Factors,
  ) -> tuple[loop.TrainState, Float[Array, ""]]:
    new, loss = loop.train_step(config, state, batch, rate, hparams)
    params = jax.tree.map(
      lambda s, a, b: b if s is None else a + s * (b - a),
      own,
      state.params,
      new.params,
      is_leaf=lambda leaf: leaf is None,
    )
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
  factors: Factors,
  epochs: int,
  every: int,
  begin: Callable[[int, mlp.Params], mlp.Params] = lambda _, params: params,
) -> dict[str, Float[np.ndarray, "K S R"]]:
  """Trains all seeds at all members.

  Args:
    factors: Of each member, the first axis R; each such that it broadcasts to
      its parameter.
    every: Epochs between evaluations; the start and the end have one each.
    begin: (seed, its initial parameters) -> what its training begins with.

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
  starts = [
    start._replace(params=begin(seed, start.params))
    for seed, start in zip(padded, starts, strict=True)
  ]
  states = jax.tree.map(
    lambda *leaves: jnp.repeat(jnp.stack(leaves)[:, None], len(rates), 1),
    *starts,
  )
  states = jax.device_put(states, devices.spread(mesh))
  moving = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (rates, factors))
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
