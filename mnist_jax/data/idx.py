"""Reading IDX files, the format MNIST is published in, from any hand.

A file is a magic number (two zero bytes, 8 for unsigned bytes, the number of
dimensions), one big-endian 32-bit size per dimension, and the values. It may
be gzipped; that is told by its content. Nothing in a file is believed: no more
is read than the header declares, and no header may declare more than
MAX_EXAMPLES, so a gzip bomb costs no more than an honest file.
"""

import gzip
import io
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int32, UInt8

from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10
MAX_EXAMPLES = 1_000_000

_KINDS = {1: "labels", 3: "images"}
_GZIP_MAGIC = b"\x1f\x8b"
_NAME = re.compile(
  r"(?:(?P<prefix>.+)-)?(?P<part>train|t10k|test)"
  r"-(?:images[-.]idx(?P<images>3)|labels[-.]idx1)-ubyte(?:\.gz)?"
)


class Split(NamedTuple):
  """Examples of one purpose; NumPy arrays, or JAX's once on a device."""

  images: UInt8[np.ndarray | Array, "N 784"]  # grey levels, 0 the background
  labels: Int32[np.ndarray | Array, " N"]  # 0 to 9


def read_directory(
  directory: str | os.PathLike[str], dataset: str
) -> tuple[str, Split, Split]:
  """Reads the four files of a data set: train and test, images and labels.

  They are named as MNIST's, train-images-idx3-ubyte and so on, raw or with
  .gz, perhaps with a prefix (emnist-digits-train-images-idx3-ubyte), "test"
  for "t10k" and "." for the "-" before "idx". Of a file and a directory of
  the same meaning the file is taken, of raw and gzipped the raw one. Images
  are taken as they are stored (EMNIST stores them transposed). Where there
  are none, torchvision's folders below are looked into, as MNIST/raw.

  Args:
    dataset: The prefix to take where several are found ("/" reads as "-"), or
      torchvision's folder (fashion_mnist is FashionMNIST).

  Returns:
    The prefix, or the directory's name if there is none; train; test.

  Raises:
    InputError: no such directory, a file missing, or anything `read_examples`
      refuses.
  """
  root = files.expanded(directory)
  found = _list(root)
  if not found:
    root = _raw_folder(root, dataset)
    found = _list(root)
  prefixes = sorted({key[0] for key in found}) or [""]
  wanted = ("", dataset.replace("/", "-"))
  prefix = next((name for name in wanted if name in prefixes), prefixes[0])
  if prefix not in wanted and len(prefixes) > 1:
    raise InputError(
      f"{root}: found files of {', '.join(prefixes)}, expected "
      f"dataset={dataset} to be one of them"
    )
  paths = [
    _choose_file(root, found, prefix, part, kind)
    for part in ("train", "t10k")
    for kind in ("images", "labels")
  ]
  train, test = read_examples(*paths[:2]), read_examples(*paths[2:])
  place = root.resolve()
  name = (place.parent if place.name == "raw" else place).name
  return prefix or name, train, test


def _raw_folder(root: Path, dataset: str) -> Path:
  """Where torchvision puts the files below its root, as MNIST/raw; or root."""
  below = [p for p in (root / "raw", *root.glob("*/raw")) if p.is_dir()]
  places = {path.parent.name.lower(): path for path in below if _list(path)}
  if len(places) == 1:
    return next(iter(places.values()))
  return places.get(re.sub(r"\W|_", "", dataset.lower()), root)


_Found = dict[tuple[str, str, str], list[Path]]  # by (prefix, part, kind)


def _list(root: Path) -> _Found:
  """What in a directory is named like an IDX file of MNIST."""
  try:
    paths = sorted(root.iterdir())
  except OSError as error:
    raise InputError(
      f"{root}: found it unreadable ({error.strerror}), expected a directory "
      "with IDX files"
    ) from None
  found: _Found = {}
  for path in paths:
    match = _NAME.fullmatch(path.name)
    if match and not files.is_litter(path.name):
      part = "train" if match["part"] == "train" else "t10k"
      kind = "images" if match["images"] else "labels"
      found.setdefault((match["prefix"] or "", part, kind), []).append(path)
  return found


