"""Sources agree, the split and the orders keep their rules, batches add up."""

import dataclasses
import gzip
import hashlib
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax.data import batches, idx
from mnist_jax.data import dataset as data
from mnist_jax.runtime.errors import InputError

SEEDS = st.integers(0, 2**63 - 1)

# How MNIST is split by default, and the first 100 of its training set; these
# may never change, whatever NumPy does.
DIGEST = "45639a4a7fdee76d31fdb62288f1e1b319d49c0e6e94e5c72c2040385b89b88e"
DEV = [6, 17, 36, 46, 60, 101, 102, 104]
DEV_SHA256 = "300778cfa79c826cdf0230372e276c8d156673c700f953fc0b8f702c277e618a"
TAKE_SHA256 = "2b081d868b338738e5a42d659f3b1c2d4c8e307d3b620be4c3b9bc68dcff6bdb"


def write_small(directory, num_train=40, num_test=9, seed=0, top=255):
  """Four raw IDX files; every image differs from every other."""
  directory.mkdir(exist_ok=True)
  rng = np.random.default_rng(seed)
  for part, count in (("train", num_train), ("t10k", num_test)):
    images = rng.integers(0, top, (count, 28, 28), np.uint8, True)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    for kind, array in (("images", images), ("labels", labels)):
      head = bytes([0, 0, 8, array.ndim])
      sizes = np.array(array.shape, ">u4").tobytes()
      path = directory / f"{part}-{kind}-idx{array.ndim}-ubyte"
      path.write_bytes(head + sizes + array.tobytes())
  return directory


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
  return write_small(tmp_path_factory.mktemp("small"))


def refused(*args, **kwargs) -> str:
  with pytest.raises(InputError) as error:
    data.load(*args, **kwargs)
  line = str(error.value)
  assert "\n" not in line
  return line


@pytest.mark.parametrize("top", [1, 16])
def test_images_on_another_scale_are_refused(tmp_path, top):
  directory = write_small(tmp_path, top=top)
  assert refused("idx", data_dir=directory, dev_size=3) == (
    f"{directory}: training images: found grey levels 0 to {top}, expected 0 "
    "to 255 (those of 0 and 1 times 255)"
  )


def rows(split) -> set[bytes]:
  return {
    image.tobytes() + bytes([label])
    for image, label in zip(*map(np.asarray, split), strict=True)
  }


def test_the_bundled_data_set_is_mnist(mnist):
  assert mnist.name == "mnist"
  for split, count in (
    (mnist.train, 55_000),
    (mnist.dev, 5_000),
    (mnist.test, 10_000),
  ):
    assert split.images.shape == (count, 784)
    assert split.labels.shape == (count,)
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32
  assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
  train = np.concatenate([mnist.train.labels, mnist.dev.labels])
  # The published counts of the training labels 0 to 9.
  assert np.bincount(train).tolist() == [
    5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
  ]  # fmt: skip


def test_the_digest_is_what_it_says(mnist):
  total = hashlib.sha256()
  for part in ("train", "t10k"):
    for kind, offset, shape in (("images", 16, "x784"), ("labels", 8, "")):
      name = f"{part}-{kind}-idx{3 if shape else 1}-ubyte.gz"
      body = gzip.decompress((data.BUNDLED / name).read_bytes())[offset:]
      count = 60_000 if part == "train" else 10_000
      total.update(f"uint8 {count}{shape}\n".encode() + body)
  assert mnist.digest == total.hexdigest()


def test_the_split_stays_what_it_was(mnist):
  assert mnist.digest == DIGEST
  published = idx.read_directory(data.BUNDLED, "mnist")[1]
  positions = {row.tobytes(): i for i, row in enumerate(published.images)}
  first = [positions[image.tobytes()] for image in mnist.dev.images[:8]]
  assert first == DEV
  digest = hashlib.sha256(mnist.dev.images.tobytes()).hexdigest()
  assert digest == DEV_SHA256
  taken = data.take(mnist, 100).train.images.tobytes()
  assert hashlib.sha256(taken).hexdigest() == TAKE_SHA256


def test_the_package_has_what_it_must_ship():
  text = (data.BUNDLED / "ATTRIBUTION.md").read_text()
  assert "Yann LeCun and Corinna Cortes" in text
  assert "CC BY-SA 3.0" in text
  for name, digest in data.BUNDLED_SHA256.items():
    assert name in text
    assert digest in text


