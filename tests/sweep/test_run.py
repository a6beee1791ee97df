"""Sweeps against the single runs that they stand for."""

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from mnist_jax import data, sweep
from mnist_jax.runtime import devices
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import (
  Budget,
  Target,
  _block,
  _program,
  plan,
  product,
  store,
)
from mnist_jax.training import loop
from mnist_jax.training.settings import Settings

ROOT = Path(__file__).parents[2]
SMALL = Settings(hidden_sizes=(8,), activations=("sigmoid",), batch_size=32)
# Of a loss or a weight, against the same run by itself: other programs sum in
# another order, and training lets the difference grow.
# An accelerator sums a vmapped product in another order.
CLOSE = 2e-5 if jax.default_backend() == "cpu" else 2e-4


def single(cell, epochs, dataset):
  """The rows of `loop.epochs` for the cell, and its last state."""
  if cell.num_train is not None:
    dataset = data.take(dataset, cell.num_train)
  count = len(dataset.train.labels)
  total = cell.updates_per_epoch(count) * epochs
  config = cell.train_config()
  rows = []
  for row, after in loop.epochs(
    config,
    dataset,
    cell.hparams(),
    cell.learning_rates(count, total),
    loop.init_state(config, cell.seed),
    seed=cell.order,
    last=epochs,
  ):
    rows.append(row)
    state = jax.device_get(after)
  return pd.DataFrame(rows), state


def rows_of(table, cell):
  """A cell's rows of a table, that are found by its settings alone."""
  wanted = store.setting_columns(cell)
  matches = np.ones(len(table), bool)
  for name, value in wanted.items():
    same = table[name].isna() if value is None else table[name] == value
    matches &= same.fillna(False).to_numpy(bool)
  return table[matches].reset_index(drop=True)


