"""The learning-rate range test: raise the rate, watch the loss (section 12.4).

`run` takes any loss of any pytree under any optax optimiser; `network` tests
the chapter's network, many seeds as one program; `choose` is one rate for one
run. S seeds, T updates, B examples a batch.

A test is a pure function: it trains copies, donates nothing and draws from no
generator, so whatever follows it is bit for bit as without it.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from mnist_jax import data
from mnist_jax.model import objective
from mnist_jax.range_test import rules
from mnist_jax.range_test.curve import MEASURES, Ramp, Recording
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop

LossFn = Callable[[Any, Any], Float[Array, ""]]
Noise = tuple[Float[Array, ""], Float[Array, ""]]
ValueAndGrad = Callable[[Any, Any], tuple[Float[Array, ""], Any]]
MakeOptimizer = Callable[[Float[Array, ""]], optax.GradientTransformation]

DEV_EXAMPLES = 1000
CHOICE_SEEDS = 4
_MEMBER_ELEMENTS = 1 << 20  # pixels that members hold at a time, 4 MiB
_STEPS = 500
_ADAPTIVE = ("adam", "rmsprop")


def default_ramp(optimizer: str) -> Ramp:
  """Six decades that contain the useful rates of an optimiser by name."""
  low, high = (1e-6, 1.0) if optimizer in _ADAPTIVE else (1e-4, 100.0)
  return Ramp(low, high, _STEPS)


def default_rule(optimizer: str, batch_size: int) -> str:
  """The rule to follow unless told otherwise.

  The best for plain SGD; "minimum/10" where that does not apply: the rule
  "noise" asks for more than Adam can bear, and has no halves of a batch of 1
  to compare.
  """
  plain = optimizer == "sgd" and batch_size > 1
  return rules.DEFAULT_RULE if plain else "minimum/10"


def gradient_noise(
  value_and_grad: ValueAndGrad, params: PyTree, batch: PyTree
) -> Noise:
  """Unbiased estimates of |G|^2 and tr(Sigma) / B from two half batches.

  With independent halves' gradients g1 and g2, E[g1 . g2] = |G|^2, and
  E|g1 - g2|^2 = 4 tr(Sigma) / B (McCandlish et al. 2018, appendix A.1, have
  two batch sizes in place of two halves). The loss must be a mean over the
  batch's leading axis; an odd last example is left out.

  Raises:
    InputError: The batch has one example.
  """
  size = jax.tree.leaves(batch)[0].shape[0]
  half = size // 2
  if half == 0:
    raise InputError(
      "a batch of 1 example has no halves, expected at least 2 to measure "
      "gradient noise"
    )
  first, second = (
    value_and_grad(params, jax.tree.map(lambda x, s=part: x[s], batch))[1]
    for part in (slice(half), slice(half, 2 * half))
  )
  apart = jax.tree.map(jnp.subtract, first, second)
  dot = optax.tree_utils.tree_vdot
  return dot(first, second), dot(apart, apart) * (2 * half / size / 4)


def _record(
  step: loop.Step,
  state: PyTree,
  rows: PyTree,
  dev_loss: Callable[[Any], Float[Array, ""]] | None,
  noise: Callable[[Any, Any], Noise] | None,
) -> tuple[Float[Array, ""], Float[Array, " T"], Float[Array, "2 T"] | None]:
  """The test of one seed: the first loss, those after each update, and noises.

  Each loss comes from a batch that is yet to be trained on, or from `dev_loss`
  in its place; the last row only measures, at any rate.
  """

  def observe(state: Any, row: Any) -> Any:
    return dev_loss and dev_loss(state), noise and jnp.stack(noise(state, row))

  _, losses, (dev, noises) = loop.scan_steps(step, state, rows, observe)
  losses = losses if dev is None else dev
  return losses[0], losses[1:], None if noises is None else noises[:-1].T


def _stack(batches: Any, rows: int) -> PyTree:
  """The first rows of stacked batches or of an iterator, checked."""
  if hasattr(batches, "__next__"):
    taken = list(itertools.islice(batches, rows))
    if len(taken) < rows:
      raise InputError(
        f"the batches ended after {len(taken)}, expected {rows}: one for each "
        "update and one more"
      )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *taken)
  lengths = {leaf.shape[0] for leaf in jax.tree.leaves(batches)}
  if len(lengths) != 1 or min(lengths) < rows:
    raise InputError(
      f"the batches have {sorted(lengths)} rows, expected {rows} in every "
      "leaf: one for each update and one more"
    )
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:rows], batches)


def run(
  loss_fn: LossFn,
  params: PyTree | Sequence[PyTree],
  batches: PyTree | Iterable[PyTree],
  ramp: Ramp,
  *,
  make_optimizer: MakeOptimizer = optax.sgd,
  value_and_grad: ValueAndGrad | None = None,
  dev_loss: Callable[[Any], Float[Array, ""]] | None = None,
  measure_noise: bool = False,
  seeds: Sequence[int] | None = None,
) -> Recording:
  """The range test of any loss; `rules.judge` reads its result.

  Args:
    loss_fn: (params, batch) -> a scalar.
    params: Not consumed. With `seeds`, every leaf has a leading axis of S.
    batches: A pytree whose leaves have at least T + 1 rows on their leading
      axis (after that of S with `seeds`); or, without `seeds`, an iterator,
      of which T + 1 batches of one shape are taken.
    make_optimizer: The rate, which is traced, -> the transformation; its
      state must have the same structure at every rate.
    value_and_grad: What takes the place of jax.value_and_grad(loss_fn).
    dev_loss: params -> a scalar, over the same examples every time, which
      takes the place of the training loss.
    measure_noise: Whether to measure the gradient noise that the rule "noise"
      reads; the loss must be a mean over a batch's leading axis.
    seeds: The names of the S runs, all made as one program.

  Raises:
    InputError: There are fewer batches than T + 1, or leaves of other lengths.
  """
  value_and_grad = value_and_grad or jax.value_and_grad(loss_fn)
  rates = _padded(ramp)

  def step(state: Any, row: Any) -> tuple[Any, Float[Array, ""]]:
    (params, opt_state), (batch, rate) = state, row
    loss, grads = value_and_grad(params, batch)
    updates, opt_state = make_optimizer(rate).update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  def one(params: PyTree, batches: PyTree) -> Any:
    return _record(
      step,
      (params, make_optimizer(rates[0]).init(params)),
      (batches, rates),
      dev_loss and (lambda state: dev_loss(state[0])),
      (lambda state, row: gradient_noise(value_and_grad, state[0], row[0]))
      if measure_noise
      else None,
    )

  rows = ramp.steps + 1
  if seeds is None:
    found = jax.jit(one)(params, _stack(batches, rows))
    found = jax.tree.map(lambda x: x[None], found)
  else:
    taken = jax.vmap(lambda each: _stack(each, rows))(batches)
    found = jax.jit(jax.vmap(one))(params, taken)
  measured_on = "train" if dev_loss is None else "dev"
  return _recording(ramp, found, measured_on, seeds or (0,))


def _padded(ramp: Ramp) -> Float[Array, " T"]:
  """The ramp's rates, and its last once more for the row that measures."""
  rates = ramp.rates()
  return jnp.asarray(np.append(rates, rates[-1]))


