"""The chapter's numeric gradient of the chapter's network, fast.

Section 12.3's difference of two losses for every parameter, using what is
known of the network: moving w[i, j] of a layer by h moves one column of its
pre-activation, z[:, j], by h a[:, i], and so the next layer's by a matrix of
rank one; everything before stays, and so does every example whose a[:, i] is 0.

Shapes: B batch, D input, F inputs and J units of the layer moved, F1 = F + 1
with the bias, N the units of the layer after it, C classes, S = 2 the two
points of a difference, K pairs (example, input) at a time; R = K S J rows.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mnist_jax.gradcheck._numeric.differences import require_method
from mnist_jax.model import losses, mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError

L2 = float | objective.L2

# Doubles in the widest array of a chunk (1 MiB), small enough for a cache.
_CHUNK_ELEMENTS = 1 << 17


def cast(tree: Any, dtype: Any = np.float64) -> Any:
  """Copies of all arrays, those of floating types in dtype.

  For float64 in a float64 scope.
  """

  def copy(x: Any) -> Any:
    x = np.asarray(x)
    return jnp.asarray(
      x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else None
    )

  return jax.tree.map(copy, tree)


def require_network(
  params: mlp.Params,
  activations: Sequence[mlp.Activation],
  batch: objective.Batch,
  masks: objective.Masks,
) -> None:
  """Raises InputError where activations or masks do not fit params."""
  hidden = len(params) - 1
  if len(activations) != hidden:
    raise InputError(
      f"activations has {len(activations)} names; expected {hidden}, one per "
      "hidden layer"
    )
  for name in activations:
    if name not in mlp.ACTIVATIONS:
      raise InputError(
        f"activations has {name!r}; expected names of {list(mlp.ACTIVATIONS)}"
      )
  if masks is None:
    return
  count = batch.images.shape[0]
  found = [tuple(mask.shape) for mask in masks]
  expected = [(count, layer.b.shape[0]) for layer in params[:-1]]
  if found != expected:
    raise InputError(f"masks has shapes {found}; expected {expected}")


class _Point(NamedTuple):
  """A network at a point, and what enters each of its layers there."""

  params: mlp.Params
  inputs: tuple[Float[Array, "B _"], ...]
  batch: objective.Batch
  masks: objective.Masks


def _moved_logits(
  at: _Point,
  activations: tuple[mlp.Activation, ...],
  layer: int,
  examples: Int[Array, " K"],
  dz: Float[Array, "K S J"],
) -> Float[Array, "R C"]:
  """The examples' logits when z[:, j] of a layer moves, each j by itself."""
  params, inputs, _, masks = at
  z = mlp.affine(params[layer], inputs[layer])
  if layer == len(params) - 1:
    reached, change, after = z, dz, layer
    effect = jnp.eye(z.shape[1], dtype=z.dtype)
  else:
    a = mlp.ACTIVATIONS[activations[layer]](z[examples][:, None, :] + dz)
    if masks is not None:
      a = a * masks[layer][examples][:, None, :]
    after = layer + 1
    change = a - inputs[after][examples][:, None, :]
    reached = mlp.affine(params[after], inputs[after])
    effect = params[after].w
  moved = reached[examples][:, None, None, :] + change[..., None] * effect
  moved = moved.reshape(-1, moved.shape[-1])
  if after == len(params) - 1:
    return moved
  a = mlp.ACTIVATIONS[activations[after]](moved)
  rest = None
  if masks is not None:
    repeats = dz.shape[1] * dz.shape[2]
    first, *others = (
      jnp.repeat(mask[examples], repeats, axis=0) for mask in masks[after:]
    )
    a, rest = a * first, tuple(others)
  return mlp.forward(params[after + 1 :], activations[after + 1 :], a, rest)[0]


