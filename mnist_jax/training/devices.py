"""One model on many devices: each batch is split over them.

  on = devices.mesh(jax.devices())
  for row, state in devices.epochs(on, config, dataset, ...): ...

It is `loop.epochs` with two arguments placed otherwise: the examples of each
update are cut over the mesh, and all else is whole on every device, so that
the compiler adds up the devices' gradients where a sum over the batch stands.
The order of examples, dropout's keys and the rates are those of one device;
only the order of sums differs. Each device gathers its share of a batch from
its own copy of the training set. Shapes as in `loop`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array, Float

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop, metrics

AXIS = "batch"


def choose(wanted: int | str) -> list[jax.Device]:
  """The first devices of each process, as many as wanted, or "all".

  Raises:
    InputError: More than there are, or fewer than 1.
  """
  local = jax.local_device_count()
  if wanted == "all":
    return jax.devices()
  if not isinstance(wanted, int) or not 1 <= wanted <= local:
    kind = jax.local_devices()[0].platform
    of = " of this process" if jax.process_count() > 1 else ""
    are = "is 1 device" if local == 1 else f"are {local} devices"
    raise InputError(
      f"devices={wanted}: there {are}{of} ({kind}), expected 1 to {local}, "
      "or all"
    )
  chosen: list[jax.Device] = []
  for process in range(jax.process_count()):
    chosen += [d for d in jax.devices() if d.process_index == process][:wanted]
  return chosen


def mesh(on: Sequence[jax.Device]) -> Mesh:
  """The devices on the axis over which a batch is split."""
  return Mesh(np.array(on), (AXIS,), axis_types=(AxisType.Auto,))


def _place(on: Mesh, tree: Any, *axes: str | None) -> Any:
  """Arrays on the mesh: cut along `axes`, or whole on every device.

  Every process has them all, and gives its devices what is theirs.
  """
  sharding = NamedSharding(on, PartitionSpec(*axes))

  def one(leaf: Any) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      bits = one(jax.random.key_data(leaf))
      return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(
      whole.shape, sharding, lambda index: whole[index]
    )

  return jax.tree.map(one, tree)


def _here(tree: Any) -> Any:
  """Arrays that every device has whole, as this process's first one has them.

  Nothing is copied.
  """
  return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _divisible(on: Mesh, plan: loop.EpochPlan) -> loop.EpochPlan:
  """The plan with batches that the devices divide, and where it is placed.

  What is added has weight 0, as the filling of a short last batch has. Its
  dropout masks come after those of the examples, which stay what they are.
  """
  indices, weights, rates = map(np.asarray, plan)
  wide = ((0, 0), (0, -indices.shape[1] % on.size))
  indices, weights = np.pad(indices, wide), np.pad(weights, wide)
  cut = functools.partial(_place, on)
  return loop.EpochPlan(
    cut(indices, None, AXIS), cut(weights, None, AXIS), cut(rates)
  )


@functools.cache
def programs(on: Mesh | AbstractMesh) -> tuple[Any, Any]:
  """`loop.train_epoch`, and loss and accuracy of a split, over the mesh."""
  whole = NamedSharding(on, PartitionSpec())
  train = jax.jit(
    loop.scan_epoch,
    static_argnames="config",
    donate_argnames="state",
    out_shardings=whole,
  )
  measure = jax.jit(
    functools.partial(_measure, on), static_argnums=0, out_shardings=whole
  )

  return train, measure


def _within(on: Mesh, program: Callable[..., Any]) -> Callable[..., Any]:
  """The program where the caller's own mesh may be another."""

  def call(*args: Any) -> Any:
    with jax.set_mesh(on):
      return program(*args)

  return call


def _measure(
  on: Mesh | AbstractMesh,
  config: loop.TrainConfig,
  state: loop.TrainState,
  split: data.Split,
) -> dict[str, Float[Array, ""]]:
  """Loss and accuracy as `loop.evaluate`, each device on its share.

  What is left over when the devices do not divide the examples is counted by
  itself, so each counts once.
  """
  params, activations = (
    loop.evaluation_params(config, state),
    config.activations,
  )
  share, rest = divmod(split.labels.shape[0], on.size)

  def part(params: mlp.Params, split: data.Split) -> metrics.Metrics:
    begin = jax.lax.axis_index(AXIS) * share
    mine = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, begin, share), split
    )
    found = loop.evaluate_params(activations, params, mine)
    return jax.tree.map(lambda x: jax.lax.psum(x, AXIS), found)

  parts = []
  if share:
    everywhere = PartitionSpec()
    shared = jax.shard_map(
      part, mesh=on, in_specs=everywhere, out_specs=everywhere
    )
    parts.append(shared(params, split))
  if rest:
    last = jax.tree.map(lambda x: x[-rest:], split)
    parts.append(loop.evaluate_params(activations, params, last))
  total = metrics.merge(jax.tree.map(lambda *x: jnp.stack(x), *parts))
  return {"loss": total.loss, "accuracy": total.accuracy}


def epochs(
  on: Mesh,
  config: loop.TrainConfig,
  dataset: data.Dataset,
  hparams: loop.HParams,
  learning_rates: loop.Rates,
  state: loop.TrainState,
  *,
  seed: int,
  first: int | None = None,
  last: int,
  batch_size_at: Callable[[int], int] | None = None,
  before: loop.Before = lambda *_: None,
) -> Iterator[tuple[dict[str, Any], loop.TrainState]]:
  """`loop.epochs` on the devices of a mesh.

  Args:
    on: Of one axis; an explicit one is taken as an automatic one. All of its
      processes call this with the same arguments.

  Yields:
    The metrics row, and the state as the first device of this process has it.

  Raises:
    InputError: The batch size is larger than the training set.
    NonFiniteError: The objective was not finite in the epoch just made.
  """
  on = mesh(on.devices.ravel().tolist())
  train, measure = (_within(on, program) for program in programs(on))
  train_split, dev_split = (
    _place(on, split) for split in (dataset.train, dataset.dev)
  )
  placed, traced = _place(on, state), _place(on, hparams)
  size_at = batch_size_at or (lambda epoch: config.batch_size)

  def row(epoch: int, step: int, rate: float) -> dict[str, Any]:
    found: dict[str, Any] = {"epoch": epoch, "step": step}
    found["learning_rate"] = rate
    for name, split in (("train", train_split), ("dev", dev_split)):
      result = measure(config, placed, split)
      for what in ("loss", "accuracy"):
        found[f"{name}_{what}"] = float(result[what])
    if batch_size_at:
      found["batch_size"] = batch_size_at(max(epoch - 1, 0))
    return found

  step = int(state.step)
  if first is None:
    first = 0
    yield row(0, step, float(learning_rates[0])), _here(placed)
  for epoch in range(first, last):
    sized = dataclasses.replace(config, batch_size=size_at(epoch))
    plan = loop.plan_epoch(
      sized, seed, epoch, len(dataset.train.labels), learning_rates, step
    )
    before(sized, _here(placed), dataset.train, plan, hparams)
    placed, objectives = train(
      sized, placed, train_split, _divisible(on, plan), traced
    )
    rates = np.asarray(plan.learning_rates)
    step += len(rates)
    found = row(epoch + 1, step, float(rates[-1]))
    losses: Float[np.ndarray, " T"] = np.asarray(_here(objectives))
    loop._check_finite(step - len(rates), losses, rates, found["train_loss"])
    yield found, _here(placed)
