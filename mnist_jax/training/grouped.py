"""Evaluation without the inputs that are 0: fewer products, the same sums.

Examples stand in chunks of those whose first input that is not 0 comes equally
early, and a chunk keeps the inputs that are not 0 in all of it: of MNIST's
images 63 %. What is left out would have added 0 to each sum, and no sum is
rounded for it; only the order of the sums differs from `loop.evaluate`'s. But 0
times a weight that is not finite is none, so such a weight spoils every logit.
G chunks, C examples each, K inputs kept of D.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8

from mnist_jax import data
from mnist_jax.model import losses, mlp
from mnist_jax.training import metrics

CHUNK = 1000


class Chunks(NamedTuple):
  """A split in chunks that leave out what is 0 in all their examples."""

  inputs: Int32[Array, "G K"]  # those kept, in [0, D)
  images: UInt8[Array, "G C K"]
  labels: Int32[Array, "G C"]
  weights: Float32[Array, "G C"]  # 1, or 0 for a filling


def chunks(split: data.Split, size: int = CHUNK) -> Chunks:
  """The split's examples, ordered and cut, on the default device.

  Args:
    size: C, at least 1; no more than there are examples is taken.
  """
  images, labels = map(np.asarray, split)
  count = len(labels)
  size = min(size, count)
  groups = -(-count // size)
  order = np.argsort((images != 0).argmax(axis=1), kind="stable")
  places = np.resize(order, groups * size).reshape(groups, size)
  weights = np.arange(groups * size).reshape(groups, size) < count
  parts = [images[rows] for rows in places]
  used = np.stack([np.bitwise_or.reduce(part, axis=0) != 0 for part in parts])
  most = max(1, int(used.sum(axis=1).max()))
  # Those used come first; what fills a row up is 0 in all its examples.
  inputs = np.argsort(~used, axis=1, kind="stable")[:, :most]
  pairs = zip(parts, inputs, strict=True)
  kept = [part.take(row, axis=1) for part, row in pairs]
  placed = jax.device_put(
    (
      inputs.astype(np.int32),
      np.stack(kept),
      labels[places],
      weights.astype(np.float32),
    )
  )
  return Chunks(*placed)


def evaluate(
  activations: tuple[mlp.Activation, ...], params: mlp.Params, of: Chunks
) -> metrics.Metrics:
  """Loss and accuracy as `loop.evaluate_params` has them, to rounding."""
  first, *rest = params
  dtype = first.w.dtype
  spoilt = jnp.where(jnp.isfinite(first.w).all(), 0, jnp.nan).astype(dtype)

  def one(chunk: Chunks) -> metrics.Metrics:
    narrow = (mlp.Layer(first.w[chunk.inputs], first.b + spoilt), *rest)
    # As `data.to_float`, which takes whole images.
    x = (chunk.images.astype(jnp.float32) / 255).astype(dtype)
    logits = mlp.apply(narrow, activations, x)
    each = losses.softmax_cross_entropy(logits, chunk.labels)
    weights = chunk.weights.astype(dtype)
    return metrics.measure(logits, each, chunk.labels, weights)

  return metrics.merge(jax.lax.map(one, of))
