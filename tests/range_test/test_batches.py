import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.range_test import batches
from mnist_jax.runtime.errors import InputError

THREE = [np.full((4, 2), i, np.float32) for i in range(3)]


class Loader:
  """What torch's is to us: begun anew by iter(), its tensors no arrays."""

  class Tensor:
    def __init__(self, value):
      self.value = value

    def __array__(self, dtype=None, copy=None):
      return self.value

  def __iter__(self):
    return map(self.Tensor, THREE)


class Sequence:
  """The older protocol."""

  def __getitem__(self, i):
    return THREE[i]


@pytest.mark.parametrize(
  "given",
  [
    THREE,
    Loader(),
    Sequence(),
    itertools.cycle(THREE),
    lambda step: THREE[step % 3],
    np.stack([*THREE, *THREE]),
  ],
)
def test_all_kinds_are_one_stream(given):
  found = list(batches.stream(given, 5))
  np.testing.assert_array_equal(found, [THREE[i % 3] for i in range(5)])


def test_an_iterator_loses_no_more_than_it_must():
  given = iter(THREE)
  list(batches.stream(given, 2))
  assert next(given) is THREE[2]


def test_a_pytree_is_cut_along_its_rows():
  keys = jax.random.split(jax.random.key(0), 3)
  found = list(batches.stream({"x": np.stack(THREE), "key": keys}, 2))
  assert found[1]["key"] == keys[1]
  np.testing.assert_array_equal(found[1]["x"], THREE[1])


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (iter(THREE), "the batches ended after 3, expected 5"),
    (np.stack(THREE), "have 3 rows, expected at least 5"),
    ((np.zeros(5), np.zeros(6)), "have 5 and 6 rows"),
    ((np.zeros(5), 1.0), "have no and 5 rows"),
    (tuple(THREE), "or hand over a list of batches"),
    ([], "batches: found none"),
    (None, "batches: found NoneType, expected an iterator"),
    (7, "batches: found int"),
    ([(THREE[0], "word")], r"batch 0 holds str at \[1\]"),
    ([{1, 2}], "batch 0 holds set, expected arrays"),
    (lambda step: THREE[3], "raised IndexError at step 0"),
  ],
)
def test_what_is_no_batch_is_one_line(given, message):
  with pytest.raises(InputError, match=message) as raised:
    list(batches.stream(given, 5))
  assert "\n" not in str(raised.value)


def test_halves_share_no_example_and_no_key():
  key = jax.random.key(0)
  batch = (key, jnp.arange(5), jnp.float32(2))
  first, second = batches.halves(batch)
  assert batches.size(batch) == 5
  assert (first[1].tolist(), second[1].tolist()) == ([0, 1], [2, 3])
  assert first[0] != second[0]
  assert first[2] == second[2] == 2