EPOCHLY = Budget(epochs=2, evaluate_every=1, splits=("train", "dev"))
FOUR = product(SMALL, learning_rate=[0.1, 0.5], seed=[0, 1], order_seed=[0])
KINDS = {
  "rates and seeds": FOUR,
  "own orders": product(SMALL, seed=range(3)),
  "momentum": product(
    SMALL, optimizer="momentum", momentum=[None, 0.5], initializer="he"
  ),
  "adam and schedules": [
    dataclasses.replace(SMALL, optimizer="adam", learning_rate=0.01, **more)
    for more in (
      {},
      {"schedule": "poly", "warmup_steps": 3},
      {"schedule": "step", "decay_steps": 1, "schedule_unit": "epochs"},
    )
  ],
  "any of optax": product(
    SMALL,
    optimizer="adamw",
    optimizer_args=["weight_decay=0.1", "weight_decay=1.0"],
    learning_rate=0.01,
  ),
  "l2, dropout, two layers": product(
    SMALL,
    hidden_sizes=(8, 6),
    activations=("relu", "tanh"),
    l2=[0.01, 0.1],
    dropout=0.3,
    grad="autodiff",
  ),
  "clipped, or not": product(
    SMALL, optimizer="momentum", clip_norm=[None, 0.1, 0.5], l2=[0.0, 0.01]
  ),
  "fewer examples, no short batch": product(
    SMALL, num_train=200, drop_last=True, seed=[0, 1]
  ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_the_single_runs(small, kind):
  cells = KINDS[kind]
  table = sweep.run(cells, EPOCHLY, dataset=small)
  assert len(table) == 3 * len(cells)
  for cell in cells:
    found = rows_of(table, cell)
    alone, _ = single(cell, 2, small)
    assert found["epoch"].tolist() == alone["epoch"].tolist()
    assert found["step"].tolist() == alone["step"].tolist()
    np.testing.assert_array_equal(
      found["rate"].to_numpy(np.float32),
      alone["learning_rate"].to_numpy(np.float32),
    )
    for name in ("train_loss", "dev_loss"):
      np.testing.assert_allclose(found[name], alone[name], rtol=CLOSE)
    for name in ("train_accuracy", "dev_accuracy"):
      # An example on the boundary may fall to either side.
      np.testing.assert_allclose(found[name], alone[name], atol=1 / 100)
    assert found["diverged_step"].isna().all()
    assert found["reached"].isna().all()
  changed = table.groupby("cell")["dev_loss"].agg(["first", "last"])
  assert (changed["first"] - changed["last"]).abs().min() > 10 * CLOSE


def state_after(cell, dataset, updates):
  """A single run's state after so many updates, and the objectives before."""
  config = cell.train_config()
  count = len(dataset.train.labels)
  rates = cell.learning_rates(count, 1000)
  state, objectives = loop.init_state(config, cell.seed), []
  on = loop.to_device(dataset)
  for epoch in itertools.count():
    plan = loop.plan_epoch(
      config, cell.order, epoch, count, rates, len(objectives)
    )
    left = updates - len(objectives)
    plan = loop.EpochPlan(*(array[:left] for array in plan))
    if left:
      state, losses = loop.train_epoch(
        config, state, on.train, plan, cell.hparams()
      )
      objectives += np.asarray(losses).tolist()
    if len(objectives) == updates:
      return state, objectives


def test_batch_loss_is_the_mean_objective_before_the_updates(small):
  budget = Budget(updates=20, evaluate_at=(13,))
  table = sweep.run([SMALL], budget, dataset=small)
  _, objectives = state_after(SMALL, small, 20)
  expected = [np.mean(objectives[:13]), np.mean(objectives[13:])]
  assert table["step"].tolist() == [0, 13, 20]
  assert np.isnan(table["batch_loss"][0])
  np.testing.assert_allclose(table["batch_loss"][1:], expected, rtol=CLOSE)


RELU = dataclasses.replace(
  SMALL,
  hidden_sizes=(8, 8),
  activations=("relu", "relu"),
  order_seed=0,
  l2=1e-3,
)
WILD = [
  # Break the loss at update 2, weights at update 1, the loss in epoch 2.
  dataclasses.replace(RELU, learning_rate=1e9, l2=1e-9),
  dataclasses.replace(RELU, learning_rate=3e38, l2=100.0),
  dataclasses.replace(RELU, learning_rate=0.5, l2=4.0),
]
TAME = dataclasses.replace(RELU, learning_rate=0.1)


def test_a_diverged_member_stays_at_its_last_finite_state(small):
  broken = {}
  for cell in WILD:
    with pytest.raises(loop.NonFiniteError) as caught:
      single(cell, 2, small)
    broken[cell] = caught.value.step
  late = broken[WILD[2]]
  assert [*broken.values()] == [2, 1, late]
  assert 11 < late < 19
  for cell in WILD:
    state, _ = state_after(cell, small, broken[cell])
    leaves = jax.tree.leaves(state.params)
    finite = all(np.isfinite(x).all() for x in leaves)
    assert finite == (cell is not WILD[1])
  # Found by the evaluation, and by an update some time after one.
  for at in ((late,), (late + 1,), (late - 2, late + 3), (2,)):
    budget = Budget(updates=20, evaluate_at=at, splits=("train", "dev"))
    table = sweep.run([*WILD, TAME], budget, dataset=small)
    assert rows_of(table, TAME)["diverged_step"].isna().all()
    for cell, step in broken.items():
      rows = rows_of(table, cell)
      after = rows["step"] >= step
      assert rows["diverged_step"].notna().equals(after), (at, cell)
      assert set(rows["diverged_step"].dropna()) == {step}
      state, objectives = state_after(cell, small, step - 1)
      last = loop.evaluate(cell.activations, state.params, small.dev)
      np.testing.assert_allclose(
        rows["dev_loss"][after], float(last.loss), rtol=5 * CLOSE
      )
      assert np.isfinite(rows["train_loss"]).all()
      since = max([p for p in (0, *at) if p < step], default=0)
      if step - 1 > since:
        first = rows.loc[after, "batch_loss"].iloc[0]
        np.testing.assert_allclose(
          first, np.mean(objectives[since:]), rtol=5 * CLOSE
        )


def test_a_budget_that_ends_with_the_breaking_update(small):
  """Only the evaluation sees it."""
  budget = Budget(updates=2)
  table = sweep.run([*WILD, TAME], budget, dataset=small)
  assert table["diverged_step"].fillna(0).tolist() == [0, 2, 0, 1, 0, 0, 0, 0]
  assert np.isfinite(table["dev_loss"]).all()


def test_what_diverges_disturbs_no_other(small):
  """Bit for bit: in the same program, beside a member that does not."""
  tame = product(TAME, learning_rate=[0.1, 0.2, 0.3])
  calm = dataclasses.replace(TAME, learning_rate=0.25)
  budget = Budget(epochs=2, evaluate_every=0.5)
  beside = {
    cell: sweep.run([cell, *tame], budget, dataset=small)
    for cell in (calm, WILD[0], WILD[2])
  }
  for wild in WILD[0], WILD[2]:
    assert rows_of(beside[wild], wild)["diverged_step"].notna().any()
    for cell in tame:
      pd.testing.assert_frame_equal(
        rows_of(beside[calm], cell), rows_of(beside[wild], cell)
      )


def test_a_target_ends_a_cell_at_its_first_evaluation(small):
  cells = product(SMALL, learning_rate=[0.01, 0.3, 1, 1.5], order_seed=[0])
  plain = Budget(updates=60, evaluate_every=5)
  whole = sweep.run(cells, plain, dataset=small)
  for metric, value in (("dev_loss", 1.8), ("dev_accuracy", 0.5)):
    target = Target(metric, value)
    aimed = dataclasses.replace(
      plain, target=target, final_splits=("test", "train")
    )
    table = sweep.run(cells, aimed, dataset=small)
    ends = []
    for cell in cells:
      all_rows, found = rows_of(whole, cell), rows_of(table, cell)
      good = all_rows[metric] <= value
      if metric == "dev_accuracy":
        good = all_rows[metric] >= value
      end = int(good.argmax()) if good.any() else len(good) - 1
      ends.append(end)
      # Bit for bit: what ends beside it changes nothing.
      columns = ["step", "dev_loss", "dev_accuracy", "batch_loss", "rate"]
      pd.testing.assert_frame_equal(found[columns], all_rows.loc[:end, columns])
      assert found["reached"].tolist() == good[: end + 1].tolist()
      assert found["test_loss"].isna().tolist() == [True] * end + [False]
      assert found["train_accuracy"].notna().tolist() == [False] * end + [True]
    assert len(set(ends)) > 2
    assert max(ends) == 12


def test_final_splits_are_of_the_last_state(small):
  budget = Budget(epochs=1, splits=("dev",), final_splits=("train", "test"))
  table = sweep.run([SMALL], budget, dataset=small)
  _, state = single(SMALL, 1, small)
  for name in ("train", "dev", "test"):
    expected = loop.evaluate(
      SMALL.activations, state.params, getattr(small, name)
    )
    last = table.iloc[-1]
    np.testing.assert_allclose(
      last[f"{name}_loss"], float(expected.loss), rtol=CLOSE
    )
  assert table["test_loss"].isna().tolist() == [True, False]


def test_points_within_an_epoch_change_nothing(small):
  often = Budget(epochs=1.5, evaluate_every=0.2)
  table = sweep.run([SMALL], often, dataset=small)
  once = sweep.run([SMALL], Budget(epochs=1.5), dataset=small)
  assert table["step"].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 15]
  # A single-member sweep is one program, wherever it is cut.
  assert table["dev_loss"].iloc[-1] == once["dev_loss"].iloc[-1]


def test_a_group_compiles_once(small, monkeypatch, tmp_path):
  traced = []
  real = _program._advance_rows

  def noted(config, *args):
    traced.append(config.batch_size)
    return real(config, *args)

  monkeypatch.setattr(_program, "_advance_rows", noted)
  cells = product(
    SMALL, learning_rate=[0.1, 0.2], batch_size=[20, 60], seed=range(3)
  )
  budget = Budget(epochs=2.5, evaluate_every=0.3)
  sweep.run(cells, budget, dataset=small, workdir=tmp_path, max_members=4)
  assert traced == [20, 60]
  notes = store.read_blocks(tmp_path / "blocks")
  assert sum(note["members"] for note in notes) == len(cells)
  counts = sorted(note["compiles"] for note in notes)
  # init, advance and evaluate of each group; nothing for its other blocks.
  assert counts == [0] * (len(notes) - 2) + [3, 3]
  for note in notes:
    # A trace within a trace counts in both, so that the sum may be the larger.
    assert note["compile_seconds"] < 2 * note["seconds"]
    assert note["seconds_per_member_and_epoch"] > 0
    if jax.default_backend() == "cpu":
      assert 0 < note["device_use"] < 2 * (os.cpu_count() or 1)


def test_a_cell_is_run_once_and_new_values_are_added(
  small, tmp_path, monkeypatch
):
  budget = Budget(epochs=1)
  ran = []
  real = _block.run

  def noted(block, *args):
    ran.extend(block.cells)
    return real(block, *args)

  monkeypatch.setattr(_block, "run", noted)
  few = product(SMALL, learning_rate=[0.1, 0.2], seed=[0, 1], order_seed=[0])
  asked = functools.partial(
    sweep.run, dataset=small, workdir=tmp_path, max_members=4
  )
  first = asked(few, budget)
  assert sorted(map(repr, ran)) == sorted(map(repr, few))
  ran.clear()
  again = asked(few, budget)
  assert ran == []
  pd.testing.assert_frame_equal(first, again)
  more = product(
    SMALL, learning_rate=[0.3, 0.2, 0.1], seed=range(4), order_seed=[0]
  )
  grown = asked(more, budget)
  assert sorted(map(repr, ran)) == sorted(repr(c) for c in more if c not in few)
  for cell in few:
    pd.testing.assert_frame_equal(rows_of(first, cell), rows_of(grown, cell))
  # A row of each cell at each point, in the order asked for.
  order = [cell for cell in more for _ in range(2)]
  assert grown["seed"].tolist() == [cell.seed for cell in order]
  assert grown["learning_rate"].tolist() == [c.learning_rate for c in order]
  assert grown["step"].tolist() == [0, 10] * len(more)
  ran.clear()
  longer = dataclasses.replace(budget, epochs=2)
  asked(few, longer)
  assert len(ran) == len(few)
  table = pd.read_parquet(tmp_path / "cells")
  assert len(table) == 2 * (len(more) + len(few))
  assert not table.duplicated(["cell", "step"]).any()


def test_keys_and_commands_are_made_once_a_cell(small, monkeypatch):
  made = []

  def counted(owner, name):
    real = getattr(owner, name)

    def noted(*args, **kwargs):
      made.append(name)
      return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)

  counted(plan, "cell_key")
  counted(Settings, "command")
  budget = Budget(updates=10, evaluate_every=2)
  table = sweep.run(product(SMALL, seed=range(2)), budget, dataset=small)
  assert len(table) == 12
  assert sorted(made) == ["cell_key"] * 2 + ["command"] * 2


