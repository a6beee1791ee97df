"""Data sets of 28x28 images in ten classes: sources, split, order, batches.

Shapes: N examples, B batch, T updates of an epoch. Images are rows of 784 grey
levels, uint8, 0 the background; labels are int32, 0 to 9.
"""

import collections
import dataclasses
import hashlib
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from mnist_jax.data import idx, tfds
from mnist_jax.data.batches import SPLIT, TAKE, check_range, seed_sequence
from mnist_jax.data.idx import Split
from mnist_jax.runtime.errors import InputError

SOURCES = ("bundled", "idx", "tfds")
_DARKEST = 32  # grey levels 0 to 1 or 0 to 16 are on another scale
BUNDLED = Path(__file__).parent / "mnist"
BUNDLED_SHA256 = {
  "train-images-idx3-ubyte.gz": (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
  ),
  "train-labels-idx1-ubyte.gz": (
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
  ),
  "t10k-images-idx3-ubyte.gz": (
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
  ),
  "t10k-labels-idx1-ubyte.gz": (
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Train, dev (for every choice) and test (read once, at the end).

  Attributes:
    digest: The SHA-256, in hex, over the images and labels, with their shapes,
      of the whole training file and the test file, before any split.
  """

  name: str
  train: Split
  dev: Split
  test: Split
  digest: str


def load(
  data_source: str = "bundled",
  *,
  data_dir: str | os.PathLike[str] | None = None,
  dataset: str = "mnist",
  dev_size: int = 5000,
  split_seed: int = 0,
) -> Dataset:
  """Reads a data set and sets a dev set apart from its training examples.

  The rule of the split, the same for ever: rank the source's training examples
  by a permutation seeded with `split_seed` alone; those with rank below
  `dev_size` are dev, the others train. Within each, examples keep the order
  of the source. MNIST becomes 55,000 / 5,000 / 10,000 (section 12.2).

  Args:
    data_source: "bundled" is MNIST's four published files, shipped in this
      package; "idx" the four IDX files in `data_dir` (`idx.read_directory`);
      "tfds" tensorflow-datasets (`tfds.read`). TFDS shuffles as it prepares:
      MNIST from there is put back in the published order, others are not.
    data_dir: The directory of the files, or of TFDS; None for "bundled".
    dataset: The name for TFDS; for "idx" it only chooses between several
      prefixes.
    dev_size: In [1, N - 1] for N training examples in the source.
    split_seed: In [0, 2**63).

  Raises:
    InputError: a file that is missing, damaged or not what it should be, as
      images of 0 and 1; an argument out of range.
  """
  if data_source == "bundled":
    if data_dir or dataset != "mnist":
      given = f"data_dir={data_dir}" if data_dir else f"dataset={dataset}"
      raise InputError(
        f"{given}: found data_source=bundled, expected idx or tfds"
      )
    name, (train, test) = "mnist", _read_bundled()
  elif data_source == "idx":
    if not data_dir:
      raise InputError(
        "data_dir: missing with data_source=idx, expected one with IDX files"
      )
    name, train, test = idx.read_directory(data_dir, dataset)
  elif data_source == "tfds":
    name = dataset
    train, test = _published_order(*tfds.read(dataset, data_dir, BUNDLED))
  else:
    raise InputError(
      f"data_source={data_source}: expected one of {', '.join(SOURCES)}"
    )
  for part, images in (("training", train.images), ("test", test.images)):
    _check_levels(f"{data_dir or dataset}: {part} images", images)
  digest = _digest(train, test)
  train, dev = _split(train, dev_size, split_seed)
  return Dataset(name, train, dev, test, digest)


def _check_levels(
  what: str, images: UInt8[np.ndarray | Array, "N 784"]
) -> None:
  """Refuses images that are black on the scale they are read on."""
  top = images.max()
  if top < _DARKEST:
    raise InputError(
      f"{what}: found grey levels 0 to {top}, expected 0 to 255 (those of 0 "
      "and 1 times 255)"
    )


def _read_bundled() -> tuple[Split, Split]:
  for name, expected in BUNDLED_SHA256.items():
    path = BUNDLED / name
    try:
      found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
      raise InputError(
        f"{path}: found it unreadable ({error.strerror}), expected the file "
        "published with MNIST"
      ) from None
    if found != expected:
      raise InputError(f"{path}: found sha256 {found}, expected {expected}")
  paths = [BUNDLED / name for name in BUNDLED_SHA256]
  return idx.read_examples(*paths[:2]), idx.read_examples(*paths[2:])


def _published_order(train: Split, test: Split) -> tuple[Split, Split]:
  """MNIST as published if these are its examples in any order, else these."""
  published = _read_bundled()
  if all(map(_same_examples, (train, test), published)):
    return published
  return train, test


def _same_examples(a: Split, b: Split) -> bool:
  """Whether both hold the same examples, each as often, in any order."""
  if a.images.shape != b.images.shape:
    return False
  first, second = (
    collections.Counter(
      map(bytes, np.column_stack([images, labels.astype(np.uint8)]))
    )
    for images, labels in (a, b)
  )
  return first == second


def _digest(*parts: Split) -> str:
  total = hashlib.sha256()
  for images, labels in parts:
    for array in (images, labels.astype(np.uint8)):
      total.update(f"uint8 {'x'.join(map(str, array.shape))}\n".encode())
      total.update(np.ascontiguousarray(array).data)
  return total.hexdigest()


def _split(examples: Split, dev_size: int, seed: int) -> tuple[Split, Split]:
  count = len(examples.labels)
  check_range("dev_size", dev_size, 1, count - 1)
  check_range("split_seed", seed, 0, 2**63 - 1)
  is_dev = _ranked_below(dev_size, count, seed, SPLIT)
  return _chosen(examples, ~is_dev), _chosen(examples, is_dev)


def _chosen(examples: Split, mask: Bool[np.ndarray, " N"]) -> Split:
  return Split(*(array[mask] for array in examples))


def take(dataset: Dataset, num_train: int, *, seed: int = 0) -> Dataset:
  """The data set with a smaller training set; dev, test, digest unchanged.

  The rule: rank the training examples by a permutation seeded with `seed`
  alone and keep those with rank below `num_train`, in the order they have. So
  smaller sets of the same data set are subsets of larger ones. Take from the
  whole data set: of a set taken before, other examples are drawn.

  Args:
    num_train: In [1, N] for N training examples.
    seed: In [0, 2**63).

  Raises:
    InputError: an argument out of range.
  """
  count = len(dataset.train.labels)
  check_range("num_train", num_train, 1, count)
  check_range("seed", seed, 0, 2**63 - 1)
  keep = _ranked_below(num_train, count, seed, TAKE)
  return dataclasses.replace(dataset, train=_chosen(dataset.train, keep))


def to_float(
  images: UInt8[Array | np.ndarray, "*N 784"],
) -> Float32[Array, "*N 784"]:
  """Grey levels 0 to 255 scaled to [0, 1], as float32; the whole image alike.

  For use inside jit, so that the data stay uint8 on the device.
  """
  return jnp.asarray(images, jnp.float32) / 255


def _ranked_below(
  limit: int, count: int, seed: int, purpose: int
) -> Bool[np.ndarray, " N"]:
  """Which of `count` examples have the `limit` lowest random ranks.

  Drawn from PCG64's raw output, which NumPy keeps the same from version to
  version, as it does not keep Generator.permutation (NEP 19). Each example
  gets a random number with its own index in the low bits, so that no two are
  equal and the ranks depend on nothing but the numbers.
  """
  bits = (count - 1).bit_length()
  low = np.uint64((1 << bits) - 1)
  numbers = np.random.PCG64(seed_sequence(seed, purpose)).random_raw(count)
  numbers = (numbers & ~low) | np.arange(count, dtype=np.uint64)
  chosen = np.zeros(count, bool)
  chosen[(np.sort(numbers)[:limit] & low).astype(np.int64)] = True
  return chosen