def _recording(
  ramp: Ramp, found: Any, measured_on: str, seeds: Sequence[int]
) -> Recording:
  initial, losses, noise = jax.tree.map(np.asarray, found)
  return Recording(
    ramp.rates(), initial, losses, noise, measured_on, tuple(seeds)
  )


class _Member(NamedTuple):
  """One seed's run: its start, its own dropout, and its batches."""

  state: loop.TrainState
  hparams: loop.HParams
  indices: Int[Array, "T B"]


def _first_batches(
  seed: int, rows: int, num_examples: int, batch_size: int
) -> Int[np.ndarray, "T B"]:
  parts: list[np.ndarray] = []
  while sum(map(len, parts)) < rows:
    order = data.epoch_order(seed, len(parts), num_examples)
    parts.append(data.batch_indices(order, batch_size, True)[0])
  return np.concatenate(parts)[:rows]


@functools.partial(jax.jit, static_argnames=("config", "dev_examples", "chunk"))
def _record_members(
  config: loop.TrainConfig,
  members: _Member,
  rates: Float[Array, " T"],
  split: data.Split,
  dev: data.Split,
  dev_examples: int,
  chunk: int,
) -> Any:
  """`_record` for every member, `chunk` of them side by side."""
  part = data.Split(dev.images[:dev_examples], dev.labels[:dev_examples])
  value_and_grad = objective.make_value_and_grad(
    config.grad, config.activations
  )

  def dev_loss(state: loop.TrainState) -> Float[Array, ""]:
    return loop.evaluate_params(config.activations, state.params, part).loss

  def one(member: _Member) -> Any:
    state, hparams, indices = member
    ones = jnp.ones(indices.shape, state.params[0].w.dtype)

    def noise(state: loop.TrainState, row: loop.EpochPlan) -> Noise:
      batch = loop.gather_batch(split, row.indices, row.weights)
      masks = loop.step_masks(config, state, config.batch_size, hparams)
      return gradient_noise(
        lambda params, half: value_and_grad(
          params, half[0], hparams.l2, half[1]
        ),
        state.params,
        (batch, masks),
      )

    return _record(
      loop.make_step(config, split, hparams),
      state,
      loop.EpochPlan(indices, ones, rates),
      dev_loss if dev_examples else None,
      noise if config.batch_size > 1 else None,
    )

  return jax.lax.map(one, members, batch_size=chunk)