def _choose_file(
  root: Path, found: _Found, prefix: str, part: str, kind: str
) -> Path:
  paths = found.get((prefix, part, kind))
  if not paths:
    name = "-".join(filter(None, (prefix, part, kind)))
    raise InputError(
      f"{root}: found no {name}-idx{3 if kind == 'images' else 1}-ubyte, raw "
      "or .gz, expected train and t10k files of images and labels"
    )
  return min(paths, key=lambda path: (path.is_dir(), path.suffix == ".gz"))


def read_examples(images_path: str | Path, labels_path: str | Path) -> Split:
  """Reads a pair of files, raw or gzipped, and checks that they match.

  Raises:
    InputError: either is missing, a directory, unreadable, not IDX, truncated,
      damaged, longer than declared or has no or more than MAX_EXAMPLES
      examples; images not 28x28; a label not in 0 to 9; counts that differ.
  """
  images_path, labels_path = Path(images_path), Path(labels_path)
  # Labels first: their real number bounds what the image file may declare.
  labels = _read(labels_path, 1, None)
  outside = np.flatnonzero(labels >= CLASSES)
  if outside.size:
    first = outside[0]
    raise InputError(
      f"{labels_path}: found label {labels[first]} at example {first}, "
      f"expected labels 0 to {CLASSES - 1}"
    )
  images = _read(images_path, 3, (len(labels), labels_path))
  return Split(images.reshape(-1, PIXELS), labels.astype(np.int32))


_Count = tuple[int, Path] | None  # and the file that has so many, if known


def _read(path: Path, ndim: int, count: _Count) -> UInt8[np.ndarray, " values"]:
  """The values of one file."""
  expected = f"expected an IDX file of {_KINDS[ndim]}"
  try:
    # A pipe in place of a file would block on opening it.
    if not stat.S_ISREG(path.stat().st_mode):
      raise InputError(f"{path}: found no regular file, {expected}")
    with path.open("rb") as raw:
      start = raw.peek(2)[:2]
      if start == _GZIP_MAGIC:
        with gzip.GzipFile(fileobj=raw) as stream:
          return _decode(stream, path, ndim, count)
      if start and path.suffix == ".gz":
        raise InputError(
          f"{path}: found first bytes {start.hex()}, expected gzip's "
          f"{_GZIP_MAGIC.hex()}"
        )
      return _decode(raw, path, ndim, count)
  except (gzip.BadGzipFile, zlib.error, EOFError) as error:
    raise InputError(
      f"{path}: found damaged gzip data ({error}), {expected}"
    ) from None
  except OSError as error:
    raise InputError(
      f"{path}: found it unreadable ({error.strerror}), {expected}"
    ) from None


def _decode(
  stream: io.BufferedIOBase, path: Path, ndim: int, count: _Count
) -> UInt8[np.ndarray, " values"]:
  """Checks the header, then reads as many values as it declares."""
  size = 4 + 4 * ndim
  header = stream.read(size)
  if len(header) < size:
    raise InputError(
      f"{path}: found {len(header)} bytes in all, expected a header of {size}"
    )
  magic, declared, *sides = struct.unpack(f">{ndim + 1}I", header)
  if magic != 0x800 + ndim:
    raise InputError(
      f"{path}: found magic number 0x{magic:08x}, expected "
      f"0x{0x800 + ndim:08x} ({_KINDS[ndim]})"
    )
  if not 1 <= declared <= MAX_EXAMPLES:
    raise InputError(
      f"{path}: found a count of {declared} in the header, expected 1 to "
      f"{MAX_EXAMPLES}"
    )
  if any(side != SIDE for side in sides):
    raise InputError(
      f"{path}: found images of {sides[0]}x{sides[1]}, expected {SIDE}x{SIDE}"
    )
  if count is not None and declared != count[0]:
    raise InputError(
      f"{path}: found {declared} images, expected {count[0]}, the number of "
      f"labels in {count[1]}"
    )
  size = declared * SIDE ** (ndim - 1)
  values = stream.read(size)
  # Reading past the last value also makes gzip compare its checksum.
  found = f"more than {size}" if stream.read(1) else str(len(values))
  if found != str(size):
    raise InputError(
      f"{path}: found {found} bytes after the header, expected {size} for its "
      f"{declared} {_KINDS[ndim]}"
    )
  return np.frombuffer(values, np.uint8)