def test_a_changed_bundled_file_is_refused(tmp_path, monkeypatch):
  copy = tmp_path / "bundled"
  shutil.copytree(data.BUNDLED, copy)
  monkeypatch.setattr(data, "BUNDLED", copy)
  path = copy / "t10k-labels-idx1-ubyte.gz"
  body = bytearray(path.read_bytes())
  body[4] ^= 1  # gzip's time stamp: what it unpacks to is the same
  path.write_bytes(bytes(body))
  found = hashlib.sha256(body).hexdigest()
  assert refused() == (
    f"{path}: found sha256 {found}, expected {data.BUNDLED_SHA256[path.name]}"
  )
  path.unlink()
  assert refused() == (
    f"{path}: found it unreadable (No such file or directory), expected the "
    "file published with MNIST"
  )


def test_bundled_and_idx_agree(mnist, tmp_path):
  for name in data.BUNDLED_SHA256:
    body = (data.BUNDLED / name).read_bytes()
    if "t10k" in name:
      shutil.copy(data.BUNDLED / name, tmp_path)
    else:
      (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(body))
  other = data.load("idx", data_dir=tmp_path)
  assert other.name == tmp_path.name
  assert other.digest == mnist.digest
  for part in ("train", "dev", "test"):
    for a, b in zip(getattr(mnist, part), getattr(other, part), strict=True):
      np.testing.assert_array_equal(a, b)


def test_idx_and_tfds_agree(small_dir, tmp_path):
  import tensorflow_datasets as tfds

  _, *parts = idx.read_directory(small_dir, "")

  class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The small files' examples, in their order."""

    VERSION = tfds.core.Version("1.0.0")
    name = "small"
    pkg_dir_path = tmp_path
    # Old importlib_resources cannot look into a package without __init__.py.
    code_path = Path(__file__)

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
          }
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      rows = map(self._generate_examples, parts)
      return dict(zip(("train", "test"), rows, strict=True))

    def _generate_examples(self, part):
      for i, (image, label) in enumerate(zip(*part, strict=True)):
        yield i, {"image": image.reshape(28, 28, 1), "label": int(label)}

  Small(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  first = data.load("idx", data_dir=small_dir, dev_size=7)
  second = data.load("tfds", dataset="small", data_dir=tmp_path, dev_size=7)
  assert second.name == "small"
  assert first.digest == second.digest
  for part in ("train", "dev", "test"):
    a, b = getattr(first, part), getattr(second, part)
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)


def test_mnist_shuffled_by_tfds_is_put_back_in_order():
  parts = data._read_bundled()
  rng = np.random.default_rng(0)
  orders = [rng.permutation(len(part.labels)) for part in parts]
  shuffled = [
    idx.Split(part.images[order], part.labels[order])
    for part, order in zip(parts, orders, strict=True)
  ]
  for part, again in zip(parts, data._published_order(*shuffled), strict=True):
    np.testing.assert_array_equal(part.images, again.images)
    np.testing.assert_array_equal(part.labels, again.labels)
  # MNIST's training examples with another test set are not MNIST.
  other = shuffled[0], parts[0]
  assert data._published_order(*other) == other


def test_the_same_examples_are_told_from_others(small_dir):
  _, train, test = idx.read_directory(small_dir, "")
  other = idx.Split(train.images[::-1].copy(), train.labels[::-1].copy())
  assert data._same_examples(train, other)
  assert not data._same_examples(train, test)
  for array in other:
    array[3, ...] ^= 1
    assert not data._same_examples(train, other)
    array[3, ...] ^= 1
  # As many rows and the same set, but one twice and another missing.
  twice = idx.Split(*(array[[0, 0, 1]] for array in train))
  once = idx.Split(*(array[[0, 1, 1]] for array in train))
  assert not data._same_examples(twice, once)
  # Small sets, whatever is in them, are not MNIST and keep their order.
  assert data._published_order(train, test) == (train, test)


