"""IDX files: what is written is read, and hostile files get one line each."""

import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax.data import idx
from mnist_jax.runtime.errors import InputError

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
COUNT = 12


def images_file(count=COUNT, *, magic=0x803, declared=None, sides=(28, 28)):
  pixels = np.random.default_rng(count).integers(0, 256, (count, 784), np.uint8)
  declared = count if declared is None else declared
  return struct.pack(">IIII", magic, declared, *sides) + pixels.tobytes()


def labels_file(count=COUNT, *, magic=0x801, declared=None):
  declared = count if declared is None else declared
  labels = bytes(i % 10 for i in range(count))
  return struct.pack(">II", magic, declared) + labels


def read(directory: Path, images=None, labels=None, images_name=IMAGES):
  """Reads a pair of files with these bytes; None for intact ones."""
  image_path, label_path = directory / images_name, directory / LABELS
  if images is None or isinstance(images, bytes):
    image_path.write_bytes(images_file() if images is None else images)
  if labels is None or isinstance(labels, bytes):
    label_path.write_bytes(labels_file() if labels is None else labels)
  return idx.read_examples(image_path, label_path)


def refused(directory: Path, *args, **kwargs) -> str:
  """The one line, with the directory's own name cut out."""
  with pytest.raises(InputError) as error:
    read(directory, *args, **kwargs)
  line = str(error.value)
  assert "\n" not in line
  return line.replace(f"{directory}{os.sep}", "")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
  """One directory for all examples hypothesis draws."""
  return tmp_path_factory.mktemp("idx")


@given(
  seed=st.integers(0, 2**32 - 1),
  count=st.integers(1, 40),
  packed=st.booleans(),
  named_gz=st.booleans(),
)
def test_round_trip(scratch, seed, count, packed, named_gz):
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (count, 784), np.uint8)
  classes = rng.integers(0, 10, count).astype(np.uint8)
  bodies = [
    struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes(),
    struct.pack(">II", 0x801, count) + classes.tobytes(),
  ]
  # The content tells gzip from raw; only a raw file named .gz is refused.
  suffix = ".gz" if packed and named_gz else ""
  paths = [scratch / (name + suffix) for name in (IMAGES, LABELS)]
  for path, body in zip(paths, bodies, strict=True):
    path.write_bytes(gzip.compress(body, 1) if packed else body)
  images, labels = idx.read_examples(*paths)
  assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
  np.testing.assert_array_equal(images, pixels)
  np.testing.assert_array_equal(labels, classes)


@given(data=st.binary(max_size=64), packed=st.booleans())
def test_any_bytes_are_read_or_refused_in_one_line(scratch, data, packed):
  assert refused(scratch, gzip.compress(data) if packed else data)


@given(flipped=st.integers(0, 8 * 900 - 1))
def test_a_flipped_bit_in_gzip_data_is_refused_or_harmless(scratch, flipped):
  data = bytearray(gzip.compress(images_file(1)))
  byte, bit = divmod(flipped % (8 * len(data)), 8)
  data[byte] ^= 1 << bit
  line, pixels = "", images_file(1)[16:]
  try:
    pixels = read(scratch, bytes(data), labels_file(1)).images.tobytes()
  except InputError as error:
    line = str(error)
  assert "\n" not in line
  assert pixels == images_file(1)[16:]  # the header's time may change freely


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
  ("images", "labels", "line"),
  [
    (
      images_file()[:-1],
      None,
      f"{IMAGES}: found 9407 bytes after the header, expected 9408 for its "
      "12 images",
    ),
    (
      images_file() + b"\0",
      None,
      f"{IMAGES}: found more than 9408 bytes after the header, expected 9408 "
      "for its 12 images",
    ),
    (
      images_file()[:10],
      None,
      f"{IMAGES}: found 10 bytes in all, expected a header of 16",
    ),
    (
      images_file(magic=0x801),
      None,
      f"{IMAGES}: found magic number 0x00000801, expected 0x00000803 (images)",
    ),
    (
      None,
      labels_file(magic=0x803),
      f"{LABELS}: found magic number 0x00000803, expected 0x00000801 (labels)",
    ),
    (
      images_file(declared=13),
      None,
      f"{IMAGES}: found 13 images, expected 12, the number of labels in "
      f"{LABELS}",
    ),
    (
      images_file(11),
      None,
      f"{IMAGES}: found 11 images, expected 12, the number of labels in "
      f"{LABELS}",
    ),
    (
      None,
      labels_file(declared=13),
      f"{LABELS}: found 12 bytes after the header, expected 13 for its 13 "
      "labels",
    ),
    (
      None,
      labels_file(declared=0),
      f"{LABELS}: found a count of 0 in the header, expected 1 to 1000000",
    ),
    (
      images_file(declared=2**32 - 1),
      None,
      f"{IMAGES}: found a count of 4294967295 in the header, expected 1 to "
      "1000000",
    ),
    (
      images_file(sides=(28, 29)),
      None,
      f"{IMAGES}: found images of 28x29, expected 28x28",
    ),
    (
      None,
      labels_file()[:-1] + b"\x0a",
      f"{LABELS}: found label 10 at example 11, expected labels 0 to 9",
    ),
    (b"", None, f"{IMAGES}: found 0 bytes in all, expected a header of 16"),
  ],
)
def test_a_wrong_file_is_named(tmp_path, packed, images, labels, line):
  if packed:
    images = images if images is None else gzip.compress(images)
    labels = labels if labels is None else gzip.compress(labels)
  assert refused(tmp_path, images, labels) == line