def test_without_a_directory_the_table_is_the_same(
  small, tmp_path, monkeypatch
):
  cells = product(SMALL, order_seed=[1, 0], seed=[3, 0, 2, 1])
  budget = Budget(updates=4, evaluate_every=3)
  asked = functools.partial(sweep.run, cells, budget, dataset=small)
  monkeypatch.setenv("HOME", str(tmp_path))
  kept = asked(workdir="~/kept", max_members=4)
  assert os.listdir(tmp_path) == ["kept"]
  pd.testing.assert_frame_equal(kept, asked(max_members=4))
  assert kept["seed"].tolist()[::3] == [3, 0, 2, 1] * 2


def test_other_splits_of_the_same_source_are_other_data(small, tmp_path):
  budget = Budget(updates=1)
  sweep.run([SMALL], budget, dataset=small, workdir=tmp_path)
  other = dataclasses.replace(small, dev=small.test)
  assert other.digest == small.digest
  with pytest.raises(InputError, match="data_digest"):
    sweep.run([SMALL], budget, dataset=other, workdir=tmp_path)
  table = sweep.run(
    [SMALL], budget, dataset=other, workdir=tmp_path, overwrite=True
  )
  assert len(table) == 2


def test_a_mistake_leaves_the_directory_alone(small, tmp_path):
  for cells in ([], [SMALL, SMALL], product(SMALL, batch_size=301)):
    with pytest.raises(InputError):
      sweep.run(
        cells, Budget(epochs=1), dataset=small, workdir=tmp_path / "new"
      )
  assert not (tmp_path / "new").exists()


