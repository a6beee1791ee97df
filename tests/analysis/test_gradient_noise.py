"""Per-example moments, drawn batches, and the noise scale from two sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax import data
from mnist_jax.analysis import _chunked, gradient_noise, two_batch
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes

ACTIVATIONS = ("sigmoid", "tanh")
SIZES = (784, 4, 3, 10)


def linear_loss(params, examples):
  """Least squares: the gradient of one example is (w . x - y) x."""
  x, y = examples
  return 0.5 * jnp.mean((x @ params - y) ** 2)


@pytest.fixture(scope="module")
def line():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(37, 4)), rng.normal(size=37)
  params = rng.normal(size=4)
  gradients = (x @ params - y)[:, None] * x
  return params, (x, y), gradients


@pytest.fixture(scope="module")
def few(mnist):
  return data.Split(mnist.train.images[:101], mnist.train.labels[:101])


def network(dtype=jnp.float32):
  return mlp.init(jax.random.key(3), SIZES, dtype=dtype)


def trace_of(gradients):
  return np.cov(gradients.T, bias=True).trace()


@pytest.mark.parametrize(
  ("count", "chunk"), [(1, 1), (7, 1), (12, 4), (13, 4), (15, 4), (5, 9)]
)
def test_chunked_mean_is_the_mean(count, chunk):
  x = np.arange(count, dtype=np.float32) ** 2
  found = _chunked.mean(
    lambda some: {"mean": some["x"].mean()}, {"x": jnp.asarray(x)}, chunk
  )
  assert found["mean"] == pytest.approx(x.mean(), rel=1e-6)


@pytest.mark.parametrize(
  ("examples", "chunk", "found"),
  [
    ({}, 2, "shapes []"),
    ((np.ones(3), np.ones(4)), 2, "(4,)"),
    (np.ones((0, 2)), 2, "(0, 2)"),
    (np.ones(3), 0, "chunk is 0"),
  ],
)
def test_chunks_refuse_what_has_no_mean(examples, chunk, found):
  with pytest.raises(InputError) as error:
    _chunked.mean(lambda some: some, examples, chunk)
  assert found in str(error.value)


@pytest.mark.parametrize("chunk", [5, 100])
def test_moments_of_any_loss_are_the_covariance_of_its_gradients(
  line, float64, chunk
):
  params, examples, gradients = line
  found = gradient_noise.gradient_moments(
    linear_loss, params, examples, chunk=chunk
  )
  np.testing.assert_allclose(found.mean, gradients.mean(axis=0), rtol=1e-12)
  assert found.trace == pytest.approx(trace_of(gradients), rel=1e-12)
  expected = trace_of(gradients) / np.sum(gradients.mean(axis=0) ** 2)
  assert found.noise_scale == pytest.approx(expected, rel=1e-12)


def test_network_moments_are_those_of_the_plain_way(few, float64):
  params = network(jnp.float64)
  loss_fn = gradient_noise.network_loss(ACTIVATIONS)
  plain = gradient_noise.gradient_moments(loss_fn, params, few, chunk=101)
  fast = gradient_noise.network_moments(ACTIVATIONS, params, few, chunk=40)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fast), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-13)
  assert float(fast.trace) == pytest.approx(float(plain.trace), rel=1e-11)


def test_fast_moments_hold_no_matrix_per_example(few):
  lowered = gradient_noise.network_moments.lower(
    ACTIVATIONS, network(), few, chunk=101
  )
  compiled = lowered.compile().memory_analysis()
  # All 101 gradients of the first layer alone would be 101 x 784 x 4 floats.
  assert compiled.temp_size_in_bytes < 101 * 784 * 4 * 4


def test_equal_examples_have_no_variance():
  one = data.Split(np.full((6, 784), 9, np.uint8), np.full(6, 3, np.int32))
  found = gradient_noise.network_moments(ACTIVATIONS, network(), one)
  assert 0 <= found.trace <= 1e-5 * found.square_norm


@pytest.mark.parametrize("batch_size", [1, 6, 36])
def test_drawn_batches_have_the_exact_variance(line, float64, batch_size):
  params, examples, gradients = line
  rng = np.random.default_rng(1)
  rows = gradient_noise.draw_batches(rng, 37, batch_size, 4000)
  assert all(len(set(row)) == batch_size for row in rows[:50].tolist())
  found = gradient_noise.square_distances(
    linear_loss, params, examples, rows, gradients.mean(axis=0)
  )
  exact = trace_of(gradients) * gradient_noise.variance_share(batch_size, 37)
  error = np.std(found) / np.sqrt(len(found))
  assert abs(np.mean(found) - exact) < 4 * error
  # Without the finite-population factor the three would not pass.
  if batch_size == 36:
    assert exact < 0.03 * trace_of(gradients) / 36


def test_a_batch_of_everything_has_no_variance_and_no_other_fits(line):
  params, examples, gradients = line
  rows = gradient_noise.draw_batches(np.random.default_rng(0), 37, 37, 2)
  found = gradient_noise.square_distances(
    linear_loss, params, examples, rows, gradients.mean(axis=0)
  )
  np.testing.assert_allclose(found, 0, atol=1e-10)
  assert (
    gradient_noise.variance_share(37, 37)
    == 0
    == gradient_noise.variance_share(1, 1)
  )
  for wrong in (0, 38):
    with pytest.raises(InputError, match=f"batch_size is {wrong}"):
      gradient_noise.draw_batches(np.random.default_rng(0), 37, wrong, 2)


def test_variance_falls_like_one_over_the_batch_in_the_network(mnist):
  """The pipeline of B4: the slope on log axes over independent seeds is -1."""
  split = data.Split(mnist.train.images[:3000], mnist.train.labels[:3000])
  split = jax.device_put(split)
  params, sizes = network(), np.array([1, 8, 64])
  loss_fn = gradient_noise.network_loss(ACTIVATIONS)
  moments = gradient_noise.network_moments(ACTIVATIONS, params, split)
  assert moments.trace.dtype == jnp.float32
  found = np.empty((12, len(sizes)))
  for k, size in enumerate(sizes.tolist()):
    rows = gradient_noise.draw_batches(
      np.random.default_rng(k), 3000, size, 12 * 40
    )
    distances = gradient_noise.square_distances(
      loss_fn, params, split, rows, moments.mean
    )
    found[:, k] = np.asarray(distances).reshape(12, 40).mean(axis=1)
  slope = slopes.loglog_slope(sizes, found, seed=0)
  assert slope.low < -1.0 < slope.high or abs(slope.estimate + 1) < 0.03
  assert slope.high - slope.low < 0.2
  exact = float(moments.trace) * np.array(
    [gradient_noise.variance_share(b, 3000) for b in sizes.tolist()]
  )
  np.testing.assert_allclose(found.mean(axis=0), exact, rtol=0.1)


def test_two_batch_formulas_are_the_papers():
  """McCandlish et al. (2018), eq. A.2 and A.3, with their own symbols."""
  small, big, b, B = np.array([5.0, 7.0]), np.array([2.0, 1.0]), 4, 64
  square_norm, trace = two_batch.terms(small, big, (b, B))
  np.testing.assert_allclose(square_norm, (B * big - b * small) / (B - b))
  np.testing.assert_allclose(trace, (small - big) / (1 / b - 1 / B))


@given(
  st.floats(0.01, 100),
  st.floats(0.01, 100),
  st.integers(1, 50),
  st.integers(1, 50),
  st.sampled_from([None, 100, 5000]),
)
def test_two_batch_inverts_its_own_model(norm, trace, b, more, count):
  sizes = (b, b + more)
  small, big = (
    np.full(3, norm + trace * gradient_noise.variance_share(size, count))
    for size in sizes
  )
  found_norm, found_trace = two_batch.terms(small, big, sizes, count)
  scale = norm + trace
  np.testing.assert_allclose(found_norm, norm, atol=1e-9 * scale * 1e3)
  np.testing.assert_allclose(found_trace, trace, atol=1e-9 * scale * 1e5)


def draws(rng, norm, count):
  """|g|^2 of batches of 4 and 64 of Gaussian gradients, trace(Sigma) = 8."""
  mean = np.array([norm, 0, 0, 0, 0, 0, 0, 0]) ** 0.5
  small, big = (
    (mean + rng.normal(size=(count, 8)) / b**0.5) ** 2 for b in (4, 64)
  )
  return two_batch.noise_scale(small.sum(axis=1), big.sum(axis=1), (4, 64))


def test_interval_covers_the_true_noise_scale_at_its_rate():
  rng = np.random.default_rng(0)
  found = [draws(rng, 1.0, 200) for _ in range(300)]
  inside = [f.scale.low <= 8.0 <= f.scale.high for f in found]
  assert 0.91 <= np.mean(inside) <= 0.985
  errors = [f.scale.estimate for f in found]
  assert np.mean([f.scale.standard_error for f in found]) == pytest.approx(
    np.std(errors), rel=0.25
  )


def test_noise_scale_is_undefined_where_the_gradient_may_be_zero():
  found = draws(np.random.default_rng(2), 0.0, 30)
  assert found.scale is None
  assert found.square_norm.low <= 0
  assert found.reason.startswith("undefined: |G|^2 is")
  assert found.trace.low < 8 < found.trace.high


def test_noise_scale_of_constant_estimates_has_no_width():
  # |G|^2 = 2 and tr(Sigma) = 6: 2 + 6 / 1 and 2 + 6 / 2.
  found = two_batch.noise_scale(np.full(5, 8.0), np.full(5, 5.0), (1, 2))
  assert (found.scale.low, found.scale.estimate, found.scale.high) == (3, 3, 3)


@pytest.mark.parametrize(
  ("sizes", "count"), [((4, 4), None), ((0, 4), None), ((4, 64), 63)]
)
def test_two_batch_refuses_sizes_that_do_not_rise(sizes, count):
  with pytest.raises(InputError, match=f"sizes are {sizes[0]} and {sizes[1]}"):
    two_batch.noise_scale(np.ones(3), np.ones(3), sizes, count)


def test_two_batch_refuses_unlike_repetitions():
  with pytest.raises(InputError, match="big has 2 values"):
    two_batch.noise_scale(np.ones(3), np.ones(2), (1, 2))


def test_exact_and_two_batch_agree_on_the_network(mnist):
  split = data.Split(mnist.train.images[:2000], mnist.train.labels[:2000])
  split = jax.device_put(split)
  params = network()
  exact = gradient_noise.network_moments(ACTIVATIONS, params, split)
  rng, loss_fn = (
    np.random.default_rng(5),
    gradient_noise.network_loss(ACTIVATIONS),
  )
  norms = [
    gradient_noise.square_distances(
      loss_fn, params, split, gradient_noise.draw_batches(rng, 2000, size, 300)
    )
    for size in (4, 256)
  ]
  found = two_batch.noise_scale(*map(np.asarray, norms), (4, 256), 2000)
  assert found.scale.low < float(exact.noise_scale) < found.scale.high
  assert found.scale.high < 2 * found.scale.low
