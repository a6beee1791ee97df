"""Gradient checks while training goes on, beside it and without a trace.

Section 12.3 asks for checks repeated as the weights grow. Training itself is
not touched: its own compiled epoch runs as ever, and the states to be checked
are reached again from a copy of the epoch's first one. What the differences
give is recorded and never reaches an update.
"""

import functools
from typing import Any

import jax
from jaxtyping import Array, Int

from mnist_jax import data
from mnist_jax.gradcheck.network import check as network_gradcheck
from mnist_jax.model import objective
from mnist_jax.training import loop as train

EXAMPLES = 32  # of the update's batch, at most: a check costs about a second


@functools.partial(jax.jit, static_argnames="config")
def advance(
  config: train.TrainConfig,
  state: train.TrainState,
  split: data.Split,
  plan: train.EpochPlan,
  hparams: train.HParams,
  first: Int[Array, ""],
  last: Int[Array, ""],
) -> train.TrainState:
  """The state after the plan's updates first to last - 1; nothing consumed."""

  def body(t: Int[Array, ""], state: train.TrainState) -> train.TrainState:
    row = jax.tree.map(lambda x: x[t], plan)
    batch = train.gather_batch(split, row.indices, row.weights)
    return train.train_step(config, state, batch, row.learning_rates, hparams)[
      0
    ]

  return jax.lax.fori_loop(first, last, body, state)


def check_state(
  config: train.TrainConfig,
  state: train.TrainState,
  batch: objective.Batch,
  hparams: train.HParams,
) -> dict[str, Any]:
  """The check of one update's gradient, in float64, over every parameter.

  Under dropout the update's own masks are frozen.

  Returns:
    "step", the chapter's "distance" of the hand-derived (or autodiff) gradient
    from the numeric one, and the "verdict" of `gradcheck`.
  """
  masks = train.step_masks(config, state, batch.labels.shape[0], hparams)
  batch = jax.tree.map(lambda x: x[:EXAMPLES], batch)
  if masks is not None:
    masks = tuple(mask[:EXAMPLES] for mask in masks)
  subject = network_gradcheck.Subject(
    state.params, config.activations, batch, hparams.l2, masks
  )
  seam = network_gradcheck.value_and_grad_of(config.grad, config.activations)
  report = subject.check(network_gradcheck.gradient_of(seam))
  return {
    "step": int(state.step),
    "distance": report.distance,
    "verdict": str(report.verdict),
  }


def check_epoch(
  config: train.TrainConfig,
  state: train.TrainState,
  split: data.Split,
  plan: train.EpochPlan,
  hparams: train.HParams,
  every: int,
) -> list[dict[str, Any]]:
  """Checks each update of an epoch whose number `every` divides.

  Args:
    state: before the epoch's first update; left as it is.
    every: updates between checks, >= 1; update 0 is checked too.

  Returns:
    `check_state` of each, in order.
  """
  begin, updates = int(state.step), plan.indices.shape[0]
  results = []
  at = 0
  for t in range(-begin % every, updates, every):
    state = advance(config, state, split, plan, hparams, at, t)
    at = t
    batch = train.gather_batch(split, plan.indices[t], plan.weights[t])
    results.append(check_state(config, state, batch, hparams))
  return results
