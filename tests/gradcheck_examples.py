"""Functions with known gradients that the gradient check's tests share."""

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.runtime import precision


def quadratic(params, scale=1.0):
  return scale * (jnp.sum(params["a"] ** 2) / 2 + jnp.sum(jnp.sin(params["b"])))


def quadratic_grads(params, scale=1.0):
  return {"a": scale * params["a"], "b": scale * jnp.cos(params["b"])}


A = np.linspace(-1, 2, 6).reshape(2, 3)
POINT = {"a": A, "b": np.array([0.1, 2.0, -3.0])}


def smooth(params):
  """Data term and a penalty, all entries of the gradient different."""
  w, b = params["w"], params["b"]
  x = jnp.linspace(0.2, 1.7, w.shape[0])
  return jnp.sum(jnp.tanh(x @ w + b) ** 2) + penalty(params)


def penalty(params):
  return 0.05 * jnp.sum(params["w"] ** 2)


def smooth_point(rows=5, columns=5):
  rng = np.random.default_rng(3)
  return {
    "w": rng.normal(size=(rows, columns)) / rows,
    "b": rng.normal(size=columns),
  }


def at(function, params, *args):
  """function at float64 params, in the check's own scope."""
  with precision.float64():
    return function(jax.tree.map(jnp.asarray, params), *args)


def exact(loss, params):
  with precision.float64():
    wide = jax.tree.map(jnp.asarray, params)
    return jax.tree.map(np.array, jax.grad(loss)(wide))
