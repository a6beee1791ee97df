"""Softmax cross-entropy from logits, its cotangent, and the L2 penalty."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_cross_entropy(
  logits: Float[Array, "B C"], labels: Int[Array, " B"]
) -> Float[Array, " B"]:
  """-log softmax(logits)[label] per example, in nats.

  The largest logit is taken out first, which is exact enough that logits of
  +-1e4 lose nothing but their own rounding.

  Args:
    labels: The class indices in [0, C); one out of range is not detected
      under jit.
  """
  log_p = jax.nn.log_softmax(logits, axis=1)
  return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


def softmax_cross_entropy_cotangent(
  logits: Float[Array, "B C"], labels: Int[Array, " B"]
) -> Float[Array, "B C"]:
  """The gradient of each example's loss in its logits: dZ3 = A3 - Y (12.2)."""
  targets = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
  return jax.nn.softmax(logits, axis=1) - targets


def l2_penalty(weights: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
  """Half the sum of squared weights, so that its gradient is w itself.

  Args:
    weights: The weight matrices; biases are not penalised.
  """
  total = sum(jnp.vdot(w, w) for w in weights)
  return 0.5 * jnp.asarray(total)
