"""Hessian-vector products and Lanczos against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from mnist_jax import data
from mnist_jax.analysis import curvature, gradient_noise
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError

ACTIVATIONS = ("sigmoid", "tanh")


def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(
  mnist, float64
):
  """On the chapter's network, made narrow: 819 parameters."""
  split = data.Split(*(jnp.asarray(x[:23]) for x in mnist.train))
  params = mlp.init(jax.random.key(1), (784, 1, 2, 10), dtype=jnp.float64)
  loss_fn = gradient_noise.network_loss(ACTIVATIONS)
  flat, unravel = ravel_pytree(params)
  hessian = jax.jit(jax.hessian(lambda theta: loss_fn(unravel(theta), split)))(
    flat
  )
  exact = np.linalg.eigvalsh(hessian)[-1]
  found = curvature.network_sharpness(
    ACTIVATIONS, params, split, jax.random.key(9), chunk=7, tolerance=1e-6
  )
  assert found.converged
  assert found.value == pytest.approx(exact, rel=1e-6)
  # Grey levels are scaled in float32, which rounds by the program.
  rounding = 1e-6 * exact
  assert abs(found.value - exact) <= found.residual + rounding
  vector = ravel_pytree(found.vector)[0]
  off = jnp.linalg.norm(hessian @ vector - found.value * vector)
  assert off <= found.residual + rounding
  assert found.steps < 40


def symmetric(values, seed=0):
  rng = np.random.default_rng(seed)
  q = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
  return (q * values) @ q.T


@settings(max_examples=15)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.integers(0, 5))
def test_largest_of_any_spectrum_negative_and_repeated_too(values, seed):
  matrix = jnp.asarray(symmetric(np.array(values), seed), jnp.float32)
  padded = jnp.zeros((9, 9)).at[: len(values), : len(values)].set(matrix)
  # What is below all others is never the largest: one shape, one program.
  padded = padded - 20 * jnp.diag(jnp.arange(9) >= len(values)).astype(float)
  value, vector, residual, _ = _top(padded, jax.random.key(seed))
  scale = 20.0
  assert value == pytest.approx(max(values), abs=3e-5 * scale)
  off = jnp.linalg.norm(padded @ vector - value * vector)
  assert off <= residual + 3e-5 * scale
  assert jnp.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@jax.jit
def _top(matrix, key):
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, matrix[0], key, tolerance=1e-12
  )
  return found.value, found.vector, found.residual, found.steps


def test_stopped_as_soon_as_the_rule_is_met(float64):
  eigenvalues = np.linspace(-1, 1, 60)
  matrix = symmetric(eigenvalues)
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, jnp.zeros(60), jax.random.key(0), tolerance=0.05
  )
  assert found.converged
  assert 0.01 < found.residual <= 0.05
  assert found.steps < 20
  # The residual bounds the error, and is what it is said to be.
  assert np.abs(eigenvalues - float(found.value)).min() <= found.residual
  actual = np.linalg.norm(matrix @ found.vector - found.value * found.vector)
  assert found.residual == pytest.approx(actual, rel=1e-6)


def test_too_few_steps_are_said():
  matrix = jnp.asarray(symmetric(np.linspace(-1, 1, 9)), jnp.float32)
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, matrix[0], jax.random.key(0), max_steps=2
  )
  assert found.steps == 2
  assert not found.converged


def test_basis_stays_orthogonal_in_float32():
  """Without re-orthogonalisation copies of the largest would crowd in."""
  values = np.concatenate([np.linspace(0, 1, 29), [100.0]])
  matrix = jnp.asarray(symmetric(values), jnp.float32)
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, matrix[0], jax.random.key(0), max_steps=30,
    tolerance=1e-12,
  )  # fmt: skip
  assert jnp.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
  assert found.value == pytest.approx(100, rel=1e-5)


@pytest.mark.parametrize(
  ("values", "steps"), [((0,) * 9, 1), ((2, 2, 2, 2, 2, 1, 1, 1, 1), 2)]
)
def test_a_space_that_is_used_up_ends_the_search(values, steps):
  """As many products as there are different eigenvalues, and no residual."""
  found = _top(jnp.diag(jnp.array(values, jnp.float32)), jax.random.key(0))
  value, _, residual, made = found
  assert value == pytest.approx(values[0], rel=1e-5)
  assert (residual, made) == (0, steps)


@pytest.mark.parametrize(
  "wrong", [{"max_steps": 0}, {"tolerance": 0.0}, {"tolerance": np.nan}]
)
def test_settings_without_sense_are_refused(wrong):
  with pytest.raises(InputError, match="max_steps is"):
    curvature.largest_eigenvalue(
      lambda v: v, jnp.zeros(3), jax.random.key(0), **wrong
    )


def test_curvature_along_each_batchs_gradient(float64):
  """On a quadratic, whose batches have Hessians of their own."""
  rng = np.random.default_rng(0)
  matrices = rng.normal(size=(6, 3, 3))
  matrices += np.swapaxes(matrices, 1, 2)
  theta = rng.normal(size=3)

  def loss_fn(params, examples):
    return 0.5 * jnp.einsum("i,nij,j->n", params, examples, params).mean()

  rows = np.array([[0, 1], [2, 5], [3, 3]], np.int32)
  found = curvature.batch_curvatures(
    loss_fn, jnp.asarray(theta), jnp.asarray(matrices), rows
  )
  for value, row in zip(found, rows, strict=True):
    hessian = matrices[row].mean(axis=0)
    g = hessian @ theta
    assert value == pytest.approx(g @ hessian @ g / (g @ g))
