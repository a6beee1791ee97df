"""The chapter's network: forward, and the backward derived by hand (12.2).

Start with

  import jax
  from mnist_jax import model
  params = model.init(jax.random.key(0), (784, 64, 16, 10))
  logits = model.apply(params, ("sigmoid", "tanh"), images)  # [B, 10]
"""

from mnist_jax.model.mlp import Layer, Params, apply, backward, forward, init
from mnist_jax.model.objective import Batch, make_objective, make_value_and_grad

__all__ = [
  "Batch",
  "Layer",
  "Params",
  "apply",
  "backward",
  "forward",
  "init",
  "make_objective",
  "make_value_and_grad",
]