@pytest.mark.parametrize("change", ["pixel", "label", "order", "cut"])
def test_the_digest_tells_data_sets_apart(small_dir, change):
  _, train, test = idx.read_directory(small_dir, "")
  digest = data._digest(train, test)
  images, labels = train.images.copy(), train.labels.copy()
  if change == "pixel":
    images[-1, -1] ^= 1
  elif change == "label":
    labels[-1] = (labels[-1] + 1) % 10
  elif change == "order":
    images[[0, 1]] = images[[1, 0]]
  else:
    images, labels = images[:-1], labels[:-1]
  assert data._digest(idx.Split(images, labels), test) != digest
  assert data._digest(train, test) == digest


def test_the_digest_is_of_the_whole_files(small_dir):
  one = data.load("idx", data_dir=small_dir, dev_size=3)
  two = data.load("idx", data_dir=small_dir, dev_size=9, split_seed=5)
  assert one.digest == two.digest == data.take(one, 2).digest


@given(dev_size=st.integers(1, 39), split_seed=SEEDS)
def test_the_split_is_disjoint_covers_all_and_keeps_order(
  small_dir, dev_size, split_seed
):
  _, train, test = idx.read_directory(small_dir, "")
  dataset = data.load(
    "idx", data_dir=small_dir, dev_size=dev_size, split_seed=split_seed
  )
  assert len(dataset.dev.labels) == dev_size
  assert len(dataset.train.labels) == 40 - dev_size
  assert not rows(dataset.train) & rows(dataset.dev)
  assert rows(dataset.train) | rows(dataset.dev) == rows(train)
  np.testing.assert_array_equal(dataset.test.images, test.images)
  position = {row.tobytes(): i for i, row in enumerate(train.images)}
  for split in (dataset.train, dataset.dev):
    found = [position[image.tobytes()] for image in split.images]
    assert found == sorted(found)
    np.testing.assert_array_equal(split.labels, train.labels[found])


def test_the_split_depends_on_its_seed_and_on_nothing_else(small_dir):
  def dev(seed):
    return rows(
      data.load("idx", data_dir=small_dir, dev_size=10, split_seed=seed).dev
    )

  np.random.seed(0)  # noqa: NPY002
  first = dev(0)
  np.random.seed(1)  # noqa: NPY002
  assert dev(0) == first
  assert dev(1) != first


@pytest.mark.parametrize("dev_size", [-1, 0, 40, 41])
def test_a_dev_size_that_cannot_be_is_refused(small_dir, dev_size):
  assert refused("idx", data_dir=small_dir, dev_size=dev_size) == (
    f"dev_size={dev_size}: expected 1 to 39"
  )


def test_arguments_that_cannot_be_are_refused(tmp_path):
  assert refused("web") == (
    "data_source=web: expected one of bundled, idx, tfds"
  )
  assert refused(split_seed=-1) == (f"split_seed=-1: expected 0 to {2**63 - 1}")
  assert refused(data_dir=tmp_path) == (
    f"data_dir={tmp_path}: found data_source=bundled, expected idx or tfds"
  )
  assert refused(dataset="kmnist") == (
    "dataset=kmnist: found data_source=bundled, expected idx or tfds"
  )
  assert refused("idx") == (
    "data_dir: missing with data_source=idx, expected one with IDX files"
  )


@given(sizes=st.lists(st.integers(1, 33), min_size=2, max_size=2), seed=SEEDS)
def test_smaller_training_sets_are_nested(small_dir, sizes, seed):
  dataset = data.load("idx", data_dir=small_dir, dev_size=7)
  small, large = (data.take(dataset, size, seed=seed) for size in sorted(sizes))
  assert len(small.train.labels) == min(sizes)
  assert len(large.train.labels) == max(sizes)
  assert rows(small.train) <= rows(large.train) <= rows(dataset.train)
  assert small.dev is dataset.dev
  assert small.test is dataset.test
  position = {row.tobytes(): i for i, row in enumerate(dataset.train.images)}
  found = [position[image.tobytes()] for image in large.train.images]
  assert found == sorted(found)


@pytest.mark.parametrize("num_train", [-1, 0, 34])
def test_more_than_there_is_cannot_be_taken(small_dir, num_train):
  dataset = data.load("idx", data_dir=small_dir, dev_size=7)
  with pytest.raises(InputError) as error:
    data.take(dataset, num_train)
  assert str(error.value) == (f"num_train={num_train}: expected 1 to 33")


def test_a_data_set_cannot_be_changed(mnist):
  with pytest.raises(dataclasses.FrozenInstanceError):
    mnist.name = "other"


