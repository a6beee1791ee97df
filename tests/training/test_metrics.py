import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax.training import metrics


@given(st.lists(st.integers(0, 2), min_size=4, max_size=12), st.integers(1, 3))
def test_chunks_merge_to_the_whole(labels, cut):
  labels = np.array(labels)
  logits = np.random.default_rng(len(labels)).normal(size=(len(labels), 3))
  each = np.abs(logits).sum(axis=1)
  ones = np.ones(len(labels))
  chunks = [
    metrics.measure(
      *(jnp.asarray(x[part]) for x in (logits, each, labels, ones))
    )
    for part in (slice(cut), slice(cut, None))
  ]
  merged = metrics.merge(
    metrics.Metrics(*(jnp.stack(field) for field in zip(*chunks, strict=True)))
  )
  np.testing.assert_allclose(merged.loss, each.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    merged.accuracy, (logits.argmax(axis=1) == labels).mean(), rtol=1e-6
  )


def test_padding_and_nan_rows():
  logits = jnp.array([[2.0, 1.0], [jnp.nan, 0.0], [5.0, 0.0]])
  result = metrics.measure(
    logits,
    jnp.array([1.0, 2.0, 99.0]),
    jnp.array([0, 0, 0]),
    jnp.array([1.0, 1.0, 0.0]),
  )
  assert (result.correct, result.examples, result.loss_sum) == (1, 2, 3)
