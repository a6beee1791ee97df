"""MNIST and sets of its kind: read, split, ordered, cut into batches.

Start with

  from mnist_jax import data
  mnist = data.load()  # bundled; mnist.train, mnist.dev, mnist.test
"""

from mnist_jax.data.batches import batch_indices, epoch_order, updates_per_epoch
from mnist_jax.data.dataset import Dataset, Split, load, take, to_float

__all__ = [
  "Dataset",
  "Split",
  "batch_indices",
  "epoch_order",
  "load",
  "take",
  "to_float",
  "updates_per_epoch",
]