def _pairs(
  a: Float[np.ndarray, "B F1"], weights: Float[np.ndarray, " B"], size: int
) -> tuple[Int[Array, "2 chunks K"], Int[Array, ""]]:
  """The pairs (input, example) through which the loss can change; their number.

  Where an input or an example's share is 0, no weight of it is felt. In chunks
  of at most `size`; by input, so that neighbours add to the same row of the
  result. Padded with zeros to the number of all pairs, so that any data is one
  program.
  """
  size = min(size, a.size)
  felt = np.argwhere(((a != 0) & (weights[:, None] != 0)).T)
  missing = -(-a.size // size) * size - len(felt)
  padded = np.pad(felt.T.astype(np.int32), ((0, 0), (0, missing)))
  used = jnp.asarray(len(felt), jnp.int32)
  return jnp.asarray(padded.reshape(2, -1, size)), used


@functools.partial(jax.jit, static_argnames=("activations", "layer"))
def _change(
  at: _Point,
  activations: tuple[mlp.Activation, ...],
  layer: int,
  moves: Float[Array, "S F1 J"],
  pairs: Int[Array, "2 chunks K"],
  used: Int[Array, ""],
) -> Float[Array, "F1 J"]:
  """Loss after the first move less that after the second, data term only.

  The moves are added to each of the layer's w and, in the last row, b: that is
  the weight of one more input that is always 1.
  """
  batch = at.batch
  # An example's share of the mean, as in the objective.
  shares = batch.weights / jnp.maximum(batch.weights.sum(), 1)
  a = _with_one(at.inputs[layer])
  sides, _, units = moves.shape
  size = pairs.shape[2]

  def body(
    chunk: Int[Array, ""], total: Float[Array, "F1 J"]
  ) -> Float[Array, "F1 J"]:
    i, b = pairs[:, chunk]
    dz = jnp.moveaxis(moves[:, i], 0, 1) * a[b, i][:, None, None]
    logits = _moved_logits(at, activations, layer, b, dz)
    labels = jnp.repeat(batch.labels[b], sides * units)
    each = losses.softmax_cross_entropy(logits, labels)
    each = each.reshape(size, sides, units)
    real = chunk * size + jnp.arange(size) < used
    share = jnp.where(real, shares[b], 0)
    # Subtracted before they are summed: less is lost to rounding.
    return total.at[i].add(share[:, None] * (each[:, 0] - each[:, 1]))

  chunks = (used + size - 1) // size
  return jax.lax.fori_loop(0, chunks, body, jnp.zeros_like(moves[0]))


def _with_one(a: Float[Array, "B F"]) -> Float[Array, "B F1"]:
  return jnp.concatenate([a, jnp.ones((a.shape[0], 1), a.dtype)], axis=1)


@functools.partial(jax.jit, static_argnames="activations")
def _forward(
  params: mlp.Params,
  activations: tuple[mlp.Activation, ...],
  batch: objective.Batch,
  masks: objective.Masks,
) -> tuple[Float[Array, ""], tuple[Float[Array, "B _"], ...]]:
  """The sum of the examples' losses, and what enters each layer."""
  logits, residuals = mlp.forward(params, activations, batch.images, masks)
  each = losses.softmax_cross_entropy(logits, batch.labels)
  return each.sum(), residuals.inputs


def _changes(
  params: mlp.Params,
  activations: tuple[mlp.Activation, ...],
  batch: objective.Batch,
  masks: objective.Masks,
  moves: tuple[Float[Array, "S _ _"], ...],
) -> list[Float[np.ndarray, "_ _"]]:
  """`_change` of each layer, all NaN if an example's loss is not finite."""
  loss, inputs = _forward(params, activations, batch, masks)
  if not math.isfinite(float(loss)):
    return [np.full(move.shape[1:], np.nan) for move in moves]
  at = _Point(params, inputs, batch, masks)
  weights = np.asarray(batch.weights)
  changes = []
  for layer, move in enumerate(moves):
    widest = max(p.b.shape[0] for p in params[layer:])
    size = _CHUNK_ELEMENTS // (move.shape[0] * move.shape[2] * widest)
    a = np.asarray(_with_one(inputs[layer]))
    pairs = _pairs(a, weights, max(1, size))
    changes.append(np.asarray(_change(at, activations, layer, move, *pairs)))
  return changes


def rank_one_numeric_gradient(
  params: mlp.Params,
  activations: Sequence[mlp.Activation],
  batch: objective.Batch,
  l2: L2,
  masks: objective.Masks,
  step: float,
  *,
  method: str = "two_sided",
) -> mlp.Params:
  """Section 12.3's numeric gradient of the objective in every parameter.

  It is what `gradcheck.numeric_gradient` gives for `objective.make_objective`,
  to rounding, and much sooner. In float64 in a scope of its own; the arrays
  handed over stay as they are. Memory does not grow with the number of
  parameters beyond a few copies of them.

  Args:
    params: The parameters, of any depth, one layer or more.
    activations: The activations, one per hidden layer.
    batch: Images [B, D], labels [B] and weights [B] (0 for padding).
    l2: The strength of the penalty, or None.
    masks: The frozen dropout masks of `mlp.dropout_masks`, or None.
    step: The step h, positive.
    method: The formula, "two_sided" (J(t + h) - J(t - h)) / 2h or "one_sided"
      (J(t + h) - J(t)) / h.

  Returns:
    NumPy float64 arrays in the structure of params; NaN where an example's
    loss is not finite.

  Raises:
    GradcheckError: The method is unknown.
    InputError: The step is not positive, or activations or masks do not fit
      params.
  """
  require_method(method)
  if not (math.isfinite(step) and step > 0):
    raise InputError(f"step is {step}; expected a positive number")
  require_network(params, activations, batch, masks)
  theta = [np.concatenate([p.w, p.b[None]]).astype(np.float64) for p in params]
  # (x + h) - x is not h in floating point: the steps really taken.
  up = [(x + step) - x for x in theta]
  down = [
    x - (x - step) if method == "two_sided" else np.zeros_like(x) for x in theta
  ]
  with precision.float64():
    moves = tuple(
      jnp.asarray(np.stack([u, -d])) for u, d in zip(up, down, strict=True)
    )
    changes = _changes(
      cast(params), tuple(activations), cast(batch), cast(masks), moves
    )
  strength = 0.0 if l2 is None else float(l2)
  grads: list[Any] = []
  for x, u, d, change in zip(theta, up, down, changes, strict=True):
    numeric = change / (u + d)
    # ((x + u)^2 - (x - d)^2) / 2 (u + d), multiplied out.
    numeric[:-1] += strength * (x[:-1] + (u[:-1] - d[:-1]) / 2)
    grads += [numeric[:-1], numeric[-1]]
  return jax.tree.unflatten(jax.tree.structure(params), grads)
