"""The rule of sparse features, by what it promises."""

import numpy as np
import pytest

from mnist_jax import data
from mnist_jax.data import sparse as sparse_features
from mnist_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def full():
  """A data set in which every pixel is always there."""

  def split(count):
    labels = np.zeros(count, np.int32)
    return data.Split(np.full((count, 784), 200, np.uint8), labels)

  return data.Dataset("full", split(4000), split(100), split(50), "digest")


def test_pixels_are_shown_at_their_rates(full):
  shown = sparse_features.frequencies(0.01, 3)
  sparse = sparse_features.sparsify(full, 0.01, 3)
  found = (sparse.train.images > 0).mean(axis=0)
  error = np.sqrt(shown * (1 - shown) / 4000)
  assert np.abs((found - shown) / error).max() < 5
  assert set(np.unique(sparse.train.images)) == {0, 200}
  assert shown.min() >= 0.01
  # log-uniform: as many below the geometric mean of the ends as above.
  assert abs((shown < 0.1).mean() - 0.5) < 0.1


def test_is_a_function_of_its_arguments(full):
  one, same, other = (
    sparse_features.sparsify(full, 0.1, seed) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one.dev.images, same.dev.images)
  assert (one.dev.images != other.dev.images).any()
  assert one.digest == same.digest
  assert len({one.digest, other.digest, full.digest}) == 3
  assert (full.train.images == 200).all()
  # Splits are masked independently of each other.
  assert (one.train.images[:50] != one.test.images).any()


def test_lowest_1_changes_no_pixel(full):
  sparse = sparse_features.sparsify(full, 1.0, 0)
  np.testing.assert_array_equal(sparse.train.images, full.train.images)


@pytest.mark.parametrize("lowest", [0.0, -1.0, 1.1, float("nan")])
def test_lowest_out_of_range(full, lowest):
  with pytest.raises(InputError, match="lowest"):
    sparse_features.sparsify(full, lowest, 0)