def test_progress_rises_to_all(small):
  seen = []
  sweep.run(
    product(SMALL, seed=range(4), order_seed=[0, 1]),
    Budget(epochs=2, evaluate_every=0.5),
    dataset=small,
    max_members=4,
    on_progress=seen.append,
  )
  done = [progress.done for progress in seen]
  assert done == sorted(done)
  assert len(set(done)) >= 8
  assert done[0] == 0
  assert done[-1] == pytest.approx(seen[-1].total)
  assert {progress.cells for progress in seen} == {8}
  assert {progress.cells_done for progress in seen} == {0, 4, 8}
  assert "batch 32" in seen[-1].doing


def test_commands_name_the_module_data_and_budget(small):
  digest = store.data_digest(small)
  table = sweep.run(
    [SMALL],
    Budget(updates=1),
    dataset=small,
    data_flags=["--data_source=idx", "--data_dir=my data"],
  )
  (command,) = set(table["command"])
  assert command == (
    "python -m experiments.replay --batch_size=32 --hidden_sizes=8 "
    "--activations=sigmoid --data_source=idx '--data_dir=my data' "
    f"--data_digest={digest[:12]} '--budget={{\"updates\": 1}}'"
  )


DEVICES = """
import dataclasses, sys
import numpy as np
from mnist_jax import data, sweep
from mnist_jax.runtime import devices
from mnist_jax import sweep
import jax
jax.config.update("jax_num_cpu_devices", 2)
mnist = data.load()
small = dataclasses.replace(
  data.take(mnist, 300), dev=data.Split(*(x[:120] for x in mnist.dev)))
base = sweep.Settings(
  hidden_sizes=(8,), activations=("relu",), batch_size=32)
cells = sweep.product(base, learning_rate=[0.1, 1e12], seed=range(2))
cells += sweep.product(base, learning_rate=0.2, seed=[5])
budget = sweep.Budget(epochs=2, evaluate_every=1,
  target=sweep.Target("dev_loss", 2.0))
for count in (1, 2):
  mesh = devices.mesh(count)
  assert mesh.size == count
  table = sweep.run(cells, budget, dataset=small, mesh=mesh,
    workdir=f"{sys.argv[1]}/{count}")
"""


