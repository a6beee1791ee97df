import itertools

import chapter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax.model import mlp, objective

pytestmark = pytest.mark.usefixtures("strict_promotion")


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_chapter_network_equals_the_numpy_transcription(mnist, float64):
  images = mnist.train.images[:16].astype(np.float64) / 255
  labels = mnist.train.labels[:16]
  params = mlp.init(jax.random.key(0), (784, 64, 16, 10), "xavier", jnp.float64)
  # Biases away from zero, so that a dropped bias would show.
  params = jax.tree.map(lambda w: w + 0.01, params)
  weights = [
    np.atleast_2d(part) for layer in params for part in (layer.w, layer.b)
  ]
  expected_loss, expected = chapter.batch_gradients(weights, images, labels)
  batch = objective.Batch(
    jnp.asarray(images), jnp.asarray(labels), jnp.ones(16, jnp.float64)
  )
  loss, grads = objective.hand_value_and_grad(("sigmoid", "tanh"))(
    params, batch, None, None
  )
  assert loss == pytest.approx(expected_loss, rel=1e-13)
  for ours, theirs in zip(jax.tree.leaves(grads), expected, strict=True):
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=1e-14)


NETWORKS = st.lists(
  st.tuples(st.integers(1, 6), st.sampled_from(list(mlp.ACTIVATIONS))),
  max_size=3,
)


@settings(max_examples=10)
@given(
  hidden=NETWORKS,
  inputs=st.integers(1, 7),
  classes=st.integers(2, 5),
  batch_size=st.integers(1, 6),
  padding=st.integers(0, 3),
  l2=st.sampled_from([None, 0.1]),
  dropout=st.booleans(),
  seed=st.integers(0, 2**31),
)
def test_hand_derived_equals_autodiff(
  hidden, inputs, classes, batch_size, padding, l2, dropout, seed
):
  sizes = (inputs, *(size for size, _ in hidden), classes)
  activations = tuple(name for _, name in hidden)
  # Drawn by NumPy: jax compiles each drawing for each shape, and slowly. Biases
  # are away from zero, so that a dropped bias would show.
  rng = np.random.default_rng(seed)
  params = tuple(
    mlp.Layer(
      jnp.asarray(rng.uniform(-1, 1, (m, n)), jnp.float32),
      jnp.asarray(rng.uniform(-1, 1, n), jnp.float32),
    )
    for m, n in itertools.pairwise(sizes)
  )
  rows = batch_size + padding
  batch = objective.Batch(
    jnp.asarray(rng.random((rows, inputs), np.float32)),
    jnp.asarray(np.arange(rows, dtype=np.int32) % classes),
    jnp.asarray(np.arange(rows) < batch_size, jnp.float32),
  )
  masks = None
  if dropout:
    masks = tuple(
      jnp.asarray((rng.random((rows, size)) < 0.5) * 2, jnp.float32)
      for size in sizes[1:-1]
    )
  args = (params, batch, l2 and jnp.float32(l2), masks)
  loss, grads = jax.jit(objective.make_value_and_grad("hand", activations))(
    *args
  )
  autodiff = objective.make_value_and_grad("autodiff", activations)
  auto_loss, auto = jax.jit(autodiff)(*args)
  np.testing.assert_allclose(loss, auto_loss, rtol=1e-6)
  assert jax.tree.structure(grads) == jax.tree.structure(auto)
  np.testing.assert_allclose(flat(grads), flat(auto), rtol=2e-4, atol=2e-6)


def test_padding_counts_nowhere():
  params = mlp.init(jax.random.key(0), (4, 3, 2))
  images = jax.random.uniform(jax.random.key(1), (5, 4))
  labels = jnp.array([0, 1, 1, 0, 1])
  value_and_grad = objective.hand_value_and_grad(("tanh",))
  whole = objective.Batch(images[:3], labels[:3], jnp.ones(3))
  padded = objective.Batch(images, labels, jnp.array([1.0, 1, 1, 0, 0]))
  expected = value_and_grad(params, whole, jnp.float32(0.1), None)
  actual = value_and_grad(params, padded, jnp.float32(0.1), None)
  np.testing.assert_allclose(flat(actual), flat(expected), atol=1e-7)


def test_l2_leaves_biases_alone():
  params = (mlp.Layer(jnp.ones((2, 2)), jnp.ones(2)),)
  batch = objective.Batch(jnp.ones((1, 2)), jnp.array([0]), jnp.ones(1))
  value_and_grad = objective.hand_value_and_grad(())
  _, without = value_and_grad(params, batch, None, None)
  _, with_l2 = value_and_grad(params, batch, jnp.float32(0.5), None)
  np.testing.assert_allclose(with_l2[0].w - without[0].w, 0.5, rtol=1e-6)
  np.testing.assert_array_equal(with_l2[0].b, without[0].b)
