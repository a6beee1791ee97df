"""The chapter's objective, and its gradient derived by hand.

J(theta) = mean over the batch of cross-entropy + l2 / 2 * sum of squared
weights, with the hidden units under given dropout masks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mnist_jax.model import losses, mlp

Masks = mlp.Masks | None
Scalar = Float[Array, ""]


class Batch(NamedTuple):
  """B examples; those of weight 0 are padding and count nowhere."""

  images: Float[Array, "B D"]  # scaled to [0, 1]
  labels: Int[Array, " B"]
  weights: Float[Array, " B"]  # 1, or 0 for padding


# None and 0 mean the same; None also leaves the penalty out of the program.
L2 = Scalar | None
Objective = Callable[[mlp.Params, Batch, L2, Masks], Scalar]
ValueAndGrad = Callable[
  [mlp.Params, Batch, L2, Masks], tuple[Scalar, mlp.Params]
]


def _shares(weights: Float[Array, " B"]) -> Float[Array, " B"]:
  """Each example's share of the mean; an all-padding batch has none."""
  return weights / jnp.maximum(weights.sum(), 1)


def make_objective(activations: Sequence[mlp.Activation]) -> Objective:
  """J as a function (params, batch, l2, masks) -> scalar."""

  def objective(
    params: mlp.Params, batch: Batch, l2: L2, masks: Masks
  ) -> Scalar:
    logits, _ = mlp.forward(params, activations, batch.images, masks)
    each = losses.softmax_cross_entropy(logits, batch.labels)
    loss = jnp.vdot(_shares(batch.weights), each)
    if l2 is None:
      return loss
    return loss + l2 * losses.l2_penalty([layer.w for layer in params])

  return objective


def hand_value_and_grad(activations: Sequence[mlp.Activation]) -> ValueAndGrad:
  """J and its gradient by the formulas of section 12.2, batched.

  The same signature as `jax.value_and_grad(make_objective(activations))`.
  """

  def value_and_grad(
    params: mlp.Params, batch: Batch, l2: L2, masks: Masks
  ) -> tuple[Scalar, mlp.Params]:
    logits, residuals = mlp.forward(params, activations, batch.images, masks)
    shares = _shares(batch.weights)
    each = losses.softmax_cross_entropy(logits, batch.labels)
    loss = jnp.vdot(shares, each)
    dlogits = losses.softmax_cross_entropy_cotangent(logits, batch.labels)
    grads = mlp.backward(
      params, activations, residuals, dlogits * shares[:, None]
    )
    if l2 is None:
      return loss, grads
    penalty = losses.l2_penalty([layer.w for layer in params])
    return loss + l2 * penalty, tuple(
      mlp.Layer(g.w + l2 * layer.w, g.b)
      for g, layer in zip(grads, params, strict=True)
    )

  return value_and_grad


def make_value_and_grad(
  kind: str, activations: Sequence[mlp.Activation]
) -> ValueAndGrad:
  """The gradient that the trainer uses: kind "hand" or "autodiff".

  Raises:
    KeyError: another kind.
  """
  if kind not in GRADIENTS:
    raise KeyError(kind)
  if kind == "hand":
    return hand_value_and_grad(activations)
  return jax.value_and_grad(make_objective(activations))


GRADIENTS = ("hand", "autodiff")
