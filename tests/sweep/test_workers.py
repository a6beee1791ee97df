"""Sweeps by the workers of an executor, against the same in one process."""

import concurrent.futures as futures
import functools
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from mnist_jax import sweep
from mnist_jax.runtime import devices
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _workers, store

FLAGS = ("--dev_size=64", "--num_train=64")
CELLS = sweep.product(
  sweep.Settings(hidden_sizes=(4,), activations=("sigmoid",), batch_size=32),
  learning_rate=[0.1, 0.5],
  seed=range(3),
)
BUDGET = sweep.Budget(epochs=1)


@pytest.fixture(scope="module")
def dataset():
  return _workers._loaded(FLAGS)[0]


@pytest.fixture(scope="module")
def run(dataset):
  return functools.partial(
    sweep.run,
    CELLS,
    BUDGET,
    dataset=dataset,
    data_flags=FLAGS,
    max_members=2,
  )


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
  """The directory of the same sweep in one process, on one device."""
  workdir = tmp_path_factory.mktemp("alone")
  run(workdir=workdir, mesh=devices.mesh(1))
  return workdir


def cells(workdir):
  return {p.name: p.read_bytes() for p in (workdir / "cells").iterdir()}


class Altered(ThreadPoolExecutor):
  """Workers as threads of this process; `alter` changes what they are sent."""

  def __init__(self, alter):
    super().__init__(2)
    self._alter = alter

  def submit(self, call, *args):
    return super().submit(self._alter(call, *args))


def test_what_is_filed_is_the_same_bytes(run, alone, tmp_path):
  seen = []
  with ThreadPoolExecutor(2) as executor:
    table = run(workdir=tmp_path, executor=executor, on_progress=seen.append)
    assert len(cells(alone)) == 3
    assert cells(tmp_path) == cells(alone)
    pd.testing.assert_frame_equal(table, run(workdir=alone))
    # What is there already is not sent again.
    again = run(workdir=tmp_path, executor=executor)
  pd.testing.assert_frame_equal(again, table)
  assert [p.cells_done for p in seen] == [0, 2, 4, 6]
  assert seen[-1].done == pytest.approx(seen[-1].total)
  assert {
    note["devices"] for note in store.read_blocks(tmp_path / "blocks")
  } == {1}


def test_processes_are_workers_too(run, alone, tmp_path):
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, context) as executor:
    run(workdir=tmp_path, executor=executor)
  assert cells(tmp_path) == cells(alone)


def test_a_worker_of_other_code_is_refused_by_name(run):
  def other(call, version, kind, job):
    return functools.partial(call, "0123456789ab", kind, job)

  with (
    Altered(other) as executor,
    pytest.raises(
      InputError, match=r"worker on \S+, process \d+: has code_ver"
    ),
  ):
    run(executor=executor)


def test_a_worker_of_other_data_is_refused_by_name(run):
  with (
    ThreadPoolExecutor(1) as executor,
    pytest.raises(
      InputError, match=r"worker on .*: has data_digest \w{12}, ex"
    ),
  ):
    run(executor=executor, data_flags=("--dev_size=65", "--num_train=64"))


def test_a_worker_of_another_kind_is_refused_unless_mixed(
  run, alone, tmp_path, monkeypatch
):
  with ThreadPoolExecutor(1) as executor:
    run(workdir=tmp_path, executor=executor, overwrite=True)
    for path in (tmp_path / "cells").iterdir():
      path.unlink()
    monkeypatch.setattr(_workers, "kind", lambda: "abacus")
    with pytest.raises(InputError, match=r"another kind \(abacus\)"):
      run(workdir=tmp_path, executor=executor)
    assert not cells(tmp_path)
    run(workdir=tmp_path, executor=executor, mixed=True)
  assert cells(tmp_path) == cells(alone)


def test_a_block_of_a_lost_worker_is_sent_again(run, alone, tmp_path):
  lost = []

  def losing(call, *args):
    if len(lost) < 5 and pickle.loads(args[2]) is not _workers.about:
      lost.append(args)
      return functools.partial(exec, "raise ValueError('KilledWorker')")
    return functools.partial(call, *args)

  with Altered(losing) as executor:
    run(workdir=tmp_path, executor=executor)
  assert len(lost) == 5
  assert cells(tmp_path) == cells(alone)


def test_a_block_that_kills_every_worker_is_given_up():
  def losing(call, *args):
    return functools.partial(exec, "raise ValueError('gone')")

  with (
    Altered(losing) as executor,
    pytest.raises(InputError, match=r"10 times and never .* ValueError: gone"),
  ):
    _workers.ask(executor)


def test_an_executor_that_is_gone_is_one_line_and_what_is_filed_stays(
  run, alone, tmp_path
):
  calls = []

  def ending(call, *args):
    calls.append(args)
    if len(calls) > 2:
      raise futures.BrokenExecutor("the scheduler is gone")
    return functools.partial(call, *args)

  with (
    Altered(ending) as executor,
    pytest.raises(InputError, match=r"is gone .* the same command goes on"),
  ):
    run(workdir=tmp_path, executor=executor)
  with ThreadPoolExecutor(1) as executor:
    run(workdir=tmp_path, executor=executor)
  assert cells(tmp_path) == cells(alone)


def test_a_mistake_in_a_worker_comes_with_its_traceback():
  with (
    ThreadPoolExecutor(1) as executor,
    pytest.raises(RuntimeError, match=r"in a worker:(.|\n)*ZeroDivisionError"),
  ):
    list(_workers.answers(executor, [functools.partial(divmod, 1, 0)], None))


def test_a_mesh_is_of_this_process(run):
  with (
    ThreadPoolExecutor(1) as executor,
    pytest.raises(InputError, match="one of the two"),
  ):
    run(mesh=devices.mesh(1), executor=executor)
