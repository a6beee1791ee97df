"""Hessian-vector products and the largest eigenvalue, without the Hessian.

P parameters, N examples, m Lanczos steps. Losses and examples are those of
`gradient_noise`: a loss is a mean over the examples it is given, so its Hessian
over a data set is the mean of the chunks' Hessians.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mnist_jax import data
from mnist_jax.analysis import _chunked
from mnist_jax.analysis.gradient_noise import (
  LossFn,
  network_loss,
  square_norm,
)
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError


class Eigenvalue(NamedTuple):
  """An estimate of the algebraically largest eigenvalue of a symmetric A.

  Attributes:
    value: The Ritz value v^T A v, never above the largest eigenvalue but by
      rounding.
    residual: The length |A v - value v|. Some eigenvalue lies within it of
      `value` (Parlett, The Symmetric Eigenvalue Problem, theorem 4.5.1). That
      it is the largest rests on the random start, which meets every
      eigenvector.
  """

  value: Float[Array, ""]
  vector: PyTree  # the unit vector v, in the structure of the parameters
  residual: Float[Array, ""]
  steps: Int[Array, ""]  # how many products with A were made
  converged: Bool[Array, ""]  # whether residual <= tolerance * |value|


class _Krylov(NamedTuple):
  """The state of the iteration: an orthonormal basis and T = Q^T A Q."""

  basis: Float[Array, "m1 P"]
  diagonal: Float[Array, " m"]
  beside: Float[Array, " m"]  # beside[j] links j and j + 1
  step: Int[Array, ""]
  value: Float[Array, ""]
  weights: Float[Array, " m"]  # of the Ritz vector in the basis
  residual: Float[Array, ""]


def hessian_vector_product(
  loss_fn: LossFn,
  params: PyTree,
  vector: PyTree,
  examples: PyTree,
  *,
  chunk: int = 2000,
) -> PyTree:
  """H v of the mean loss: forward over reverse (Pearlmutter 1994).

  Costs about two gradients of `chunk` examples in time and memory; H is never
  formed. The vector v has the structure and types of params.

  Raises:
    InputError: as `_chunked.mean`.
  """

  def product(some: PyTree) -> PyTree:
    gradient = lambda p: jax.grad(loss_fn)(p, some)  # noqa: E731
    return jax.jvp(gradient, (params,), (vector,))[1]

  return _chunked.mean(product, examples, chunk)


def _orthogonal_to(
  vector: Float[Array, " P"], basis: Float[Array, "m1 P"]
) -> Float[Array, " P"]:
  """What of the vector the basis does not hold; rows of 0 take nothing.

  Twice is enough for working precision (Giraud et al. 2005).
  """
  for _ in range(2):
    vector = vector - (basis @ vector) @ basis
  return vector


def _top_ritz(
  diagonal: Float[Array, " m"], beside: Float[Array, " m"], size: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, " m"]]:
  """The largest eigenpair of the leading size x size part of T."""
  inside = jnp.arange(diagonal.shape[0]) < size
  links = jnp.where(inside[1:], beside[:-1], 0)
  kept = jnp.where(inside, diagonal, 0)
  # Below all eigenvalues of the part in use, so that padding is never on top.
  floor = -2 * (jnp.abs(kept).max() + 2 * jnp.abs(links).max(initial=0) + 1)
  matrix = jnp.diag(jnp.where(inside, diagonal, floor))
  matrix = matrix + jnp.diag(links, 1) + jnp.diag(links, -1)
  values, vectors = jnp.linalg.eigh(matrix)
  return values[-1], vectors[:, -1]


def _expand(
  matvec: Callable[[Float[Array, " P"]], Float[Array, " P"]], state: _Krylov
) -> _Krylov:
  """One product with A, its direction added to the basis."""
  j = state.step
  q = state.basis[j]
  image = matvec(q)
  diagonal = state.diagonal.at[j].set(jnp.vdot(q, image))
  new = _orthogonal_to(image, state.basis)
  length = jnp.linalg.norm(new)
  # What is left of an invariant subspace is rounding: no direction at all.
  noise = 8 * jnp.finfo(q.dtype).eps * jnp.linalg.norm(image)
  length = jnp.where(length > noise, length, 0)
  unit = jnp.where(length > 0, new / jnp.where(length > 0, length, 1), 0)
  beside = state.beside.at[j].set(length)
  value, weights = _top_ritz(diagonal, beside, j + 1)
  return _Krylov(
    state.basis.at[j + 1].set(unit),
    diagonal,
    beside,
    j + 1,
    value,
    weights,
    length * jnp.abs(weights[j]),
  )


def largest_eigenvalue(
  matvec: Callable[[PyTree], PyTree],
  like: PyTree,
  key: Key[Array, ""],
  *,
  max_steps: int = 64,
  tolerance: float = 1e-4,
) -> Eigenvalue:
  """Lanczos with full re-orthogonalisation, from a random start.

  Stops when the residual, beta_j |s_j| (Parlett, section 13.2), is at most
  tolerance * |value|, or after max_steps products. The value's own error is
  of the order of the residual's square over the gap to the next eigenvalue,
  so a tolerance of 1e-4 usually gives eight digits, as far as the type has
  them. For the smallest eigenvalue give -A.

  Args:
    matvec: v -> A v for a symmetric A.
    like: What has the structure, shapes and types of v; its values are not
      read.
    key: The random key of the start, which is consumed.
    max_steps: The most products, at least 1; max_steps + 1 vectors are held.
    tolerance: The relative residual to reach, > 0; below some 10 eps it is
      never met, unless the Krylov space is used up.

  Raises:
    InputError: max_steps below 1 or tolerance not above 0.
  """
  if max_steps < 1 or not tolerance > 0:
    raise InputError(
      f"max_steps is {max_steps} and tolerance {tolerance}, expected at "
      "least 1 and above 0"
    )
  flat, unravel = ravel_pytree(like)
  steps = min(max_steps, flat.size)

  def product(vector: Float[Array, " P"]) -> Float[Array, " P"]:
    return ravel_pytree(matvec(unravel(vector)))[0]

  def unfinished(state: _Krylov) -> Bool[Array, ""]:
    wanted = state.residual > tolerance * jnp.abs(state.value)
    return (state.step < steps) & wanted

  start = jax.random.normal(key, flat.shape, flat.dtype)
  basis = jnp.zeros((steps + 1, flat.size), flat.dtype)
  basis = basis.at[0].set(start / jnp.linalg.norm(start))
  zeros = jnp.zeros(steps, flat.dtype)
  zero = jnp.zeros((), flat.dtype)
  state = _Krylov(
    basis, zeros, zeros, jnp.zeros((), jnp.int32), zero, zeros, zero + jnp.inf
  )
  state = jax.lax.while_loop(
    unfinished, functools.partial(_expand, product), state
  )
  vector = state.weights @ state.basis[:-1]
  return Eigenvalue(
    state.value,
    unravel(vector),
    state.residual,
    state.step,
    state.residual <= tolerance * jnp.abs(state.value),
  )


@functools.partial(
  jax.jit, static_argnames=("loss_fn", "chunk", "max_steps", "tolerance")
)
def sharpness(
  loss_fn: LossFn,
  params: PyTree,
  examples: PyTree,
  key: Key[Array, ""],
  *,
  chunk: int = 2000,
  max_steps: int = 64,
  tolerance: float = 1e-4,
) -> Eigenvalue:
  """The largest eigenvalue of the Hessian of the mean loss at params.

  That is the sharpness of Cohen et al. (2021), "Gradient descent on neural
  networks typically occurs at the edge of stability": full-batch gradient
  descent on a quadratic of this curvature is stable below the rate
  2 / sharpness. It changes when the parameters are rescaled and the function
  is not (Dinh et al. 2017), so it compares runs of one network only.

  Args:
    chunk: The most examples at once; the rest as in `largest_eigenvalue`.

  Raises:
    InputError: as `largest_eigenvalue` and `_chunked.mean`.
  """
  matvec = functools.partial(
    hessian_vector_product,
    loss_fn,
    params,
    examples=jax.tree.map(jnp.asarray, examples),
    chunk=chunk,
  )
  return largest_eigenvalue(
    matvec, params, key, max_steps=max_steps, tolerance=tolerance
  )


def network_sharpness(
  activations: tuple[mlp.Activation, ...],
  params: mlp.Params,
  split: data.Split,
  key: Key[Array, ""],
  **settings: Any,
) -> Eigenvalue:
  """`sharpness` of the network's mean cross-entropy over a split.

  Without dropout and L2; an L2 penalty adds its factor to the curvature along
  weights.
  """
  return sharpness(network_loss(activations), params, split, key, **settings)


@functools.partial(jax.jit, static_argnames="loss_fn")
def batch_curvatures(
  loss_fn: LossFn,
  params: PyTree,
  examples: PyTree,
  indices: Int[Array | np.ndarray, "R B"],
) -> Float[Array, " R"]:
  """g^T H g / |g|^2 of each batch, with its own gradient g and Hessian H.

  Their mean over drawn batches estimates the batch sharpness of Andreyev and
  Beneventano (2024, arXiv 2412.20553), the expected directional curvature of
  mini-batch Hessians along their gradients. NaN where a gradient is 0.

  Args:
    indices: Those of each batch's examples; a program for each B.
  """
  on_device = jax.tree.map(jnp.asarray, examples)

  def one(row: Int[Array, " B"]) -> Float[Array, ""]:
    batch = jax.tree.map(lambda x: x[row], on_device)
    gradient = lambda p: jax.grad(loss_fn)(p, batch)  # noqa: E731
    g = gradient(params)
    image = jax.jvp(gradient, (params,), (g,))[1]
    products = jax.tree.map(jnp.vdot, g, image)
    return sum(jax.tree.leaves(products)) / square_norm(g)

  return jax.lax.map(one, jnp.asarray(indices))
