"""The chapter's backward with every formula of it open to change.

`make_value_and_grad(activations, RIGHT)` is the hand-derived gradient of
`objective.hand_value_and_grad`, formula by formula; with one formula altered it
is that gradient with one known mistake, to see whether the check finds it.

Layers count from 0 here: W1 of the chapter is params[0].w.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mnist_jax.model import losses, mlp, objective

Formula = Callable[..., Any]  # (point, layer, *inputs) -> array
Change = Callable[..., Any]  # (right value, point, layer, *inputs) -> array


class Point(NamedTuple):
  """Where the gradient is taken: all that a formula may read."""

  params: mlp.Params
  activations: tuple[mlp.Activation, ...]
  batch: objective.Batch
  logits: Float[Array, "B C"]
  residuals: mlp.Residuals

  @property
  def examples(self) -> Float[Array, ""]:
    """m, the examples in the mean; at least 1."""
    return jnp.maximum(self.batch.weights.sum(), 1)

  def z(self, layer: int) -> Float[Array, "B _"]:
    """The layer's pre-activation."""
    return mlp.affine(self.params[layer], self.residuals.inputs[layer])

  def mask(self, layer: int) -> Float[Array, "B _"]:
    """The hidden layer's dropout mask, all 1 without dropout."""
    masks = self.residuals.masks
    if masks is None:
      return jnp.ones_like(self.residuals.outputs[layer])
    return masks[layer]


@dataclasses.dataclass(frozen=True)
class Formulas:
  """Section 12.2's backward over a batch, each formula by itself.

  Each is a function of the point, the layer and what else it is made from.
  """

  # Each example's part of the mean, 1/m [B].
  shares: Formula = lambda at, _: at.batch.weights / at.examples
  # A - Y of the last layer [B, C].
  residual: Formula = lambda at, _: losses.softmax_cross_entropy_cotangent(
    at.logits, at.batch.labels
  )
  dw: Formula = lambda at, i, dz: at.residuals.inputs[i].T @ dz
  db: Formula = lambda at, _, dz: dz.sum(axis=0)
  # Of a layer's input, before the mask.
  da: Formula = lambda at, i, dz: dz @ at.params[i].w.T
  # Of a hidden layer's output before dropout, from that after it.
  mask: Formula = lambda at, i, da: da * at.mask(i)
  # Of a hidden layer's activation [B, H].
  derivative: Formula = lambda at, i: mlp.DERIVATIVES[at.activations[i]](
    at.residuals.outputs[i]
  )
  penalty_w: Formula = lambda at, i, l2: l2 * at.params[i].w
  penalty_b: Formula = lambda at, i, l2: jnp.zeros_like(at.params[i].b)
  # A finished tensor as it is handed out.
  result: Formula = lambda at, _, tensor: tensor


RIGHT = Formulas()


def altered(site: str, change: Change, layer: int | None = None) -> Formulas:
  """The right formulas but for that called `site`, in one layer or in all.

  The change of the right value stands in its place.
  """
  before = getattr(RIGHT, site)

  def formula(at: Point, i: int, *inputs: Any) -> Any:
    value = before(at, i, *inputs)
    return value if layer not in (None, i) else change(value, at, i, *inputs)

  return dataclasses.replace(RIGHT, **{site: formula})


def _backward(formulas: Formulas, at: Point, l2: objective.L2) -> mlp.Params:
  last = len(at.params) - 1
  shares = formulas.shares(at, last)
  dz = formulas.residual(at, last) * shares[:, None]
  grads: list[mlp.Layer] = []
  for i in reversed(range(last + 1)):
    dw, db = formulas.dw(at, i, dz), formulas.db(at, i, dz)
    if l2 is not None:
      dw = dw + formulas.penalty_w(at, i, l2)
      db = db + formulas.penalty_b(at, i, l2)
    grads.append(
      mlp.Layer(formulas.result(at, i, dw), formulas.result(at, i, db))
    )
    if i:
      da = formulas.mask(at, i - 1, formulas.da(at, i, dz))
      dz = da * formulas.derivative(at, i - 1)
  return tuple(reversed(grads))


def make_value_and_grad(
  activations: Sequence[mlp.Activation], formulas: Formulas
) -> objective.ValueAndGrad:
  """J, always right, and its gradient by the given formulas.

  The same signature as `objective.hand_value_and_grad(activations)`, whose
  gradient it is under `RIGHT`.
  """
  names = tuple(activations)
  loss_fn = objective.make_objective(names)

  def value_and_grad(
    params: mlp.Params,
    batch: objective.Batch,
    l2: objective.L2,
    masks: objective.Masks,
  ) -> tuple[objective.Scalar, mlp.Params]:
    logits, residuals = mlp.forward(params, names, batch.images, masks)
    at = Point(params, names, batch, logits, residuals)
    loss = loss_fn(params, batch, l2, masks)
    return loss, _backward(formulas, at, l2)

  return value_and_grad
