import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.model import mlp

pytestmark = pytest.mark.usefixtures("strict_promotion")


def test_default_shapes_are_the_chapters():
  params = mlp.init(jax.random.key(0), (784, 64, 16, 10))
  shapes = [(layer.w.shape, layer.b.shape) for layer in params]
  assert shapes == [
    ((784, 64), (64,)),
    ((64, 16), (16,)),
    ((16, 10), (10,)),
  ]


@pytest.mark.parametrize(
  ("name", "variance"),
  [("xavier", 2 / 1000), ("he", 2 / 600), ("normal", 1.0), ("zeros", 0.0)],
)
def test_initializers_have_their_published_variance(name, variance):
  (layer,) = mlp.init(jax.random.key(1), (600, 400), name)
  assert np.var(layer.w) == pytest.approx(variance, rel=0.02)
  assert abs(np.mean(layer.w)) <= 4 * (variance / 240_000) ** 0.5
  assert not layer.b.any()


def test_scale_is_a_factor_of_the_weights():
  key, sizes = jax.random.key(1), (6, 4, 3)
  whole = mlp.init(key, sizes, "normal")
  tenth = mlp.init(key, sizes, "normal", scale=0.1)
  for one, other in zip(whole, tenth, strict=True):
    np.testing.assert_allclose(0.1 * one.w, other.w, rtol=1e-6)
    assert not other.b.any()


def test_xavier_is_bounded_and_differs_between_layers():
  first, second = mlp.init(jax.random.key(2), (50, 50, 50))
  assert np.abs(first.w).max() <= (6 / 100) ** 0.5
  assert not np.array_equal(first.w, second.w)


def test_zero_initialisation_keeps_hidden_units_alike():
  params = mlp.init(jax.random.key(0), (5, 4, 3), "zeros")
  x = jax.random.normal(jax.random.key(1), (6, 5))
  logits, residuals = mlp.forward(params, ("sigmoid",), x)
  grads = mlp.backward(params, ("sigmoid",), residuals, logits + 1.0)
  assert np.ptp(np.asarray(grads[0].w), axis=1).max() == 0


@pytest.mark.parametrize("name", list(mlp.ACTIVATIONS))
def test_derivative_in_terms_of_the_output(name, float64):
  z = jnp.linspace(-4.0, 4.0, 81) + 0.01
  a = mlp.ACTIVATIONS[name](z)
  expected = jax.vmap(jax.grad(mlp.ACTIVATIONS[name]))(z)
  np.testing.assert_allclose(mlp.DERIVATIVES[name](a), expected, atol=1e-14)


def test_dropout_masks_keep_the_mean_and_scale():
  params = mlp.init(jax.random.key(0), (3, 200, 100, 2))
  masks = mlp.dropout_masks(jax.random.key(3), params, 500, 0.4)
  assert [m.shape for m in masks] == [(500, 200), (500, 100)]
  for mask in masks:
    values = np.unique(np.asarray(mask))
    np.testing.assert_allclose(values, [0, 1 / 0.6], rtol=1e-6)
    # Five standard errors of the mean of B * H Bernoulli variables.
    assert np.mean(mask) == pytest.approx(
      1, abs=5 * (0.4 / 0.6 / mask.size) ** 0.5
    )
  assert not np.array_equal(masks[0][:, :100], masks[1])


def test_dropout_multiplies_what_enters_the_next_layer():
  params = mlp.init(jax.random.key(0), (4, 3, 2))
  x = jax.random.normal(jax.random.key(1), (5, 4))
  masks = mlp.dropout_masks(jax.random.key(2), params, 5, 0.5)
  logits, _ = mlp.forward(params, ("tanh",), x, masks)
  hidden = np.tanh(np.asarray(x @ params[0].w)) * np.asarray(masks[0])
  np.testing.assert_allclose(
    logits, hidden @ np.asarray(params[1].w), atol=1e-6
  )
  assert not np.allclose(logits, mlp.apply(params, ("tanh",), x))