def test_two_devices_give_what_one_does(tmp_path):
  """Members do not depend on where they are, or on what pads a block."""
  subprocess.run(
    [sys.executable, "-c", DEVICES, str(tmp_path)],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    check=True,
  )
  one, two = (
    pd.read_parquet(tmp_path / str(count) / "cells").sort_values(
      ["cell", "step"], ignore_index=True
    )
    for count in (1, 2)
  )
  assert one["diverged_step"].notna().any()
  assert one["reached"].any()
  pd.testing.assert_frame_equal(one, two, rtol=CLOSE)
  (note,) = store.read_blocks(tmp_path / "2" / "blocks")
  assert note["devices"] == 2
  assert note["rows"] * note["members_per_row"] > note["members"] == 5


def test_rows_that_are_done_cost_nothing(small):
  """A row without a member to train is left as it is."""
  mesh = devices.mesh()
  programs = _program.programs(SMALL.train_config(), mesh)
  state, hparams = programs.init({"seed": np.zeros((3, 1), np.uint32)})
  order = np.arange(300, dtype=np.int32)
  indices, weights = data.batch_indices(order, 32)
  rates = np.full((3, 1, 10), 0.1, np.float32)
  epoch, stop = jax.device_put(
    (
      _program.BlockPlan(
        *(np.stack([array] * 3) for array in (indices, weights)), rates
      ),
      np.array([[10], [0], [4]], np.int32),
    ),
    devices.spread(mesh),
  )
  split = jax.device_put(small.train, devices.copied(mesh))
  after = programs.advance(state, split, epoch, hparams, stop, 0, 10)
  assert after.train.step.tolist() == [[10], [0], [4]]
  before, now = (np.asarray(s.train.params[0].w) for s in (state, after))
  np.testing.assert_array_equal(before[1], now[1])
  changes = np.abs(before - now).max(axis=(1, 2, 3))
  assert changes[0] > changes[2] > changes[1] == 0
