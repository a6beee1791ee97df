"""The learning-rate range test: raise the rate, watch the loss (section 12.4).

`network` tests the chapter's network, many seeds as one program; `choose` is
one rate for one run. S seeds, T updates, B examples a batch.

A test is a pure function: it trains copies, donates nothing and draws from no
generator, so whatever follows it is bit for bit as without it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from mnist_jax import data
from mnist_jax.model import objective
from mnist_jax.range_test import batches, rules
from mnist_jax.range_test.curve import MEASURES, Ramp, Recording
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop, optimizers

Noise = tuple[Float[Array, ""], Float[Array, ""]]
ValueAndGrad = Callable[[Any, Any], tuple[Float[Array, ""], Any]]

DEV_EXAMPLES = 1000
CHOICE_SEEDS = 4
_MEMBER_ELEMENTS = 1 << 20  # pixels that members hold at a time, 4 MiB
_STEPS = 500
_ADAPTIVE = ("adam", "rmsprop")


def default_ramp(optimizer: str) -> Ramp:
  """Six decades that contain the useful rates of an optimiser by name."""
  name = optimizer.partition("(")[0]
  other = name not in optimizers.OPTIMIZERS and "sgd" not in name
  low, high = (1e-6, 1.0) if name in _ADAPTIVE or other else (1e-4, 100.0)
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
  size = batches.size(batch)
  half = size // 2
  if half == 0:
    raise InputError(
      "a batch of 1 example has no halves, expected at least 2 to measure "
      "gradient noise"
    )
  first, second = (
    value_and_grad(params, part)[1] for part in batches.halves(batch)
  )
  apart = jax.tree.map(jnp.subtract, first, second)
  dot = optax.tree_utils.tree_vdot
  signal, squared = jnp.real(dot(first, second)), jnp.real(dot(apart, apart))
  return signal, squared * (2 * half / size / 4)


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
    params = loop.evaluation_params(config, state)
    return loop.evaluate_params(config.activations, params, part).loss

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
