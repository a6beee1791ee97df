"""Grids, budgets, keys, and the blocks that cells are put into."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import plan
from mnist_jax.sweep.plan import Budget, Target, cell_key, product
from mnist_jax.training.settings import FIELDS, Settings


def test_product_is_every_combination_the_last_axis_fastest():
  base = Settings(batch_size=32)
  cells = product(base, learning_rate=[0.1, 0.2], seed=range(3))
  assert [(c.learning_rate, c.seed) for c in cells] == [
    (rate, seed) for rate in (0.1, 0.2) for seed in (0, 1, 2)
  ]
  assert {c.batch_size for c in cells} == {32}
  assert product() == [Settings()]


@pytest.mark.parametrize(
  ("field", "axis", "expected"),
  [
    ("seed", 3, [3]),
    ("seed", (n for n in (4, 5)), [4, 5]),
    ("optimizer", "adam", ["adam"]),
    ("optimizer", ["sgd", "adam"], ["sgd", "adam"]),
    ("num_train", [None, 500], [None, 500]),
    ("hidden_sizes", (8, 4), [(8, 4)]),
    ("hidden_sizes", [8, 4], [(8, 4)]),
    ("hidden_sizes", [(8, 4), [16, 2]], [(8, 4), (16, 2)]),
    ("activations", ["tanh", "relu"], [("tanh", "relu")]),
    (
      "activations",
      [("tanh", "relu"), ("relu", "relu")],
      [("tanh", "relu"), ("relu", "relu")],
    ),
  ],
)
def test_an_axis_is_one_value_or_several(field, axis, expected):
  assert [getattr(c, field) for c in product(**{field: axis})] == expected


def test_axes_of_tuples_may_have_none_and_nothing_in_them():
  multistep = Settings(schedule="multistep", boundaries=(1,))
  cells = product(multistep, boundaries=[(10,), (10, 20.5)])
  assert [c.boundaries for c in cells] == [(10,), (10, 20.5)]
  assert product(boundaries=None)[0].boundaries is None
  assert plan._values("boundaries", FIELDS["boundaries"], [None, (1, 2)]) == [
    None,
    (1, 2),
  ]
  no_hidden = product(hidden_sizes=(), activations=())
  assert no_hidden[0].train_config().sizes == (784, 10)


def test_numbers_of_numpy_are_plain_ones():
  """repr(np.float64(0.1)) is no command-line value, 128.0 no batch size."""
  cell = product(
    learning_rate=np.array([0.1]),
    batch_size=np.geomspace(64, 64, 1),
    hidden_sizes=np.array([8, 4]),
    seed=np.int64(3),
  )[0]
  plain = Settings(
    learning_rate=0.1, batch_size=64, hidden_sizes=(8, 4), seed=3
  )
  assert cell == plain
  assert cell.flags() == plain.flags()
  for value in (cell.batch_size, cell.seed, *cell.hidden_sizes):
    assert type(value) is int


@pytest.mark.parametrize(
  ("axes", "message"),
  [
    ({"learnig_rate": [0.1]}, "'learnig_rate'.*'learning_rate'"),
    ({"seed": []}, "seed: found no values"),
    ({"seed": range(0)}, "seed: found no values"),
    ({"hidden_sizes": []}, "hidden_sizes: found no values"),
    ({"learning_rate": [0.1, -1]}, "learning_rate=-1"),
  ],
)
def test_a_wrong_axis_is_one_line(axes, message):
  with pytest.raises(InputError, match=message) as caught:
    product(**axes)
  assert "\n" not in str(caught.value)


ONE = Budget(epochs=1)


@pytest.mark.usefixtures("unchecked")
def test_a_number_is_no_budget():
  with pytest.raises(InputError, match="budget is 5, expected a sweep"):
    plan.check_cells(product(), 5, 500)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("cells", "message"),
  [
    ([], "the grid is empty"),
    ({"learning_rate": [1]}, "cells is a dict, expected a list of sweep.Se"),
    (["seed"], r"cells\[0\] is a str, expected a list of sweep.Settings"),
    (product(seed=[1, 2, 1]), r"a cell 2 times \(--seed=1\)"),
    (product(learning_rate=[1, 1.0]), "2 times"),
    ([Settings(seed=3), Settings(seed=3, order_seed=3)], "2 times"),
    (product(batch_size=[64, 501]), "batch_size=501: more than the 500"),
    (product(num_train=[100]), "batch_size=128: more than the 100"),
    (product(num_train=[501]), "num_train=501: found 500"),
    (
      product(schedule="step", decay_steps=0.001, schedule_unit="epochs"),
      "decay_steps",
    ),
  ],
)
def test_cells_that_cannot_be_run_are_found_before_any_is(cells, message):
  with pytest.raises(InputError, match=message) as caught:
    plan.check_cells(cells, ONE, 500)
  assert "\n" not in str(caught.value)
  cells = product(seed=range(5))
  keys = plan.check_cells(cells, ONE, 500)
  assert list(keys.items()) == [(cell, cell_key(cell, ONE)) for cell in cells]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({}, "expected one of the two"),
    ({"epochs": 1, "updates": 1}, "expected one of the two"),
    ({"epochs": 0}, "epochs=0"),
    ({"updates": True}, "updates=True"),
    ({"epochs": float("nan")}, "epochs=nan"),
    ({"epochs": 1, "evaluate_every": -1}, "evaluate_every=-1"),
    ({"epochs": 1, "evaluate_at": (1.5,)}, "evaluate_at=1.5.* 1 epochs"),
    ({"epochs": 1, "evaluate_at": (float("nan"),)}, "evaluate_at=nan"),
    ({"epochs": 1, "splits": ("devv",)}, "'devv'"),
    ({"epochs": 1, "splits": ("dev", "test")}, "final_splits"),
    ({"epochs": 1, "final_splits": ("all",)}, "'all'"),
    (
      {
        "epochs": 1,
        "splits": ("train",),
        "target": {"metric": "dev_loss", "value": 1},
      },
      "expected 'dev' in splits",
    ),
    ({"epochs": 1, "target": {"metric": "loss", "value": 1}}, "'loss'"),
    ({"epochs": 1, "target": {"metrc": "dev_loss"}}, "target has 'metrc'"),
    ({"epochs": 1, "target": 3}, "target is 3"),
    ({"epoch": 1}, "budget has 'epoch'"),
  ],
)
def test_a_wrong_budget_is_one_line(fields, message):
  with pytest.raises(InputError, match=message) as caught:
    plan.budget_from_dict(fields)
  assert "\n" not in str(caught.value)


positive = st.one_of(
  st.integers(1, 40), st.floats(0.01, 40, allow_nan=False).map(float)
)


# Plain values: the run-time type checks draw random numbers themselves, which
# hypothesis forbids inside its strategies.
@st.composite
def budget_fields(draw):
  unit = draw(st.sampled_from(["epochs", "updates"]))
  length = draw(positive if unit == "epochs" else st.integers(1, 2000))
  targets = st.fixed_dictionaries(
    {
      "metric": st.sampled_from(["dev_loss", "dev_accuracy"]),
      "value": st.floats(0, 1),
    }
  )
  return {
    unit: length,
    "evaluate_every": draw(st.none() | st.floats(0.05, 50)),
    "evaluate_at": [
      draw(st.floats(0, 1)) * length for _ in range(draw(st.integers(0, 3)))
    ],
    "splits": draw(st.sampled_from([["dev"], ["train", "dev"]])),
    "final_splits": draw(st.sampled_from([[], ["test"]])),
    "target": draw(st.none() | targets),
  }


@given(budget_fields(), st.integers(1, 500))
@settings(max_examples=60)
def test_points_rise_from_the_start_to_the_end(fields, per_epoch):
  budget = plan.budget_from_dict(fields)
  points = budget.points(per_epoch)
  total = budget.total(per_epoch)
  assert points[0] == 0
  assert points[-1] == total >= 1
  assert (np.diff(points) > 0).all()
  scale = per_epoch if budget.unit == "epochs" else 1
  assert abs(total - max(1, budget.length * scale)) <= 0.5 + 1e-6
  asked = list(budget.evaluate_at)
  if budget.evaluate_every is not None:
    asked += np.arange(
      budget.evaluate_every, budget.length, budget.evaluate_every
    ).tolist()
  for place in asked:
    nearest = min(abs(point - place * scale) for point in points)
    assert nearest <= 0.5 + 1e-6
  assert len(points) <= len(asked) + 3


@given(budget_fields())
@settings(max_examples=60)
def test_a_budget_comes_back_from_json(fields):
  budget = plan.budget_from_dict(fields)
  text = json.dumps(budget.to_dict())
  assert plan.budget_from_dict(json.loads(text)) == budget


def unchecked(kind, **given):
  """An instance as users make it, without the tests' checks of types."""
  made = object.__new__(kind)
  for field in dataclasses.fields(kind):
    value = given.get(field.name, field.default)
    object.__setattr__(made, field.name, value)
  made.__post_init__()
  return made


