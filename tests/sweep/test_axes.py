"""Axes of a sweep as texts."""

import numpy as np
import pytest

from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import axes
from mnist_jax.training.settings import Settings


@pytest.mark.parametrize(
  ("text", "values"),
  [
    ("learning_rate=0.1,0.2", (0.1, 0.2)),
    ("seed=2:5", (2, 3, 4)),
    ("seed=0:5:2", (0, 2, 4)),
    ("learning_rate=log:0.01:1:3", (0.01, 0.1, 1.0)),
    ("momentum=lin:0.5:0.9:5", (0.5, 0.6, 0.7, 0.8, 0.9)),
    ("batch_size=log:1:64:4", (1, 4, 16, 64)),
    ("hidden_sizes=64/16,8", ((64, 16), (8,))),
    ("drop_last=true,false", (True, False)),
    ("clip_norm=none,0.5", (None, 0.5)),
    ("initializer=xavier,he", ("xavier", "he")),
  ],
)
def test_values(text, values):
  found = axes.parse(text)
  assert (found.name, found.values) == (text.partition("=")[0], values)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("learning_rate", "expected NAME=VALUES"),
    ("learning_rate=", "expected NAME=VALUES"),
    ("lr=0.1", "expected 'learning_rate'"),
    ("learning_rate=0.1:1", "learning_rate has 0.1:1, expected FIRST:END"),
    ("seed=3:3", "at least one below END"),
    ("seed=0:3:0", "expected FIRST:END"),
    ("initializer=0:3", "expected FIRST:END"),
    ("learning_rate=log:0:1", "above 0 on a log scale"),
    ("learning_rate=log:1:0.1", "LOW below HIGH"),
    ("learning_rate=log:0.1:1:1", "at least 2 values"),
    ("learning_rate=log:0.1", "expected lin:LOW:HIGH or log:LOW:HIGH"),
    ("learning_rate=log:a:b", "expected lin:LOW:HIGH or log:LOW:HIGH"),
    ("drop_last=lin:0:1", "a setting that is a number"),
    ("hidden_sizes=lin:4:8", "a setting of one number"),
    ("drop_last=yes", "has 'yes', expected true or false"),
    ("hidden_sizes=64/a", "separated by /"),
    ("seed=none", "has 'none', expected a whole number"),
  ],
)
def test_what_is_no_axis_is_said(text, said):
  with pytest.raises(InputError) as caught:
    axes.parse(text)
  assert said in str(caught.value)


def test_cells_are_every_combination_of_values_and_points():
  found = axes.cells(
    Settings(batch_size=64),
    [
      axes.parse("learning_rate=log:0.01:1"),
      axes.parse("seed=0:2"),
      axes.parse("l2=lin:0:0.1"),
    ],
    points=5,
  )
  assert len(found) == 10
  assert {cell.batch_size for cell in found} == {64}
  pairs = [(cell.learning_rate, cell.l2) for cell in found]
  assert pairs[::2] == pairs[1::2]
  assert len(set(pairs)) == 5
  assert [cell.seed for cell in found] == [0, 1] * 5


@pytest.mark.parametrize("draw", axes.DRAWS)
def test_more_points_begin_with_the_same(draw):
  def drawn(points, seed=0):
    axis = axes.parse("learning_rate=log:0.01:1")
    found = axes.cells(Settings(), [axis], points=points, draw=draw, seed=seed)
    return [cell.learning_rate for cell in found]

  few, many = drawn(8), drawn(64)
  assert few == many[:8]
  assert few != drawn(8, seed=1)
  assert 0.01 <= min(many) < max(many) <= 1
  # Half of them below the middle of the log scale.
  below = np.mean(np.array(many) < 0.1)
  assert abs(below - 0.5) < (0.02 if draw == "halton" else 0.2)


def test_whole_numbers_that_are_drawn_twice_are_one_cell():
  axis = axes.parse("batch_size=lin:10:12")
  found = axes.cells(Settings(), [axis], points=50)
  assert {cell.batch_size for cell in found} == {10, 11, 12}
  assert len(found) == 3


@pytest.mark.parametrize(
  ("texts", "points", "said"),
  [
    (["seed=0:2", "seed=3"], None, "found seed twice"),
    (["l2=log:0.1:1"], None, "l2 is a range"),
    (["seed=0:2"], 3, "no axis is a range"),
    (["learning_rate=-1"], None, "learning_rate=-1"),
  ],
)
def test_what_does_not_go_together_is_said(texts, points, said):
  with pytest.raises(InputError, match=said):
    axes.cells(Settings(), [axes.parse(t) for t in texts], points=points)