@given(seed=SEEDS, epoch=SEEDS, count=st.integers(1, 300))
def test_an_order_is_a_permutation_and_a_pure_function(seed, epoch, count):
  order = batches.epoch_order(seed, epoch, count)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(count))
  np.testing.assert_array_equal(order, batches.epoch_order(seed, epoch, count))


@given(
  pairs=st.lists(st.tuples(SEEDS, SEEDS), min_size=2, max_size=2, unique=True)
)
def test_orders_of_different_epochs_differ(pairs):
  a, b = (batches.epoch_order(*pair, 1000) for pair in pairs)
  # The number of fixed points of one against the other is Poisson(1).
  assert np.sum(a == b) < 15


@pytest.mark.parametrize(
  ("a", "b"), [((0, 1), (1, 0)), ((2**32, 0), (0, 1)), ((1, 0), (1, 2**32))]
)
def test_seeds_and_epochs_do_not_run_together(a, b):
  assert (
    np.sum(batches.epoch_order(*a, 999) == batches.epoch_order(*b, 999)) < 15
  )


def test_orders_are_uniform():
  # Where each of 6 examples lands, over 6,000 epochs: chi-square with 25
  # degrees of freedom, 99.9 % below 52.6.
  count, epochs = 6, 6000
  landed = np.zeros((count, count))
  for epoch in range(epochs):
    landed[np.arange(count), batches.epoch_order(7, epoch, count)] += 1
  expected = epochs / count
  assert np.sum((landed - expected) ** 2) / expected < 52.6


def test_the_split_is_uniform():
  counts = np.zeros(20)
  for seed in range(3000):
    counts += data._ranked_below(5, 20, seed, 0)
  # Each is in 750 of 3,000 on average, with a standard deviation of 23.7.
  assert np.all(np.abs(counts - 750) < 5 * 23.7)
  assert counts.sum() == 15_000


@pytest.mark.parametrize(
  ("args", "line"),
  [
    ((-1, 0, 5), f"seed=-1: expected 0 to {2**63 - 1}"),
    ((0, -1, 5), f"epoch=-1: expected 0 to {2**63 - 1}"),
    ((0, 0, -5), f"num_examples=-5: expected 1 to {2**31 - 1}"),
    ((0, 0, 0), f"num_examples=0: expected 1 to {2**31 - 1}"),
  ],
)
def test_negative_arguments_are_refused(args, line):
  with pytest.raises(InputError) as error:
    batches.epoch_order(*args)
  assert str(error.value) == line


@given(
  count=st.integers(1, 200), seed=SEEDS, drop_last=st.booleans(), pick=st.data()
)
def test_batches_hold_each_example_once(count, seed, drop_last, pick):
  batch_size = pick.draw(st.integers(1, count))
  order = batches.epoch_order(seed, 0, count)
  indices, weights = batches.batch_indices(order, batch_size, drop_last)
  cut = math.floor if drop_last else math.ceil
  assert indices.shape == weights.shape == (cut(count / batch_size), batch_size)
  assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
  assert set(np.unique(weights)) <= {0.0, 1.0}
  assert indices.min() >= 0
  assert indices.max() < count
  used = indices[weights == 1]
  np.testing.assert_array_equal(used, order[: len(used)])
  assert len(used) == (count // batch_size * batch_size if drop_last else count)
  assert np.all(weights[:-1] == 1)


@pytest.mark.parametrize("batch_size", [-1, 0, 11])
def test_a_batch_size_that_cannot_be_is_refused(batch_size):
  with pytest.raises(InputError) as error:
    batches.batch_indices(np.arange(10, dtype=np.int32), batch_size)
  assert str(error.value) == (f"batch_size={batch_size}: expected 1 to 10")


def test_every_grey_level_is_scaled():
  levels = np.resize(np.arange(256, dtype=np.uint8), (2, 784))
  exact = levels / 255.0
  for scale in (data.to_float, jax.jit(data.to_float)):
    for images in (levels, jnp.asarray(levels)):
      scaled = np.asarray(scale(images))
      assert scaled.dtype == np.float32
      assert scaled.min() == 0.0
      assert scaled.max() == 1.0
      np.testing.assert_allclose(scaled, exact, rtol=2**-23)
