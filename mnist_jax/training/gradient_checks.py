"""Gradient checks while training goes on, beside it and without a trace.

Section 12.3 asks for checks repeated as the weights grow. Training's own
compiled epoch runs as ever; the states to be checked are reached again, update
by update, from a copy of the epoch's first one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import data
from mnist_jax.gradcheck.network import check
from mnist_jax.model import objective
from mnist_jax.training import loop

EXAMPLES = 32  # of the update's batch, at most: a check costs about a second


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
  batch, masks = jax.tree.map(lambda x: x[:EXAMPLES], (batch, masks))
  subject = check.Subject(
    state.params, config.activations, batch, hparams.l2, masks
  )
  value_and_grad = check.value_and_grad_of(config.grad, config.activations)
  report = subject.check(check.gradient_of(value_and_grad))
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
    state: The state before the epoch's first update; it is left as it is.
    every: The number of updates between checks, >= 1; update 0 is checked too.
  """
  begin, updates = int(state.step), len(plan.indices)
  checked = range(-begin % every, updates, every)
  state = jax.tree.map(jnp.copy, state)  # training consumes what it is given
  rows = jax.tree.map(np.asarray, plan)
  results = []
  for t in range(checked[-1] + 1 if checked else 0):
    row = loop.EpochPlan(*(jnp.asarray(x[t : t + 1]) for x in rows))
    if t in checked:
      batch = loop.gather_batch(split, row.indices[0], row.weights[0])
      results.append(check_state(config, state, batch, hparams))
    state, _ = loop.train_epoch(config, state, split, row, hparams)
  return results
