"""Training: one step, one epoch as one program, evaluation, and a whole run.

T updates an epoch, B examples an update, N examples, D inputs. Nothing here
prints, reads a clock or touches a disk: `epochs` yields after each epoch, and
whoever iterates shows progress, saves and stops.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from mnist_jax import data
from mnist_jax.model import losses, mlp, objective
from mnist_jax.training import metrics, optimizers

EVALUATION_CHUNK = 2000
Seed = int | UInt32[Array, ""]  # in [0, 2^32); may be traced
Rates = Float[np.ndarray, " T_run"]  # of a run's updates, from its first on
Step = Callable[[Any, Any], tuple[Any, Float[Array, ""]]]
Before = Callable[..., None]  # takes what `train_epoch` is about to be given


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What forces a new compile when it changes."""

  sizes: tuple[int, ...] = (784, 64, 16, 10)
  activations: tuple[mlp.Activation, ...] = ("sigmoid", "tanh")
  initializer: mlp.Initializer = "xavier"
  init_scale: float = 1.0
  optimizer: str = "sgd"
  grad: str = "hand"
  dropout_rate: float = 0.0
  batch_size: int = 128
  drop_last: bool = False


class HParams(NamedTuple):
  """What may differ between the members of one compiled program."""

  l2: Float[Array, "*R"] | None  # None leaves the penalty out
  momentum: Float[Array, "*R"]
  dropout_key: Key[Array, "*R"]  # folded with the step; read under dropout
  clip_norm: Float[Array, "*R"] | None = None  # None for no clipping


class TrainState(NamedTuple):
  """All that training changes; a checkpoint is this and nothing else."""

  step: Int[Array, "*R"]  # updates made
  params: mlp.Params
  opt_state: Any


class EpochPlan(NamedTuple):
  """What an epoch reads: which examples, and at which rate."""

  indices: Int[Array, "T B"]
  weights: Float[Array, "T B"]  # 0 for the padding of a short last batch
  learning_rates: Float[Array, " T"]


class NonFiniteError(ArithmeticError):
  """The training loss stopped being finite; `step` and `learning_rate` say
  at which update and at what rate."""

  def __init__(self, step: int, learning_rate: float):
    super().__init__(
      f"loss is not finite at update {step}, learning rate {learning_rate:g}"
    )
    self.step = step
    self.learning_rate = learning_rate


def make_hparams(
  seed: Seed,
  *,
  l2: float | Float[Array, ""] | None = None,
  momentum: float | Float[Array, ""] = 0.9,
  clip_norm: float | Float[Array, ""] | None = None,
  dtype: DTypeLike = jnp.float32,
) -> HParams:
  """The traced settings of the run with this seed."""
  return HParams(
    None if l2 is None else jnp.asarray(l2, dtype),
    jnp.asarray(momentum, dtype),
    _keys(seed)[1],
    None if clip_norm is None else jnp.asarray(clip_norm, dtype),
  )


def _keys(seed: Seed) -> Key[Array, "2"]:
  """The run's keys: for the initial weights, and for dropout."""
  return jax.random.split(jax.random.key(seed))


def init_state(
  config: TrainConfig, seed: Seed, dtype: DTypeLike = jnp.float32
) -> TrainState:
  """The state before the first update, a function of (config, seed)."""
  key, scale = _keys(seed)[0], config.init_scale
  params = mlp.init(key, config.sizes, config.initializer, dtype, scale=scale)
  tx = optimizers.make(config.optimizer, 0.0)
  # Copied, as prodigy's state has the parameters in it, and both are consumed.
  opt_state = jax.tree.map(jnp.copy, tx.init(params))
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def evaluation_params(config: TrainConfig, state: TrainState) -> mlp.Params:
  """The parameters to evaluate and to keep, `optimizers.evaluation_params`."""
  params: mlp.Params = optimizers.evaluation_params(
    config.optimizer, state.params, state.opt_state
  )
  return params


def step_masks(
  config: TrainConfig, state: TrainState, batch_size: int, hparams: HParams
) -> objective.Masks:
  """The dropout masks of the update that comes next; None without dropout."""
  if config.dropout_rate == 0:
    return None
  key = jax.random.fold_in(hparams.dropout_key, state.step)
  return mlp.dropout_masks(key, state.params, batch_size, config.dropout_rate)


def train_step(
  config: TrainConfig,
  state: TrainState,
  batch: objective.Batch,
  learning_rate: Float[Array, ""],
  hparams: HParams,
) -> tuple[TrainState, Float[Array, ""]]:
  """One update of section 12.4: w <- w - eta / m * sum of gradients.

  Returns:
    The new state, and the objective before the update.
  """
  masks = step_masks(config, state, batch.labels.shape[0], hparams)
  value_and_grad = objective.make_value_and_grad(
    config.grad, config.activations
  )
  loss, grads = value_and_grad(state.params, batch, hparams.l2, masks)
  if hparams.clip_norm is not None:
    grads = optimizers.clip(grads, hparams.clip_norm)
  tx = optimizers.make(config.optimizer, learning_rate, hparams.momentum)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state), loss


