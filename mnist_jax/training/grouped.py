"""Evaluation without the pixels that are 0: fewer products, the same sums.

Images whose ink fills the same box stand together, in chunks, and a chunk keeps
the pixels that are lit in any of its images, and as many more as the largest of
its shape: 54 % of the pixels of MNIST's training images, 68 % of those of the
fewer development images. What is left out would have added exact zeros, so only
the order of the sums differs from `loop.evaluate`'s. But 0 times infinity or
NaN is NaN, so a weight that is not finite makes every logit NaN.
N examples in G chunks of C each, of which K pixels are kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Int64, UInt8

from mnist_jax import data
from mnist_jax.model import losses, mlp
from mnist_jax.training import metrics

CHUNK = 1000
MANY = 20  # chunks; fewer have one shape, as each is one more program to load


class Chunks(NamedTuple):
  """Examples in chunks that leave out what is 0 in all of a chunk's."""

  pixels: Int32[Array, "G K"]  # those kept, in [0, 784)
  images: UInt8[Array, "G C K"]
  labels: Int32[Array, "G C"]
  weights: Float32[Array, "G C"]  # 1, or 0 for a filling


def _by_box(images: UInt8[np.ndarray, "N 784"]) -> Int64[np.ndarray, " N"]:
  """An order by the first and last row and column of an image's ink."""
  words = np.ascontiguousarray(images).view(np.uint32).reshape(-1, 28, 7)
  columns = np.bitwise_or.reduce(words, axis=1).view(np.uint8) != 0
  rows = np.bitwise_or.reduce(words, axis=2) != 0
  ends = [
    lit.argmax(axis=1)
    for side in (columns, rows)
    for lit in (side[:, ::-1], side)
  ]
  return np.lexsort(ends)


def _alike(kept: Int64[np.ndarray, " G"]) -> list[Int64[np.ndarray, " _"]]:
  """The chunks that are to be of one shape, with the fewest products in all."""
  by_size = np.argsort(kept)
  count = len(kept)
  if count < MANY:
    return [by_size]
  most = kept[by_size]
  a, b = np.triu_indices(count, 1)  # the last of the first, and of the second
  products = most[a] * (a + 1) + most[b] * (b - a) + most[-1] * (count - 1 - b)
  best = products.argmin()
  cuts = [a[best] + 1, b[best] + 1]
  return [each for each in np.split(by_size, cuts) if len(each)]


def chunks(split: data.Split, size: int = CHUNK) -> tuple[Chunks, ...]:
  """A split's examples, ordered and cut, on the default device.

  Args:
    split: Of at least one example.
    size: C, at least 1; no more than there are examples is taken.

  Returns:
    At most three groups of chunks; all of a group keep equally many pixels.
  """
  images, labels = map(np.asarray, split)
  count = len(labels)
  size = min(size, count)
  groups = -(-count // size)
  places = np.resize(_by_box(images), groups * size).reshape(groups, size)
  weights = np.arange(groups * size).reshape(groups, size) < count
  parts = [images[rows] for rows in places]
  lit = np.stack([np.bitwise_or.reduce(part, axis=0) != 0 for part in parts])
  kept = lit.sum(axis=1)
  found = []
  for alike in _alike(kept):
    most = max(1, kept[alike].max())
    # Those lit come first; what fills a row up is 0 in all its examples.
    pixels = np.argsort(~lit[alike], axis=1, kind="stable")[:, :most]
    pairs = zip(alike, pixels, strict=True)
    cut = np.stack([parts[group].take(row, axis=1) for group, row in pairs])
    found.append(
      (
        *(pixels.astype(np.int32), cut, labels[places[alike]]),
        weights[alike].astype(np.float32),
      )
    )
  return tuple(Chunks(*each) for each in jax.device_put(found))


def evaluate(
  activations: tuple[mlp.Activation, ...],
  params: mlp.Params,
  of: tuple[Chunks, ...],
) -> metrics.Metrics:
  """Loss and accuracy as `loop.evaluate_params` has them, to rounding."""
  first, *rest = params
  dtype = first.w.dtype
  spoilt = jnp.where(jnp.isfinite(first.w).all(), 0, jnp.nan).astype(dtype)

  def one(chunk: Chunks) -> metrics.Metrics:
    narrow = (mlp.Layer(first.w[chunk.pixels], first.b + spoilt), *rest)
    # As `data.to_float`, which takes whole images.
    x = (chunk.images.astype(jnp.float32) / 255).astype(dtype)
    logits = mlp.apply(narrow, activations, x)
    each = losses.softmax_cross_entropy(logits, chunk.labels)
    weights = chunk.weights.astype(dtype)
    return metrics.measure(logits, each, chunk.labels, weights)

  sums = [metrics.merge(jax.lax.map(one, chunks)) for chunks in of]
  return jax.tree.map(lambda *each: sum(each), *sums)
