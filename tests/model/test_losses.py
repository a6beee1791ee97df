import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mnist_jax.model import losses

pytestmark = pytest.mark.usefixtures("strict_promotion")

LOGITS = hnp.arrays(
  np.float32,
  st.sampled_from([(1, 2), (3, 10), (5, 4)]),
  elements=st.floats(-30, 30, width=32),
)


@given(LOGITS, st.integers(0, 1))
def test_equals_the_definition_and_optax(logits, label):
  labels = jnp.full(logits.shape[0], label)
  ours = losses.softmax_cross_entropy(jnp.asarray(logits), labels)
  wide = logits.astype(np.float64)
  shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
  definition = -np.log((shifted / shifted.sum(axis=1, keepdims=True))[:, label])
  np.testing.assert_allclose(ours, definition, rtol=2e-5, atol=2e-5)
  theirs = optax.softmax_cross_entropy_with_integer_labels(
    jnp.asarray(logits), labels
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@given(LOGITS)
def test_cotangent_is_the_gradient(logits):
  labels = jnp.zeros(logits.shape[0], jnp.int32)
  ours = losses.softmax_cross_entropy_cotangent(jnp.asarray(logits), labels)
  theirs = jax.grad(lambda z: losses.softmax_cross_entropy(z, labels).sum())(
    jnp.asarray(logits)
  )
  np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_stable_for_logits_of_ten_thousand():
  logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
  labels = jnp.array([1, 2])
  ours = losses.softmax_cross_entropy(logits, labels)
  np.testing.assert_allclose(ours, [2e4, np.log(2)], rtol=1e-6)
  cotangent = losses.softmax_cross_entropy_cotangent(logits, labels)
  np.testing.assert_allclose(cotangent, [[1, -1, 0], [0, 0.5, -0.5]])


def test_penalty_is_half_the_sum_of_squares():
  weights = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
  assert losses.l2_penalty(weights) == pytest.approx(15)
  grads = jax.grad(losses.l2_penalty)(weights)
  for grad, weight in zip(grads, weights, strict=True):
    np.testing.assert_array_equal(grad, weight)
