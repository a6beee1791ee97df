"""Runs taken from another sweep, against the same run again."""

import dataclasses

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from mnist_jax import sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import Budget, Target, product, store
from mnist_jax.training.settings import Settings

SMALL = Settings(hidden_sizes=(8,), activations=("sigmoid",), batch_size=32)
LONG = Budget(epochs=3, evaluate_every=0.5, final_splits=("train", "test"))
EXP = {"schedule": "exp", "gamma": 0.99}
TO_ZERO = {"schedule": "cosine"}  # over the run, however long it is


def cells(**axes):
  return product(SMALL, seed=[0, 1], **axes)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
  """A sweep of runs that were looked at often."""
  place = tmp_path_factory.mktemp("made")
  every = [*cells(), *cells(**EXP), *cells(**TO_ZERO)]
  table = sweep.run(every, LONG, dataset=small, workdir=place)
  return place, table


def work(wanted, budget, **how):
  """The table, and how much there was to train."""
  told = []
  table = sweep.run(wanted, budget, on_progress=told.append, **how)
  return table, told[-1].total if told else 0


def same(table, other):
  """Equal but for rounding, with the same gaps."""
  pd.testing.assert_frame_equal(table, other, rtol=2e-5, check_exact=False)


@hypothesis.given(
  epochs=st.sampled_from([0.5, 1, 2, 3]),
  every=st.sampled_from([None, 0.5, 1]),
  splits=st.sampled_from([("dev",), ("dev", "train")]),
  final=st.sampled_from([(), ("test",), ("train",)]),
  arm=st.sampled_from([{}, EXP, TO_ZERO]),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_rows_are_those_of_the_run_itself(
  small, made, epochs, every, splits, final, arm
):
  budget = Budget(
    epochs=epochs, evaluate_every=every, splits=splits, final_splits=final
  )
  wanted = cells(**arm)
  found, todo = work(wanted, budget, dataset=small, known=[made[0]])
  held = "train" not in splits and (
    epochs == 3 or (not final and arm != TO_ZERO)
  )
  assert (todo == 0) == held
  same(found, sweep.run(wanted, budget, dataset=small))


def test_what_is_taken_is_filed_with_its_source(small, made, tmp_path):
  budget = Budget(epochs=2)
  wanted = [*cells(), *cells(learning_rate=0.3)]
  how = {"dataset": small, "known": [made[0]], "workdir": tmp_path}
  first, todo = work(wanted, budget, **how)
  assert todo == work(cells(learning_rate=0.3), budget, dataset=small)[1]
  notes = store.read_blocks(tmp_path / "blocks")
  keys = [sweep.cell_key(cell, budget) for cell in cells()]
  (taken,) = [note for note in notes if "taken" in note]
  assert taken["taken_from"] == str(made[0])
  assert taken["taken"] == keys
  # No block has a place for a run that was taken, then or later.
  assert [note["members_per_row"] for note in notes if note != taken] == [1]
  again, todo = work(wanted, budget, dataset=small, workdir=tmp_path)
  assert todo == 0
  pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
  "other",
  [
    dataclasses.replace(LONG, target=Target("dev_loss", 0.1)),
    Budget(epochs=4),
    Budget(epochs=3, evaluate_every=0.3),
  ],
)
def test_what_it_does_not_hold_is_run(small, made, other):
  assert work(cells(), other, dataset=small, known=[made[0]])[1] > 0


def test_other_data_code_or_machine_are_not_taken(
  small, made, tmp_path, monkeypatch
):
  budget = Budget(epochs=1)
  assert work(cells(), budget, dataset=small, known=[tmp_path])[1] > 0
  other = dataclasses.replace(small, dev=small.test)
  assert work(cells(), budget, dataset=other, known=[made[0]])[1] > 0
  monkeypatch.setattr(sweep._run._workers, "kind", lambda: "another")
  assert work(cells(), budget, dataset=small, known=[made[0]])[1] > 0
  how = {"dataset": small, "known": [made[0]], "mixed": True}
  assert work(cells(), budget, **how)[1] == 0
  monkeypatch.undo()
  monkeypatch.setattr(store, "code_version", lambda: "another")
  assert work(cells(), budget, dataset=small, known=[made[0]])[1] > 0


