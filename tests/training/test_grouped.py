"""Evaluation in chunks that leave out what is 0 in all their examples."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.training import grouped, loop


def drawn(count, inked, seed=0):
  """Examples of which a share `inked` of the pixels is not 0."""
  rng = np.random.default_rng(seed)
  grey = rng.integers(1, 256, (count, 784))
  images = np.where(rng.random((count, 784)) < inked, grey, 0)
  return data.Split(
    images.astype(np.uint8), rng.integers(0, 10, count).astype(np.int32)
  )


def scattered(several):
  """The examples that count, with the pixels that were left out."""
  return [row for chunks in several for row in whole(*map(np.asarray, chunks))]


def whole(pixels, images, labels, weights):
  rows = []
  for where, part, names, weighs in zip(
    pixels, images, labels, weights, strict=True
  ):
    assert len(set(where.tolist())) == len(where)
    full = np.zeros((len(part), 784), np.uint8)
    full[:, where] = part
    rows += [
      (image.tobytes(), int(name))
      for image, name, weight in zip(full, names, weighs, strict=True)
      if weight
    ]
  return rows


@given(
  count=st.integers(1, 70),
  size=st.integers(1, 50),
  inked=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
  seed=st.integers(0, 99),
)
def test_every_example_is_there_once_and_whole(count, size, inked, seed):
  split = drawn(count, inked, seed)
  found = scattered(grouped.chunks(split, size))
  expected = [
    (image.tobytes(), int(label)) for image, label in zip(*split, strict=True)
  ]
  assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
  ("count", "size", "inked", "sizes"),
  [
    (1, 5, 0.02, (784, 10)),
    (24, 8, 0.02, (784, 8, 10)),
    (25, 8, 0, (784, 8, 10)),
    (25, 8, 0.02, (784, 8, 6, 10)),
    (31, 8, 1, (784, 8, 10)),
    (60, 60, 0.2, (784, 10)),
    (7, 1, 0.2, (784, 8, 10)),
  ],
)
def test_the_sums_are_those_of_the_whole_split(count, size, inked, sizes):
  split = drawn(count, inked)
  params = mlp.init(jax.random.key(0), sizes)
  names = ("tanh",) * (len(sizes) - 2)
  found = grouped.evaluate(names, params, grouped.chunks(split, size))
  expected = loop.evaluate(names, params, split)
  assert found.examples == expected.examples == count
  assert found.correct == expected.correct
  np.testing.assert_allclose(found.loss_sum, expected.loss_sum, rtol=1e-5)


@pytest.mark.parametrize(("count", "shapes"), [(1, 1), (19, 1), (20, 3)])
def test_many_chunks_are_of_three_shapes_and_few_of_one(count, shapes):
  assert len(grouped.chunks(drawn(count, 0.2), 1)) == shapes


@given(kept=st.lists(st.integers(0, 9), min_size=grouped.MANY, max_size=25))
def test_no_other_shapes_would_leave_fewer_products(kept):
  kept = np.array(kept)
  found = grouped._alike(kept)
  assert sorted(np.concatenate(found)) == list(range(len(kept)))
  ordered = np.sort(kept)
  least = min(
    sum(part.max() * len(part) for part in np.split(ordered, cuts) if len(part))
    for cuts in itertools.combinations_with_replacement(range(len(kept)), 2)
  )
  assert sum(kept[part].max() * len(part) for part in found) == least


def test_a_quarter_or_more_of_the_products_of_mnist_is_left_out(mnist):
  for split, most in ((mnist.train, 0.54), (mnist.dev, 0.7)):
    kept = sum(chunks.images.size for chunks in grouped.chunks(split))
    assert kept < most * split.images.size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_shows_where_no_image_is_lit(mnist, value):
  part = data.Split(*(x[:200] for x in mnist.train))
  unlit = int(np.flatnonzero(~part.images.any(axis=0))[0])
  (first,) = mlp.init(jax.random.key(0), (784, 10))
  broken = (first._replace(w=first.w.at[unlit, 3].set(value)),)
  assert np.isnan(loop.evaluate((), broken, part).loss)
  found = grouped.evaluate((), broken, grouped.chunks(part))
  assert np.isnan(found.loss)
  assert found.correct == 0
