"""Sweeps of a function that is not ours."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pandas as pd
import pytest

from mnist_jax import sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import store

TRACED = []


def descend(hparams, seed):
  TRACED.append(dict(hparams))
  w = jax.random.normal(jax.random.key(seed), (3,))
  losses = []
  for _ in range(hparams["steps"]):
    losses.append(w @ w)
    w = w - hparams["rate"] * w
  return {"loss": jax.numpy.stack(losses), "last": w[0]}


POINTS = [{"rate": r, "steps": s} for r in (0.1, 0.2, 0.5) for s in (2, 4)]


def test_rows_are_those_of_the_function(tmp_path):
  TRACED.clear()
  table = sweep.run_function(
    descend, POINTS, seeds=range(3), workdir=tmp_path, max_members=4
  )
  assert len(TRACED) == 2  # a program for each number of steps
  assert len(table) == 3 * 3 * (2 + 4)
  assert table["step"].tolist()[:6] == [0, 1] * 3
  for point in POINTS:
    for seed in range(3):
      own = table[
        (table["rate"] == point["rate"])
        & (table["steps"] == point["steps"])
        & (table["seed"] == seed)
      ]
      expected = descend(point, seed)
      np.testing.assert_allclose(own["loss"], expected["loss"], rtol=1e-5)
      np.testing.assert_allclose(own["last"], expected["last"], rtol=1e-5)
  # What is filed is not run again, and more is added.
  TRACED.clear()
  again = sweep.run_function(descend, POINTS, seeds=range(3), workdir=tmp_path)
  pd.testing.assert_frame_equal(again, table)
  assert not TRACED
  more = [*POINTS, {"rate": 1.0, "steps": 2}]
  grown = sweep.run_function(descend, more, seeds=[0], workdir=tmp_path)
  assert len(grown) == 3 * (2 + 4) + 2
  assert (
    sum(note["members"] for note in store.read_blocks(tmp_path / "blocks"))
    == 19
  )


def test_workers_file_the_same_bytes(tmp_path):
  def cells(name):
    return {
      p.name: p.read_bytes() for p in (tmp_path / name / "cells").iterdir()
    }

  run = sweep.run_function
  one = jax.make_mesh((1,), ("members",), devices=jax.devices()[:1])
  run(descend, POINTS, seeds=range(3), workdir=tmp_path / "a", mesh=one)
  with ThreadPoolExecutor(2) as executor:
    run(
      descend, POINTS, seeds=range(3), workdir=tmp_path / "b", executor=executor
    )
    assert cells("b") == cells("a")
    with pytest.raises(InputError, match="cannot be sent to workers"):
      run(lambda h, s: descend(h, s), POINTS, seeds=[0], executor=executor)


def test_another_version_is_refused(tmp_path):
  run = sweep.run_function
  run(descend, POINTS[:1], seeds=[0], workdir=tmp_path, version="1")
  with pytest.raises(InputError, match="code_version 1, now 2"):
    run(descend, POINTS[:1], seeds=[0], workdir=tmp_path, version="2")


@pytest.mark.parametrize(
  ("points", "seeds", "said"),
  [
    ([], [0], "no points"),
    (POINTS, [], "no seeds"),
    ([*POINTS, POINTS[0]], [0], "twice"),
    ([{"rate": 0.1}, {"rat": 0.1}], [0], "expected .'rate'"),
    ([{"rate": [0.1]}], [0], "a number or text"),
    ([{"seed": 1.0}], [0], "column of its own"),
    (POINTS, [-1], "seeds have -1, expected 0 to 4294967295"),
    ([{"rate": 0.1, "steps": 2, "loss": 1.0}], [0], "returns 'loss'"),
  ],
)
def test_what_is_no_sweep_is_said(points, seeds, said):
  with pytest.raises(InputError, match=said):
    sweep.run_function(descend, points, seeds=seeds)
