"""MNIST with features that appear at very different rates (claim S1).

The rule: pixel j is shown in a share p_j of the examples, and is 0 in the
others, independently for every example. log p_j is uniform on
[log(lowest), 0], drawn once for the whole data set.
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Float

from mnist_jax.data import dataset as data
from mnist_jax.runtime.errors import InputError


def frequencies(lowest: float, seed: int) -> Float[np.ndarray, "784"]:
  """p_j of every pixel; `lowest` is the smallest possible, in (0, 1].

  Raises:
    InputError: lowest out of range.
  """
  if not 0 < lowest <= 1:
    raise InputError(f"lowest={lowest}: expected a number in (0, 1]")
  rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
  return np.exp(rng.uniform(np.log(lowest), 0, 784))


def sparsify(dataset: data.Dataset, lowest: float, seed: int) -> data.Dataset:
  """The data set under the rule of this module; splits and labels stay.

  Its digest is another one, a function of the old digest and the arguments.

  Raises:
    InputError: lowest out of range.
  """
  shown = frequencies(lowest, seed)
  splits = {}
  for number, name in enumerate(("train", "dev", "test"), start=1):
    split = getattr(dataset, name)
    stream = np.random.SeedSequence(seed, spawn_key=(number,))
    keep = np.random.default_rng(stream).random(split.images.shape, np.float32)
    images = np.where(keep < shown, np.asarray(split.images), np.uint8(0))
    splits[name] = data.Split(images, split.labels)
  text = f"{dataset.digest} sparse {lowest!r} {seed}"
  return dataclasses.replace(
    dataset,
    name=f"{dataset.name}-sparse",
    digest=hashlib.sha256(text.encode()).hexdigest(),
    **splits,
  )