def network(
  config: loop.TrainConfig,
  hparams: loop.HParams,
  dataset: data.Dataset,
  seeds: Sequence[int],
  ramp: Ramp | None = None,
  *,
  measured_on: str = "train",
  dev_examples: int = DEV_EXAMPLES,
  order_seeds: Sequence[int] | None = None,
) -> Recording:
  """The range test of the chapter's network, with gradient noise.

  The run of seed s starts from the weights and the dropout that training with
  seed s starts from, and sees the same batches: `data.epoch_order(s, 0)`, then
  epoch 1, and so on; an epoch's short last batch is left out, since its loss
  has another noise.

  Args:
    config: It gives the batch size; a batch of 1 measures no gradient noise.
    hparams: L2 and momentum; its dropout_key is replaced by each seed's.
    ramp: `default_ramp` of the optimiser if None.
    measured_on: "train", the objective on the next batch; or "dev", the loss
      on the first `dev_examples` of the dev set, without L2 and dropout.
    order_seeds: A seed of the order of examples for each seed; by default the
      seed itself.

  Raises:
    InputError: There is no seed, `measured_on` is something else, or the batch
      is larger than the training set.
  """
  if not seeds:
    raise InputError("no seeds, expected at least one")
  if measured_on not in MEASURES:
    raise InputError(
      f"measured_on={measured_on}: expected one of {', '.join(MEASURES)}"
    )
  ramp = ramp or default_ramp(config.optimizer)
  count, size = dataset.train.labels.shape[0], config.batch_size
  rows = ramp.steps + 1
  members = [
    _Member(
      loop.init_state(config, seed),
      hparams._replace(dropout_key=loop.make_hparams(seed).dropout_key),
      jnp.asarray(_first_batches(order, rows, count, size)),
    )
    for seed, order in zip(seeds, order_seeds or seeds, strict=True)
  ]
  found = _record_members(
    config,
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *members),
    _padded(ramp),
    jax.device_put(dataset.train),
    jax.device_put(dataset.dev),
    dev_examples if measured_on == "dev" else 0,
    max(1, _MEMBER_ELEMENTS // (size * config.sizes[0])),
  )
  return _recording(ramp, found, measured_on, seeds)


def choose(
  config: loop.TrainConfig,
  hparams: loop.HParams,
  dataset: data.Dataset,
  seed: int,
  *,
  rule: str | None = None,
  ramp: Ramp | None = None,
  order_seed: int | None = None,
) -> tuple[float | None, str]:
  """One rate for the run with this seed, and why; or None, and why not.

  A function of its arguments alone, so that a resumed run chooses again what
  it chose before: the rule's suggestion over CHOICE_SEEDS seeds, the run's own
  and those after it, rounded to two digits. By the training loss, or that of
  the dev set for batches of 1.

  Args:
    rule, ramp: `default_rule` and `default_ramp` of the optimiser if None.
    order_seed: The seed of the run's order of examples; by default its seed.

  Raises:
    InputError: As `network`, or the rule is not in rules.RULES.
  """
  rule = rule or default_rule(config.optimizer, config.batch_size)
  rules.check_rule(rule)
  seeds, orders = (
    [(first + i) % 2**32 for i in range(CHOICE_SEEDS)]
    for first in (seed, seed if order_seed is None else order_seed)
  )
  recording = network(
    config,
    hparams,
    dataset,
    seeds,
    ramp,
    # The losses of single examples scatter too much for any curve.
    measured_on="train" if config.batch_size > 1 else "dev",
    order_seeds=orders,
  )
  test = rules.judge(recording)
  found = test.suggestion(rule)
  if found.rate is None:
    return None, f"range test: {found.reason}"
  rate = float(f"{found.rate:.2g}")
  interval = f", 95 % interval {found.low:.2g} to {found.high:.2g}"
  return rate, f"range test, rule {found.reason}{interval}"
