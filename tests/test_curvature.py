"""Hessian-vector products and Lanczos against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from mnist_jax import curvature, data, mlp, noise
from mnist_jax.errors import InputError

ACTIVATIONS = ("sigmoid", "tanh")


@pytest.fixture(scope="module")
def small():
  """A network of 6 inputs as a loss, and its data."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(23, 6))
  y = rng.integers(0, 3, 23)

  def loss_fn(params, examples):
    images, labels = map(jnp.asarray, examples)
    logits = mlp.apply(params, ACTIVATIONS, images)
    log_p = jax.nn.log_softmax(logits, axis=1)
    return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

  return loss_fn, (x, y)


def dense(loss_fn, params, examples):
  flat, unravel = ravel_pytree(params)
  hessian = jax.jit(
    jax.hessian(lambda theta: loss_fn(unravel(theta), examples))
  )
  return hessian(flat)


def make(seed=1):
  return mlp.init(jax.random.key(seed), (6, 5, 4, 3), dtype=jnp.float64)


def test_product_and_sharpness_are_those_of_the_dense_hessian(small, float64):
  loss_fn, examples = small
  params = make()
  hessian = dense(loss_fn, params, examples)
  flat, unravel = ravel_pytree(params)
  vector = jax.random.normal(jax.random.key(2), flat.shape, flat.dtype)
  product = jax.jit(
    lambda v: curvature.hessian_vector_product(
      loss_fn, params, v, examples, chunk=5
    )
  )
  np.testing.assert_allclose(
    ravel_pytree(product(unravel(vector)))[0],
    hessian @ vector,
    rtol=1e-9,
    atol=1e-13,
  )
  found = curvature.sharpness(
    loss_fn, params, examples, jax.random.key(9), chunk=7, tolerance=1e-6
  )
  exact = np.linalg.eigvalsh(hessian)[-1]
  assert found.converged
  assert found.value == pytest.approx(exact, rel=1e-6)
  assert abs(found.value - exact) <= found.residual + 1e-12
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
  value, vector, residual = _top(padded, jax.random.key(seed))
  scale = 20.0
  assert value == pytest.approx(max(values), abs=3e-5 * scale)
  off = jnp.linalg.norm(padded @ vector - value * vector)
  assert off <= residual + 3e-5 * scale
  assert jnp.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@jax.jit
def _top(matrix, key):
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, matrix[0], key, tolerance=1e-6
  )
  return found.value, found.vector, found.residual


def test_residual_bounds_the_error_when_stopped_early(float64):
  matrix = symmetric(np.linspace(-1, 1, 60))
  for steps in (1, 6):
    found = curvature.largest_eigenvalue(
      lambda v: matrix @ v,
      jnp.zeros(60),
      jax.random.key(0),
      max_steps=steps,
      tolerance=1e-9,
    )
    assert found.steps == steps
    assert not found.converged
    gaps = np.abs(np.linspace(-1, 1, 60) - float(found.value))
    assert gaps.min() <= found.residual
    actual = np.linalg.norm(matrix @ found.vector - found.value * found.vector)
    assert found.residual == pytest.approx(actual, rel=1e-6)


def test_stopping_rule_is_met_and_not_passed(float64):
  matrix = symmetric(np.linspace(0, 1, 60))
  loose, tight = (
    curvature.largest_eigenvalue(
      lambda v: matrix @ v,
      jnp.zeros(60),
      jax.random.key(0),
      max_steps=60,
      tolerance=tolerance,
    )
    for tolerance in (1e-2, 1e-8)
  )
  assert loose.converged
  assert tight.converged
  assert loose.steps < tight.steps < 60
  assert tight.value == pytest.approx(1, rel=1e-12)


def test_basis_stays_orthogonal_in_float32():
  """Without re-orthogonalisation copies of the largest would crowd in."""
  values = np.concatenate([np.linspace(0, 1, 99), [100.0]])
  matrix = jnp.asarray(symmetric(values), jnp.float32)
  found = curvature.largest_eigenvalue(
    lambda v: matrix @ v, matrix[0], jax.random.key(0), max_steps=60,
    tolerance=1e-12,
  )  # fmt: skip
  assert jnp.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
  assert found.value == pytest.approx(100, rel=1e-5)


def test_zero_curvature_is_found_at_once():
  found = curvature.largest_eigenvalue(
    lambda v: 0 * v, jnp.zeros(5), jax.random.key(0)
  )
  assert (found.value, found.residual, found.steps) == (0, 0, 1)
  assert found.converged


@pytest.mark.parametrize(
  "wrong", [{"max_steps": 0}, {"tolerance": 0.0}, {"tolerance": np.nan}]
)
def test_settings_without_sense_are_refused(wrong):
  with pytest.raises(InputError, match="max_steps is"):
    curvature.largest_eigenvalue(
      lambda v: v, jnp.zeros(3), jax.random.key(0), **wrong
    )


def test_network_sharpness_explains_where_descent_becomes_unstable(mnist):
  """Near a point the loss along v is a parabola of this curvature."""
  split = data.Split(mnist.train.images[:300], mnist.train.labels[:300])
  params = mlp.init(jax.random.key(0), (784, 8, 6, 10))
  found = curvature.network_sharpness(
    ACTIVATIONS, params, split, jax.random.key(1), tolerance=1e-3
  )
  assert found.converged
  loss_fn = noise.network_loss(ACTIVATIONS)

  def at(h):
    moved = jax.tree.map(lambda p, v: p + h * v, params, found.vector)
    return float(loss_fn(moved, split))

  h = 0.1
  curvature_along = (at(h) - 2 * at(0.0) + at(-h)) / h**2
  assert found.value == pytest.approx(curvature_along, rel=0.02)
