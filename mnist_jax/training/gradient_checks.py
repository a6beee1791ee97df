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
from mnist_jax.gradcheck.network import check
from mnist_jax.model import objective
from mnist_jax.training import loop

EXAMPLES = 32  # of the update's batch, at most: a check costs about a second


@functools.partial(jax.jit, static_argnames="config")
def advance(
  config: loop.TrainConfig,
  state: loop.TrainState,
  split: data.Split,
  plan: loop.EpochPlan,
  hparams: loop.HParams,
  first: Int[Array, ""],
  last: Int[Array, ""],
) -> loop.TrainState:
  """The state after the plan's updates first to last - 1; nothing consumed."""

  def body(t: Int[Array, ""], state: loop.TrainState) -> loop.TrainState:
    row = jax.tree.map(lambda x: x[t], plan)
    batch = loop.gather_batch(split, row.indices, row.weights)
    return loop.train_step(config, state, batch, row.learning_rates, hparams)[0]

  return jax.lax.fori_loop(first, last, body, state)


def check_state(
  config: loop.TrainConfig,
  state: loop.TrainState,
  batch: objective.Batch,
  hparams: loop.HParams,
) -> dict[str, Any]:
  """The check of one update's gradient, in float64, over every parameter.

  Under dropout the update's own masks are frozen.

  Returns:
    "step", the chapter's "distance" of the hand-derived (or autodiff) gradient
    from the numeric one, and the "verdict" of `gradcheck`.
  """
  masks = loop.step_masks(config, state, batch.labels.shape[0], hparams)
  batch = jax.tree.map(lambda x: x[:EXAMPLES], batch)
  if masks is not None:
    masks = tuple(mask[:EXAMPLES] for mask in masks)
  subject = check.Subject(
    state.params, config.activations, batch, hparams.l2, masks
  )
  seam = check.value_and_grad_of(config.grad, config.activations)
  report = subject.check(check.gradient_of(seam))
  return {
    "step": int(state.step),
    "distance": report.distance,
    "verdict": str(report.verdict),
  }


def check_epoch(
  config: loop.TrainConfig,
  state: loop.TrainState,
  split: data.Split,
  plan: loop.EpochPlan,
  hparams: loop.HParams,
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
    batch = loop.gather_batch(split, plan.indices[t], plan.weights[t])
    results.append(check_state(config, state, batch, hparams))
  return results