def test_numbers_of_numpy_make_the_same_budget():
  plain = Budget(epochs=1.5, evaluate_every=1, evaluate_at=(0, 0.5))
  given = unchecked(
    Budget,
    epochs=np.float32(1.5),
    evaluate_every=np.int64(1),
    evaluate_at=np.array([0, 0.5]),
  )
  assert (given, given.to_dict()) == (plain, plain.to_dict())
  for updates in (np.float64(5), np.int64(5)):
    assert unchecked(Budget, updates=updates).to_dict() == {"updates": 5}
  target = unchecked(Target, metric="dev_loss", value=np.float32(0.5))
  assert repr(target) == repr(Target("dev_loss", 0.5))


def test_points_by_example():
  assert Budget(epochs=3, evaluate_every=1).points(10) == [0, 10, 20, 30]
  assert Budget(epochs=1, evaluate_every=0.25).points(430) == [
    *(0, 108, 215, 323, 430)
  ]
  assert Budget(epochs=2, evaluate_at=(0, 0.5)).points(10) == [0, 5, 20]
  assert Budget(updates=7, evaluate_every=3).points(100) == [0, 3, 6, 7]
  # 0.145 * 100 is a float below 14.5, and means 14.5.
  assert Budget(epochs=1, evaluate_at=(0.145,)).points(100) == [0, 15, 100]
  assert Budget(epochs=0.001).points(10) == [0, 1]