def gather_batch(
  split: data.Split, indices: Int[Array, " B"], weights: Float[Array, " B"]
) -> objective.Batch:
  """The examples at `indices`, scaled to [0, 1] on the device."""
  images = data.to_float(jnp.asarray(split.images)[indices])
  labels = jnp.asarray(split.labels)[indices]
  return objective.Batch(images.astype(weights.dtype), labels, weights)


def scan_steps(
  step: Step,
  state: Any,
  rows: PyTree,
  observe: Callable[[Any, Any], Any] = lambda state, row: None,
) -> tuple[Any, Float[Array, " T"], Any]:
  """The training loop: one update for each row, as one scan.

  Args:
    step: (state, row) -> the next state, and the loss before the update.
    rows: What the updates read, every leaf with a leading axis of T.
    observe: (state, row) -> what is to be recorded before the update.

  Returns:
    The last state, the T losses, and what was observed, stacked over T.
  """

  def body(state: Any, row: Any) -> tuple[Any, Any]:
    seen = observe(state, row)
    state, loss = step(state, row)
    return state, (loss, seen)

  state, (losses, seen) = jax.lax.scan(body, state, rows)
  return state, losses, seen


def make_step(config: TrainConfig, split: data.Split, hparams: HParams) -> Step:
  """`train_step` on the examples of a row of an `EpochPlan`."""

  def step(
    state: TrainState, row: EpochPlan
  ) -> tuple[TrainState, Float[Array, ""]]:
    batch = gather_batch(split, row.indices, row.weights)
    return train_step(config, state, batch, row.learning_rates, hparams)

  return step


def scan_epoch(
  config: TrainConfig,
  state: TrainState,
  split: data.Split,
  plan: EpochPlan,
  hparams: HParams,
) -> tuple[TrainState, Float[Array, " T"]]:
  """All updates of a plan, one after another.

  `train_epoch` is this as one program, which consumes the state passed in.

  Returns:
    The state after the plan's T updates, and the objective before each.
  """
  return scan_steps(make_step(config, split, hparams), state, plan)[:2]


train_epoch = jax.jit(
  scan_epoch, static_argnames="config", donate_argnames="state"
)


def evaluate_params(
  activations: tuple[mlp.Activation, ...],
  params: mlp.Params,
  split: data.Split,
  chunk: int = EVALUATION_CHUNK,
) -> metrics.Metrics:
  """Loss and accuracy over every example of a split, each counted once.

  Without dropout and without the L2 term. `evaluate` is this as one program.
  """
  count = split.labels.shape[0]
  chunk = min(chunk, count)

  def one(start: Int[Array, ""]) -> metrics.Metrics:
    # The last chunk begins early enough to be whole; what it shares with the
    # one before it weighs nothing, so every example counts exactly once.
    begin = jnp.minimum(start, count - chunk)
    images = jax.lax.dynamic_slice_in_dim(split.images, begin, chunk)
    labels = jax.lax.dynamic_slice_in_dim(split.labels, begin, chunk)
    dtype = params[0].w.dtype
    weights = (begin + jnp.arange(chunk) >= start).astype(dtype)
    logits = mlp.apply(params, activations, data.to_float(images).astype(dtype))
    each = losses.softmax_cross_entropy(logits, labels)
    return metrics.measure(logits, each, labels, weights)

  return metrics.merge(jax.lax.map(one, jnp.arange(0, count, chunk)))


evaluate = jax.jit(evaluate_params, static_argnames=("activations", "chunk"))


def plan_epoch(
  config: TrainConfig,
  seed: int,
  epoch: int,
  num_examples: int,
  learning_rates: Rates,
  step: int,
) -> EpochPlan:
  """The plan of `epoch`, after `step` updates; the first of both is 0.

  Raises:
    InputError: The batch size is larger than num_examples.
  """
  order = data.epoch_order(seed, epoch, num_examples)
  indices, weights = data.batch_indices(
    order, config.batch_size, config.drop_last
  )
  rates = learning_rates[step : step + len(indices)]
  return EpochPlan(*map(jnp.asarray, (indices, weights, rates)))


def _check_finite(
  step: int,
  objectives: Float[np.ndarray, " T"],
  learning_rates: Float[np.ndarray, " T"],
  train_loss: float,
) -> None:
  """Raises NonFiniteError for the first update that did not end finite.

  objectives[t] is before update t, so what update t broke shows at t + 1, or
  after the epoch's last update in train_loss.
  """
  finite = np.isfinite([*objectives, train_loss])
  if not finite.all():
    first = max(0, int(finite.argmin()) - 1)
    raise NonFiniteError(step + first + 1, float(learning_rates[first]))


