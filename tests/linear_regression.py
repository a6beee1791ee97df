"""A linear regression with noise: batches, and the loss of a guess."""

import jax.numpy as jnp
import numpy as np


def regression(steps, seed=0, batch=16):
  """Batches of y = x . w + noise: x [steps + 1, batch, 3], y one rank less."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((steps + 1, batch, 3)).astype(np.float32)
  noise = rng.standard_normal((steps + 1, batch)).astype(np.float32)
  return x, x @ np.float32([1.0, -2.0, 0.5]) + np.float32(0.1) * noise


def squared(params, batch):
  x, y = batch
  return jnp.mean((x @ params - y) ** 2)