@pytest.mark.parametrize(
  ("metric", "found", "reached"),
  [
    ("dev_loss", 0.5, True),
    ("dev_loss", 0.51, False),
    ("dev_loss", float("nan"), False),
    ("dev_accuracy", 0.5, True),
    ("dev_accuracy", 0.49, False),
    ("dev_accuracy", float("nan"), False),
  ],
)
def test_a_target_is_reached_at_its_value(metric, found, reached):
  assert Target(metric, 0.5).reached({metric: found}) is reached


def test_keys_are_the_same_for_ever():
  """What is on the disk is found by them."""
  assert cell_key(Settings(), ONE) == "9ef9c3bfdf72e44c"
  assert cell_key(Settings(seed=1), Budget(updates=5)) == "9cc31cc5f1f0c570"


@pytest.mark.parametrize(
  ("one", "other"),
  [
    (Settings(learning_rate=1), Settings(learning_rate=1.0)),
    (Settings(seed=4), Settings(seed=4, order_seed=4)),
    (
      Settings(optimizer="momentum"),
      Settings(optimizer="momentum", momentum=0.9),
    ),
    (
      Settings(optimizer="adam", optimizer_args="b1=0.8,b2=0.99"),
      Settings(optimizer="adam", optimizer_args="b2=9.9e-1 b1=0.8"),
    ),
  ],
)
def test_settings_of_the_same_run_have_one_key(one, other):
  assert cell_key(one, ONE) == cell_key(other, ONE)
  assert cell_key(one, Budget(epochs=1.0)) == cell_key(other, ONE)


OTHER_VALUES = {
  "learning_rate": 0.1,
  "batch_size": 64,
  "hidden_sizes": (64, 8),
  "activations": ("tanh", "tanh"),
  "initializer": "he",
  "l2": 0.1,
  "dropout": 0.1,
  "optimizer": "adam",
  "grad": "autodiff",
  "drop_last": True,
  "num_train": 500,
  "seed": 1,
  "order_seed": 1,
  "schedule": "poly",
  "warmup_steps": 3,
  "schedule_unit": "epochs",
  "batch_schedule": "0:64,1:128",
  "clip_norm": 1.0,
  "init_scale": 0.1,
  "optimizer_args": "momentum=0.5",
}