def test_gzip_data_cut_anywhere_are_refused(tmp_path):
  whole = gzip.compress(images_file())
  expected = "expected an IDX file of images"
  for cut in (1, 4, 12, len(whole) // 2, len(whole) - 1):
    assert refused(tmp_path, whole[:-cut]).startswith(f"{IMAGES}: found ")
  line = refused(tmp_path, whole[: len(whole) // 2])
  assert line.startswith(f"{IMAGES}: found damaged gzip data (Compressed file")
  assert line.endswith(expected)


def test_a_wrong_gzip_checksum_is_refused(tmp_path):
  whole = bytearray(gzip.compress(images_file()))
  whole[-8] ^= 1
  line = refused(tmp_path, bytes(whole))
  assert line.startswith(f"{IMAGES}: found damaged gzip data (CRC check failed")
  assert line.endswith("expected an IDX file of images")


def test_a_raw_file_named_gz_is_refused(tmp_path):
  line = refused(tmp_path, images_file(), images_name=f"{IMAGES}.gz")
  assert line == (f"{IMAGES}.gz: found first bytes 0000, expected gzip's 1f8b")


def gzip_of_zeros(head: bytes, megabytes: int) -> bytes:
  packer = zlib.compressobj(9, zlib.DEFLATED, 31)
  parts = [packer.compress(head)]
  zeros = bytes(1 << 20)
  parts += [packer.compress(zeros) for _ in range(megabytes)]
  return b"".join([*parts, packer.flush()])


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
  bomb = gzip_of_zeros(struct.pack(">IIII", 0x803, 12, 28, 28), 128)
  assert len(bomb) < 1 << 20
  tracemalloc.start()
  try:
    line = refused(tmp_path, bomb)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert line == (
    f"{IMAGES}: found more than 9408 bytes after the header, expected 9408 "
    "for its 12 images"
  )
  assert peak < 4 << 20


def test_a_header_that_declares_much_costs_nothing(tmp_path):
  # The labels are few, so the images' header is refused before it is obeyed.
  bomb = gzip_of_zeros(struct.pack(">IIII", 0x803, 10**6, 28, 28), 64)
  assert refused(tmp_path, bomb) == (
    f"{IMAGES}: found 1000000 images, expected 12, the number of labels in "
    f"{LABELS}"
  )


def test_what_is_not_a_file_is_refused(tmp_path):
  (tmp_path / IMAGES).mkdir()
  expected = "expected an IDX file of images"
  line = refused(tmp_path, images="kept")
  assert line == f"{IMAGES}: found no regular file, {expected}"
  (tmp_path / IMAGES).rmdir()
  line = refused(tmp_path, images="kept")
  found = "found it unreadable (No such file or directory)"
  assert line == f"{IMAGES}: {found}, {expected}"
  os.mkfifo(tmp_path / IMAGES)
  line = refused(tmp_path, images="kept")
  assert line == f"{IMAGES}: found no regular file, {expected}"


def test_an_unreadable_file_is_refused(tmp_path):
  (tmp_path / IMAGES).symlink_to(tmp_path / IMAGES)
  line = refused(tmp_path, images="kept")
  assert line.startswith(f"{IMAGES}: found it unreadable (Too many levels")
  assert line.endswith("expected an IDX file of images")


@pytest.mark.skipif(
  not os.path.exists("/proc/self/mem"), reason="needs Linux's /proc"
)
def test_a_file_that_fails_while_read_is_refused(tmp_path):
  (tmp_path / IMAGES).symlink_to("/proc/self/mem")  # address 0 is not mapped
  line = refused(tmp_path, images="kept")
  assert line.startswith(f"{IMAGES}: found it unreadable (Input/output error")


def write_four(directory: Path, names: str, seed=0):
  """names: with {part}, {kind}, {ndim}; "t10k" can be put otherwise."""
  for part, count in (("train", 9 + seed), ("t10k", 4)):
    for kind, body in (
      ("images", images_file(count)),
      ("labels", labels_file(count)),
    ):
      name = names.format(
        part=part, kind=kind, ndim=3 if kind == "images" else 1
      )
      (directory / name).write_bytes(
        gzip.compress(body) if name.endswith(".gz") else body
      )


@pytest.mark.parametrize(
  ("names", "name"),
  [
    ("{part}-{kind}-idx{ndim}-ubyte", "digits"),
    ("{part}-{kind}-idx{ndim}-ubyte.gz", "digits"),
    ("{part}-{kind}.idx{ndim}-ubyte", "digits"),
    ("emnist-digits-{part}-{kind}-idx{ndim}-ubyte.gz", "emnist-digits"),
  ],
)
def test_names_of_the_four_files(tmp_path, names, name):
  directory = tmp_path / "digits"
  directory.mkdir()
  write_four(directory, names)
  found, train, test = idx.read_directory(directory, "mnist")
  assert found == name
  np.testing.assert_array_equal(train.labels, np.arange(9))
  np.testing.assert_array_equal(test.labels, np.arange(4))
  assert train.images.tobytes() == images_file(9)[16:]
  assert test.images.tobytes() == images_file(4)[16:]


def test_what_a_file_manager_leaves_is_no_data_set(tmp_path):
  names = "emnist-digits-{part}-{kind}-idx{ndim}-ubyte"
  write_four(tmp_path, names)
  write_four(tmp_path, f"._{names}")
  assert idx.read_directory(tmp_path, "mnist")[0] == "emnist-digits"


def test_the_home_directory_may_be_named(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  write_four(tmp_path, "{part}-{kind}-idx{ndim}-ubyte")
  assert len(idx.read_directory("~", "mnist")[1].labels) == 9


def test_torchvisions_folders_are_found_from_above(tmp_path):
  names = "{part}-{kind}-idx{ndim}-ubyte"
  for number, name in enumerate(("FashionMNIST", "MNIST")):
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    write_four(raw, names, seed=number)
    for path in list(raw.iterdir()):  # torchvision keeps both
      (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    if not number:  # alone, it is the one
      assert idx.read_directory(tmp_path, "mnist")[0] == "FashionMNIST"
  for directory, dataset, expected in (
    (tmp_path, "mnist", "MNIST"),
    (tmp_path, "fashion_mnist", "FashionMNIST"),
    (tmp_path / "FashionMNIST", "mnist", "FashionMNIST"),
    (tmp_path / "MNIST" / "raw", "mnist", "MNIST"),
  ):
    found, train, _ = idx.read_directory(directory, dataset)
    assert found == expected
    assert len(train.labels) == (10 if expected == "MNIST" else 9)
  with pytest.raises(InputError, match="found no train-images"):
    idx.read_directory(tmp_path, "kmnist")


def test_emnist_says_test_for_t10k(tmp_path):
  write_four(tmp_path, "emnist-digits-{part}-{kind}-idx{ndim}-ubyte")
  for path in list(tmp_path.iterdir()):
    path.rename(tmp_path / path.name.replace("t10k", "test"))
  _, train, test = idx.read_directory(tmp_path, "mnist")
  assert (len(train.labels), len(test.labels)) == (9, 4)


def test_a_file_goes_before_a_directory_and_raw_before_gzip(tmp_path):
  write_four(tmp_path, "{part}-{kind}.idx{ndim}-ubyte")
  write_four(tmp_path, "{part}-{kind}-idx{ndim}-ubyte.gz", seed=1)
  (tmp_path / IMAGES).mkdir()
  _, train, _ = idx.read_directory(tmp_path, "mnist")
  assert len(train.labels) == 9


def test_a_prefix_is_chosen_by_the_dataset(tmp_path):
  write_four(tmp_path, "emnist-digits-{part}-{kind}-idx{ndim}-ubyte")
  write_four(tmp_path, "emnist-mnist-{part}-{kind}-idx{ndim}-ubyte", seed=1)
  for dataset, count in (("emnist/digits", 9), ("emnist-mnist", 10)):
    name, train, _ = idx.read_directory(tmp_path, dataset)
    assert name == dataset.replace("/", "-")
    assert len(train.labels) == count
  with pytest.raises(InputError) as error:
    idx.read_directory(tmp_path, "mnist")
  assert str(error.value) == (
    f"{tmp_path}: found files of emnist-digits, emnist-mnist, expected "
    "dataset=mnist to be one of them"
  )


def test_a_directory_that_lacks_files_is_refused(tmp_path):
  expected = "expected train and t10k files of images and labels"
  with pytest.raises(InputError) as error:
    idx.read_directory(tmp_path, "mnist")
  assert str(error.value) == (
    f"{tmp_path}: found no {IMAGES}, raw or .gz, {expected}"
  )
  write_four(tmp_path, "a-{part}-{kind}-idx{ndim}-ubyte")
  (tmp_path / "a-t10k-labels-idx1-ubyte").unlink()
  with pytest.raises(InputError) as error:
    idx.read_directory(tmp_path, "mnist")
  assert str(error.value) == (
    f"{tmp_path}: found no a-t10k-labels-idx1-ubyte, raw or .gz, {expected}"
  )


def test_a_directory_that_is_none_is_refused(tmp_path):
  missing, file = tmp_path / "missing", tmp_path / "file"
  file.touch()
  with pytest.raises(InputError) as error:
    idx.read_directory(missing, "mnist")
  assert str(error.value) == (
    f"{missing}: found it unreadable (No such file or directory), expected a "
    "directory with IDX files"
  )
  with pytest.raises(InputError) as error:
    idx.read_directory(file, "mnist")
  assert str(error.value) == (
    f"{file}: found it unreadable (Not a directory), expected a directory "
    "with IDX files"
  )
