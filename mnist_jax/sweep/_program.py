"""The compiled program that trains a block of members at once.

A block is S rows of R members. The members of a row read the same batches, so
that their first layers' products are one product; rows have orders of their
own. Rows are spread over the devices. On a CPU a device takes its rows one
after another, which keeps a row's weights in its cache; on an accelerator it
takes them together.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from mnist_jax import data
from mnist_jax.runtime import devices
from mnist_jax.training import loop

# Smaller than a single run's: R members pass through it together.
EVALUATION_CHUNK = 500


class BlockState(NamedTuple):
  """The members of a block; [S, R] before each field's own axes.

  A row has [R], and a member none.

  Attributes:
    train: The state of training; of a member that diverged, the one whose
      loss was not finite, until `_block` puts it back.
    diverged: The update after which the loss was not finite (the first is 1),
      or -1.
    loss_sum: The sum of the objective before each update, since it was last
      set to 0.
  """

  train: loop.TrainState
  diverged: Int[Array, "*S"]
  loss_sum: Float[Array, "*S"]


class BlockPlan(NamedTuple):
  """What the rows read in an epoch."""

  indices: Int[Array, "S T B"]
  weights: Float[Array, "S T B"]
  learning_rates: Float[Array, "S R T"]


class Programs(NamedTuple):
  """The compiled functions of a group of members.

  Attributes:
    init: `Settings.traced` by name, each [S, R], -> (BlockState, HParams).
    advance: (BlockState, Split, BlockPlan, HParams, stop [S, R], first, last)
      -> BlockState after updates first to last - 1 of the plan; a member that
      has made `stop` updates makes no more.
    evaluate: (TrainState [S, R], Split) -> (loss [S, R], accuracy [S, R]).
  """

  init: Callable[..., tuple[BlockState, loop.HParams]]
  advance: Callable[..., BlockState]
  evaluate: Callable[..., tuple[Float[Array, "S R"], Float[Array, "S R"]]]


def _alive(members: BlockState, stop: Int[Array, "*R"]) -> Bool[Array, "*R"]:
  return (members.diverged < 0) & (members.train.step < stop)


def _update(
  config: loop.TrainConfig,
  member: BlockState,
  batch: Any,
  learning_rate: Float[Array, ""],
  hparams: loop.HParams,
  stop: Int[Array, ""],
) -> BlockState:
  """One update, not made if the loss before it is not finite.

  The update before did that: the member is then `diverged` at an update that
  it has made. As in a single run the loss alone decides; to look at the
  weights as well, each time, costs 5 %.
  """
  new, loss = loop.train_step(
    config, member.train, batch, learning_rate, hparams
  )
  alive = _alive(member, stop)
  sound = alive & jnp.isfinite(loss)
  broken = jnp.maximum(member.train.step, 1)
  kept = jax.tree.map(
    lambda x, before: jnp.where(sound, x, before), new, member.train
  )
  return BlockState(
    kept,
    jnp.where(alive & ~sound, broken, member.diverged),
    member.loss_sum + jnp.where(sound, loss, 0),
  )


def _advance_rows(
  config: loop.TrainConfig,
  one_by_one: bool,
  state: BlockState,
  split: data.Split,
  plan: BlockPlan,
  hparams: loop.HParams,
  stop: Int[Array, "S R"],
  first: Int[Array, ""],
  last: Int[Array, ""],
) -> BlockState:
  """The rows of one device."""
  step = jax.vmap(
    functools.partial(_update, config), in_axes=(0, None, 0, 0, 0)
  )

  def one(of_row: tuple[Any, ...]) -> BlockState:
    row, plan, hparams, stop = of_row  # without the axis S

    def body(t: Int[Array, ""], members: BlockState) -> BlockState:
      batch = loop.gather_batch(split, plan.indices[t], plan.weights[t])
      return step(members, batch, plan.learning_rates[:, t], hparams, stop)

    end = last
    if one_by_one:
      end = jnp.where(_alive(row, stop).any(), last, first)
    return jax.lax.fori_loop(first, end, body, row)

  rows = (state, plan, hparams, stop)
  return jax.lax.map(one, rows) if one_by_one else jax.vmap(one)(rows)


def _evaluate_rows(
  config: loop.TrainConfig, train: loop.TrainState, split: data.Split
) -> tuple[Float[Array, "S R"], Float[Array, "S R"]]:
  def one(
    member: loop.TrainState,
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    params = loop.evaluation_params(config, member)
    result = loop.evaluate_params(
      config.activations, params, split, EVALUATION_CHUNK
    )
    return result.loss, result.accuracy

  return jax.lax.map(jax.vmap(one), train)


def _init(
  config: loop.TrainConfig,
  traced: dict[str, Float[Array, "S R"] | UInt32[Array, "S R"]],
) -> tuple[BlockState, loop.HParams]:
  def one(member: dict[str, Any]) -> tuple[loop.TrainState, loop.HParams]:
    return loop.init_state(config, member["seed"]), loop.make_hparams(**member)

  # One by one compiles in half the time, and runs once.
  count = traced["seed"].shape
  flat = jax.tree.map(jnp.ravel, traced)
  states, hparams = jax.tree.map(
    lambda x: x.reshape(*count, *x.shape[1:]), jax.lax.map(one, flat)
  )
  # Not of a weak type: that would be another program for the first advance.
  diverged = jnp.full(count, -1, jnp.int32)
  state = BlockState(states, diverged, jnp.zeros(count, jnp.float32))
  return state, hparams


@functools.lru_cache(maxsize=256)
def programs(config: loop.TrainConfig, mesh: Mesh) -> Programs:
  """The functions for members of this configuration on these devices.

  Nothing is compiled before the first call; a call with arrays of other
  shapes compiles again.
  """
  rows, whole = PartitionSpec(devices.AXIS), PartitionSpec()
  one_by_one = mesh.devices.flat[0].platform == "cpu"
  shard = functools.partial(
    jax.shard_map, mesh=mesh, out_specs=rows, check_vma=False
  )
  advance = shard(
    functools.partial(_advance_rows, config, one_by_one),
    in_specs=(rows, whole, rows, rows, rows, whole, whole),
  )
  evaluate = shard(
    functools.partial(_evaluate_rows, config), in_specs=(rows, whole)
  )
  init = functools.partial(_init, config)
  return Programs(
    jax.jit(init, out_shardings=devices.spread(mesh)),
    jax.jit(advance),
    jax.jit(evaluate),
  )