def test_every_setting_and_the_budget_are_in_the_key():
  cells = [Settings(), *(Settings(**{k: v}) for k, v in OTHER_VALUES.items())]
  for name, values in {
    "momentum": ("momentum", 0.5, 0.6),
    "gamma": ("exp", 0.5, 0.6),
    "power": ("poly", 2, 3),
    "decay_steps": ("poly", 5, 6),
    "boundaries": ("multistep", (5,), (6,)),
    "stable_steps": ("wsd", 5, 6),
  }.items():
    kind = "optimizer" if name == "momentum" else "schedule"
    cells += [Settings(**{kind: values[0], name: v}) for v in values[1:]]
  decays = {"schedule": "exponential_decay", "decay_steps": 9}
  cells += [Settings(**decays, decay_rate=rate) for rate in (0.5, 0.6)]
  cells += [Settings(**decays, decay_rate=0.5, staircase=True)]
  varied = {
    field.name
    for field in dataclasses.fields(Settings)
    if len({getattr(cell, field.name) for cell in cells}) > 1
  }
  assert varied == {field.name for field in dataclasses.fields(Settings)}
  keys = [cell_key(cell, ONE) for cell in cells]
  for budget in (
    Budget(epochs=2),
    Budget(updates=1),
    Budget(epochs=1, evaluate_every=0.5),
    Budget(epochs=1, splits=("train", "dev")),
    Budget(epochs=1, final_splits=("test",)),
    Budget(epochs=1, target=Target("dev_loss", 0.1)),
    Budget(epochs=1, target=Target("dev_loss", 0.2)),
  ):
    keys.append(cell_key(Settings(), budget))
  assert len(set(keys)) == len(keys)


def test_what_shares_a_program():
  same = [
    Settings(),
    Settings(learning_rate=1, seed=3, schedule="poly"),
    Settings(order_seed=9),
  ]
  assert len({plan.group_of(cell) for cell in same}) == 1
  apart = [
    Settings(batch_size=64),
    Settings(num_train=500),
    Settings(l2=0.1),
    Settings(hidden_sizes=(32, 16)),
    Settings(optimizer="adam"),
    Settings(clip_norm=1.0),
    Settings(init_scale=0.1),
  ]
  assert len({plan.group_of(cell) for cell in [*same, *apart]}) == 8
  for name in ("l2", "clip_norm"):
    shared = product(**{name: [0.1, 0.2]}, seed=[0, 2])
    assert len(set(map(plan.group_of, shared))) == 1


@st.composite
def grids(draw):
  cells = [
    {"batch_size": batch, "order_seed": order, "seed": seed}
    for batch in (8, 16)
    for order in range(draw(st.integers(0, 5)))
    for seed in range(draw(st.integers(1, 7)))
  ]
  return draw(st.permutations(cells or [{}]))


@given(grids(), st.integers(1, 4), st.integers(1, 20))
@settings(max_examples=60)
def test_blocks_hold_every_cell_once(fields, devices, max_members):
  cells = [Settings(**each) for each in fields]
  blocks = plan.blocks(cells, devices, max_members)
  held = collections.Counter(c for block in blocks for c in block.cells)
  assert held == collections.Counter(cells)
  shapes = collections.defaultdict(set)
  for block in blocks:
    height, width = len(block.rows), len(block.rows[0])
    assert {len(row) for row in block.rows} == {width}
    assert height % devices == 0
    assert height // devices * width <= max_members
    shapes[block.group].add((height, width))
    assert {plan.group_of(cell) for cell in block.cells} == {block.group}
    for row in block.rows:
      assert len({cell.order for cell in row if cell is not None}) <= 1
    assert block.cells
  assert all(len(found) == 1 for found in shapes.values())
  assert plan.blocks(cells, devices, max_members) == blocks


def test_members_of_one_order_lie_side_by_side():
  cells = product(order_seed=[0, 1], seed=range(4))
  (block,) = plan.blocks(cells, devices=2, max_members=16)
  assert [[cell.order for cell in row] for row in block.rows] == [
    [0] * 4,
    [1] * 4,
  ]
  own = product(seed=range(4))
  (block,) = plan.blocks(own, devices=2, max_members=16)
  assert [len(row) for row in block.rows] == [1] * 4
  one_order = product(order_seed=[0], seed=range(8))
  (block,) = plan.blocks(one_order, devices=2, max_members=16)
  assert [len(row) for row in block.rows] == [4, 4]


def test_only_keeps_the_places():
  cells = product(order_seed=[0, 1], seed=range(4))
  (block,) = plan.blocks(cells, devices=2, max_members=16)
  some = [cells[1], cells[6]]
  left = block.only(some)
  assert left.cells == tuple(some)
  assert left.group == block.group
  for row, before in zip(left.rows, block.rows, strict=True):
    assert row == tuple(c if c in some else None for c in before)
