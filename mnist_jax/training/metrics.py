"""Sums and counts over examples, merged by adding and divided once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Metrics(NamedTuple):
  """Sums over examples; padding has weight 0 and adds nothing."""

  loss_sum: Float[Array, "..."]  # cross-entropy, in nats
  correct: Float[Array, "..."]
  examples: Float[Array, "..."]

  @property
  def loss(self) -> Float[Array, "..."]:
    """Mean cross-entropy, in nats; NaN over no examples."""
    return self.loss_sum / self.examples

  @property
  def accuracy(self) -> Float[Array, "..."]:
    """Fraction right, in [0, 1]; NaN over no examples."""
    return self.correct / self.examples


def measure(
  logits: Float[Array, "B C"],
  losses: Float[Array, " B"],
  labels: Int[Array, " B"],
  weights: Float[Array, " B"],
) -> Metrics:
  """The metrics of one chunk of examples.

  A row of logits with a NaN counts as wrong, whatever argmax says of it.
  """
  right = (logits.argmax(axis=1) == labels) & ~jnp.isnan(logits).any(axis=1)
  return Metrics(
    jnp.vdot(weights, losses), jnp.vdot(weights, right), weights.sum()
  )


def merge(stacked: Metrics) -> Metrics:
  """The metrics of all chunks together, from fields with a leading axis."""
  return jax.tree.map(lambda x: x.sum(axis=0), stacked)
