"""How noisy a gradient is: per-example moments, and mini-batches drawn.

N examples, P parameters, B batch, R batches drawn. The examples at hand are
the whole population: G is the mean of their N gradients g_i, and
Sigma = mean (g_i - G)(g_i - G)^T, divided by N and not N - 1.

A loss is any `loss_fn(params, examples) -> scalar` that is a mean over the
examples it is given, `examples` a pytree with their number on the first axis
of every leaf, and hashable, so that its program is compiled once. What all
examples share, such as an L2 penalty, moves G and leaves Sigma as it is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from mnist_jax import data
from mnist_jax.analysis import _chunked
from mnist_jax.model import losses, mlp
from mnist_jax.runtime.errors import InputError

LossFn = Callable[[Any, Any], Float[Array, ""]]


class Moments(NamedTuple):
  """Mean and total variance of the per-example gradients."""

  mean: PyTree  # G, in the structure of params
  square_norm: Float[Array, ""]  # |G|^2
  mean_square: Float[Array, ""]  # the mean of |g_i|^2

  @property
  def trace(self) -> Float[Array, ""]:
    """tr(Sigma) = mean |g_i|^2 - |G|^2, at least 0."""
    return jnp.maximum(self.mean_square - self.square_norm, 0)

  @property
  def noise_scale(self) -> Float[Array, ""]:
    """B_simple = tr(Sigma) / |G|^2 (McCandlish et al. 2018, section 2.2).

    In examples; infinite where G is 0 and Sigma is not.
    """
    return self.trace / self.square_norm


def square_norm(tree: PyTree) -> Float[Array, ""]:
  """The sum of squares over all leaves."""
  return jnp.asarray(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def _moments(mean: PyTree, mean_square: Float[Array, ""]) -> Moments:
  return Moments(mean, square_norm(mean), mean_square)


@functools.partial(jax.jit, static_argnames=("loss_fn", "chunk"))
def gradient_moments(
  loss_fn: LossFn, params: PyTree, examples: PyTree, *, chunk: int = 256
) -> Moments:
  """The moments over N examples, from each example's own gradient.

  Args:
    chunk: How many gradients are held at once: chunk * P numbers in memory.

  Raises:
    InputError: as `_chunked.mean`.
  """

  def one(example: PyTree) -> PyTree:
    batch = jax.tree.map(lambda x: x[None], example)
    return jax.grad(loss_fn)(params, batch)

  def both(some: PyTree) -> tuple[PyTree, Float[Array, ""]]:
    grads = jax.vmap(one)(some)
    squares = jax.vmap(square_norm)(grads)
    return jax.tree.map(lambda g: g.mean(axis=0), grads), squares.mean()

  return _moments(*_chunked.mean(both, examples, chunk))


@functools.partial(jax.jit, static_argnames=("activations", "chunk"))
def network_moments(
  activations: tuple[mlp.Activation, ...],
  params: mlp.Params,
  split: data.Split,
  *,
  chunk: int = 2000,
) -> Moments:
  """`gradient_moments` of the network's cross-entropy, without its matrices.

  For one sample dW = A^T . dZ is of rank one and dB = dZ (section 12.2), so a
  layer's part of |g_i|^2 is |dz_i|^2 (|a_i|^2 + 1) (Goodfellow 2015,
  "Efficient per-example gradient computations"). Without dropout and L2.

  Args:
    chunk: How many examples are taken at once: their activations are held, not
      their gradients.
  """
  dtype = params[0].w.dtype

  def gradient(
    images: Float[Array, "k D"], labels: Int[Array, " k"]
  ) -> tuple[mlp.Params, mlp.Residuals]:
    """The sum of the examples' gradients."""
    logits, residuals = mlp.forward(params, activations, images)
    dlogits = losses.softmax_cross_entropy_cotangent(logits, labels)
    return mlp.backward(params, activations, residuals, dlogits), residuals

  def square(
    image: Float[Array, " D"], label: Int[Array, ""]
  ) -> Float[Array, ""]:
    # dW is not read, and the compiler leaves its product out.
    grads, residuals = gradient(image[None], label[None])
    return jnp.asarray(
      sum(
        jnp.vdot(layer.b, layer.b) * (jnp.vdot(a, a) + 1)
        for layer, a in zip(grads, residuals.inputs, strict=True)
      )
    )

  def both(some: data.Split) -> tuple[mlp.Params, Float[Array, ""]]:
    images = data.to_float(some.images).astype(dtype)
    labels = jnp.asarray(some.labels)
    total, _ = gradient(images, labels)
    squares = jax.vmap(square)(images, labels)
    mean = jax.tree.map(lambda g: g / images.shape[0], total)
    return mean, squares.mean()

  return _moments(*_chunked.mean(both, split, chunk))


def draw_batches(
  rng: np.random.Generator, num_examples: int, batch_size: int, repetitions: int
) -> Int[np.ndarray, "R B"]:
  """R independent batches, each of B different examples.

  Raises:
    InputError: B is not in [1, N].
  """
  if not 1 <= batch_size <= num_examples:
    raise InputError(
      f"batch_size is {batch_size}, expected 1 to {num_examples}"
    )
  rows = [
    rng.choice(num_examples, batch_size, replace=False, shuffle=False)
    for _ in range(repetitions)
  ]
  return np.stack(rows).astype(np.int32)


@functools.partial(jax.jit, static_argnames="loss_fn")
def square_distances(
  loss_fn: LossFn,
  params: PyTree,
  examples: PyTree,
  indices: Int[Array | np.ndarray, "R B"],
  centre: PyTree | None = None,
) -> Float[Array, " R"]:
  """|g - centre|^2 for the gradient g of each batch; |g|^2 without centre.

  With centre = G, its mean over independently drawn batches estimates the
  batch gradient's total variance without bias (see `variance_share`).

  Args:
    indices: Those of each batch's examples; a program for each B.
    centre: A point in the structure of params; None stands for 0.
  """
  on_device = jax.tree.map(jnp.asarray, examples)

  def one(row: Int[Array, " B"]) -> Float[Array, ""]:
    batch = jax.tree.map(lambda x: x[row], on_device)
    grads = jax.grad(loss_fn)(params, batch)
    if centre is not None:
      grads = jax.tree.map(jnp.subtract, grads, centre)
    return square_norm(grads)

  return jax.lax.map(one, jnp.asarray(indices))


def variance_share(batch_size: int, num_examples: int | None) -> float:
  """The batch gradient's total variance, as a share of tr(Sigma).

  1 / B for a batch drawn from N = infinity or with replacement, None. Without
  replacement (N - B) / (N - 1) / B: the finite-population correction, by
  which a batch of all N examples has no variance (Cochran 1977, theorem 2.2).
  """
  if num_examples is None:
    return 1 / batch_size
  if num_examples == 1:
    return 0.0
  return (num_examples - batch_size) / (num_examples - 1) / batch_size


@functools.cache
def network_loss(activations: tuple[mlp.Activation, ...]) -> LossFn:
  """The network's mean cross-entropy over a `data.Split`, as a `LossFn`."""

  def loss_fn(params: mlp.Params, split: data.Split) -> Float[Array, ""]:
    images = data.to_float(split.images).astype(params[0].w.dtype)
    logits = mlp.apply(params, activations, images)
    labels = jnp.asarray(split.labels)
    return losses.softmax_cross_entropy(logits, labels).mean()

  return loss_fn