def test_a_run_that_diverged_is_taken_where_it_was_looked_at_alike(
  small, tmp_path
):
  wanted = cells(learning_rate=1e38)
  how = {"dataset": small, "known": [tmp_path]}
  table = sweep.run(wanted, LONG, dataset=small, workdir=tmp_path)
  assert table["diverged_step"].notna().any()
  assert work(wanted, Budget(epochs=3), **how)[1] > 0
  alike = dataclasses.replace(LONG, final_splits=("test",))
  found, todo = work(wanted, alike, **how)
  assert todo == 0
  steps = found["diverged_step"].to_numpy(np.float64, na_value=np.nan)
  np.testing.assert_array_equal(
    steps, table["diverged_step"].to_numpy(np.float64, na_value=np.nan)
  )


def test_a_note_without_its_cells_hides_no_cell(small, made, tmp_path):
  """As a kill leaves it, or the removal of a file that cannot be read."""
  budget = Budget(epochs=1)
  how = {"dataset": small, "workdir": tmp_path}
  table = sweep.run(cells(), budget, known=[made[0]], **how)
  (file,) = (tmp_path / "cells").glob("*.parquet")
  file.unlink()
  same(sweep.run(cells(), budget, **how), table)


def test_what_other_code_took_is_taken_anew(small, made, tmp_path, monkeypatch):
  budget = Budget(epochs=1)
  how = {"dataset": small, "workdir": tmp_path}
  with monkeypatch.context() as other:
    other.setattr(sweep._run.reuse, "version", lambda: "another")
    sweep.run(cells(), budget, known=[made[0]], **how)
  assert work(cells(), budget, **how)[1] > 0


def test_a_directory_that_cannot_be_read_stops_nothing(small, tmp_path):
  other = tmp_path / "other"
  sweep.run(cells(), LONG, dataset=small, workdir=other)
  (file,) = (other / "cells").glob("*.parquet")
  file.write_bytes(file.read_bytes()[:100])
  with pytest.warns(UserWarning, match="no runs are taken from .*cannot be"):
    table = sweep.run(cells(), Budget(epochs=1), dataset=small, known=[other])
  assert len(table) == 4


def test_what_began_on_one_machine_and_went_on_on_another_is_of_none(
  small, tmp_path, monkeypatch
):
  budget = Budget(epochs=1)
  other = {"dataset": small, "workdir": tmp_path / "other"}
  first, second = cells()[:1], cells()[1:]
  sweep.run(first, LONG, **other)
  with monkeypatch.context() as elsewhere:
    elsewhere.setattr(sweep._run._workers, "kind", lambda: "another")
    sweep.run(second, LONG, **other)
  how = {"dataset": small, "known": [tmp_path / "other"]}
  assert work(first, budget, **how)[1] > 0
  taken = sweep.run(
    first, budget, mixed=True, workdir=tmp_path / "mixed", **how
  )
  assert len(taken) == 2
  how["known"] = [tmp_path / "mixed"]
  assert work(first, budget, **how)[1] > 0


def test_a_run_that_diverged_on_another_split_is_run(small, tmp_path):
  """Which loss is looked at decides whether a run has diverged by then."""
  wanted = cells(learning_rate=1e38)
  both = dataclasses.replace(LONG, splits=("dev", "train"))
  sweep.run(wanted, both, dataset=small, workdir=tmp_path)
  assert work(wanted, LONG, dataset=small, known=[tmp_path])[1] > 0


def test_a_damaged_note_is_named_and_stops_only_its_own_sweep(small, tmp_path):
  other = tmp_path / "other"
  how = {"dataset": small, "workdir": other}
  sweep.run(cells(), LONG, **how)
  (note,) = (other / "blocks").glob("*.json")
  note.write_text("{")
  with pytest.warns(UserWarning, match="no runs are taken from .*cannot be"):
    sweep.run(cells(), Budget(epochs=1), dataset=small, known=[str(other)])
  with pytest.raises(InputError, match=f"{note.name}: cannot be read"):
    sweep.run(cells(), LONG, **how)


@pytest.mark.parametrize("many", [True, False])
def test_what_is_no_directory_is_refused(small, tmp_path, many):
  place = tmp_path / "none"
  with pytest.raises(InputError, match=r"known.*none: .*director"):
    sweep.run(
      cells(), LONG, dataset=small, known=[place] if many else str(place)
    )