def _row(
  config: TrainConfig,
  epoch: int,
  state: TrainState,
  dataset: data.Dataset,
  learning_rate: float,
) -> dict[str, Any]:
  """The metrics after `epoch` epochs, over whole splits."""
  row: dict[str, Any] = {"epoch": epoch, "step": int(state.step)}
  row["learning_rate"] = learning_rate
  for name, split in (("train", dataset.train), ("dev", dataset.dev)):
    params = evaluation_params(config, state)
    result = evaluate(config.activations, params, split)
    row[f"{name}_loss"] = float(result.loss)
    row[f"{name}_accuracy"] = float(result.accuracy)
  return row


def _train(
  config: TrainConfig,
  split: data.Split,
  hparams: HParams,
  learning_rates: Rates,
  state: TrainState,
  seed: int,
  epochs: range,
  batch_size_at: Callable[[int], int] | None = None,
  before: Before = lambda *_: None,
) -> Iterator[tuple[TrainState, EpochPlan, Float[Array, " T"]]]:
  """The state after each epoch, its plan, and its objectives, unchecked."""
  step = int(state.step)
  for epoch in epochs:
    if batch_size_at:
      config = dataclasses.replace(config, batch_size=batch_size_at(epoch))
    plan = plan_epoch(
      config, seed, epoch, len(split.labels), learning_rates, step
    )
    before(config, state, split, plan, hparams)
    state, objectives = train_epoch(config, state, split, plan, hparams)
    step += len(plan.indices)
    yield state, plan, objectives


def epochs(
  config: TrainConfig,
  dataset: data.Dataset,
  hparams: HParams,
  learning_rates: Rates,
  state: TrainState,
  *,
  seed: int,
  first: int | None = None,
  last: int,
  batch_size_at: Callable[[int], int] | None = None,
  before: Before = lambda *_: None,
) -> Iterator[tuple[dict[str, Any], TrainState]]:
  """Trains epochs first + 1 to last, one at each step of the iteration.

  A pure function of its arguments: the same run, whether in one go or resumed
  from any of its states.

  Args:
    dataset: Its arrays are best on the device already (`to_device`).
    state: That after `first` epochs. It is consumed, as is every state yielded,
      when the iteration goes on.
    seed: Of the order of examples.
    first: The number of epochs made already; None for a new run, which yields
      the untrained state too, as epoch 0.
    batch_size_at: Of an epoch (the first is 0), instead of the config's.
    before: Called before every epoch; it must leave the state as it is.

  Yields:
    The metrics row after an epoch (its learning_rate is that of the last
    update made, at epoch 0 that of the first one to come; so is its
    batch_size, which is there with `batch_size_at`) and the state.

  Raises:
    InputError: The batch size is larger than the training set.
    NonFiniteError: The objective was not finite in the epoch just made.
  """

  def size(epoch: int) -> dict[str, int]:
    return {"batch_size": batch_size_at(epoch)} if batch_size_at else {}

  if first is None:
    first = 0
    row = _row(config, 0, state, dataset, float(learning_rates[0]))
    yield row | size(0), state
  todo, split = range(first, last), dataset.train
  more = (seed, todo, batch_size_at, before)
  run = _train(config, split, hparams, learning_rates, state, *more)
  for epoch, (state, plan, objectives) in zip(todo, run, strict=True):
    rates = np.asarray(plan.learning_rates)
    row = _row(config, epoch + 1, state, dataset, float(rates[-1]))
    begun = row["step"] - len(rates)
    _check_finite(begun, np.asarray(objectives), rates, row["train_loss"])
    yield row | size(epoch), state


def params_at(
  config: TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: Sequence[int],
  *,
  l2: float | None = None,
) -> Iterator[tuple[int, mlp.Params]]:
  """Trains at a fixed rate; yields (epoch, params) at the epochs asked for.

  The same run as that of `epochs`, without its evaluations. A run that
  diverges goes on, with weights that are not finite. Training consumes what
  was yielded when the next is asked for.

  Args:
    seed: Of the weights and of the order of examples.
    epochs: At least one, rising, from 0 (the weights at the start) on.

  Raises:
    InputError: The batch size is larger than the training set.
  """
  count, last = len(split.labels), epochs[-1]
  updates = data.updates_per_epoch(count, config.batch_size, config.drop_last)
  rates = np.full(updates * last, learning_rate, np.float32)
  state, hparams = init_state(config, seed), make_hparams(seed, l2=l2)
  if 0 in epochs:
    yield 0, evaluation_params(config, state)
  run = _train(config, split, hparams, rates, state, seed, range(last))
  for epoch, (state, _, _) in enumerate(run, 1):
    if epoch in epochs:
      yield epoch, evaluation_params(config, state)


def to_device(dataset: data.Dataset) -> data.Dataset:
  """The data set with train and dev on the default device, as uint8."""
  train, dev = jax.device_put((dataset.train, dataset.dev))
  return dataclasses.replace(dataset, train=train, dev=dev)
