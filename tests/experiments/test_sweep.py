"""The sweep of the command line: its arms, its table, and by a scheduler."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.workers import local
from experiments import sweep as command
from mnist_jax import data, stats, sweep
from mnist_jax.runtime import devices
from mnist_jax.sweep import axes

ROOT = Path(__file__).parents[2]
SMALL = (
  "--over=learning_rate=0.1,0.5",
  "--over=seed=0:2",
  "--hidden_sizes=8",
  "--activations=sigmoid",
  "--num_train=256",
  "--dev_size=64",
  "--batch_size=64",
  "--epochs=2",
)


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "experiments.sweep", *flags],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
  )


def table():
  """Two arms of three seeds; the last run of the second one is lost."""
  rows = []
  for arm, first in (("a", 0.5), ("b", 0.9)):
    for seed in range(3):
      for step in (0, 10):
        lost = (arm, seed, step) == ("b", 2, 10)
        rows.append(
          {
            "arm": arm,
            "cell": f"{arm}{seed}",
            "seed": seed,
            "step": step,
            "epoch": step / 10,
            "dev_accuracy": first + seed / 100,
            "dev_loss": 3.0 if lost else 0.1,
            "diverged_step": pd.NA,
          }
        )
  return pd.DataFrame(rows)


def test_arms_are_told_apart_by_all_but_the_seeds():
  found = [
    axes.parse(text)
    for text in ("seed=0:2", "learning_rate=0.1,0.2", "hidden_sizes=8/4")
  ]
  cells = axes.cells(sweep.Settings(), found)
  arms = command.arms(found, cells)
  assert list(arms) == [
    "learning_rate=0.1 hidden_sizes=8/4",
    "learning_rate=0.2 hidden_sizes=8/4",
  ]
  assert [len(own) for own in arms.values()] == [2, 2]
  only = found[:1]
  assert list(command.arms(only, cells)) == ["all"]


def test_the_best_arm_is_first_and_a_lost_run_counts_as_guessing():
  last = command.ends(table(), "dev_accuracy")
  best = command.ranked(last, "dev_accuracy")
  assert best["arm"].tolist() == ["b", "a"]
  assert best["lost"].tolist() == [1, 0]
  values = np.array([0.9, 0.91, 0.1])
  assert best["mean"][0] == pytest.approx(values.mean())
  expected = stats.mean_interval(values, seed=0)
  assert best["low"][0] == pytest.approx(expected.low)
  by_loss = command.ranked(command.ends(table(), "dev_loss"), "dev_loss")
  assert by_loss["arm"].tolist() == ["a", "b"]
  _, first, _ = command.printed(best, "dev_accuracy")
  assert first.split() == ["b", "63.67", *first.split()[2:5], "3", "1"]


def test_one_seed_has_no_interval():
  one = table()[lambda rows: rows["seed"] == 0]
  best = command.ranked(command.ends(one, "dev_loss"), "dev_loss")
  assert best["low"].isna().all()
  assert "of one seed" in command.printed(best, "dev_loss")[1]


@pytest.mark.once
def test_workers_of_a_scheduler_file_what_one_process_does(tmp_path):
  with (
    local.scheduler(tmp_path),
    local.worker(tmp_path),
  ):
    file = tmp_path / "scheduler.json"
    while not file.exists():
      time.sleep(0.05)
    time.sleep(0.1)
    address = json.loads(file.read_text())["address"]
    done = run(
      *SMALL, f"--scheduler={address}", f"--workdir={tmp_path / 'cluster'}"
    )
  assert done.returncode == 0, done.stderr
  assert {path.name for path in (tmp_path / "cluster").iterdir()} == {
    "curves.png",
    "ends.png",
    "summary.csv",
    "sweep",
    "table.parquet",
  }
  found = pd.read_parquet(tmp_path / "cluster" / "table.parquet")
  assert len(found) == 4 * 3
  base = sweep.Settings(
    batch_size=64, num_train=256, hidden_sizes=(8,), activations=("sigmoid",)
  )
  cells = sweep.product(base, learning_rate=[0.1, 0.5], seed=range(2))
  sweep.run(
    cells,
    sweep.Budget(epochs=2, evaluate_every=1.0),
    dataset=data.load(dev_size=64),
    data_flags=["--dev_size=64"],
    workdir=tmp_path / "alone",
    mesh=devices.mesh(1),
  )
  filed = [
    sorted(p.read_bytes() for p in (place / "cells").iterdir())
    for place in (tmp_path / "alone", tmp_path / "cluster" / "sweep")
  ]
  assert filed[0] == filed[1]


def test_a_mistake_is_one_line():
  done = run("--over=seed=0:2", "--seed=3")
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line == (
    "error: found --seed and --over=seed, expected one of the two"
  )
