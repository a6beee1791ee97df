"""The range test from the command line; --help is in test_experiments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mnist_jax import range_test

ROOT = Path(__file__).parents[2]
SMALL = ("--hidden_sizes=16", "--activations=tanh", "--num_train=2000")


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "experiments.lr_range_test", *flags],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_it_prints_the_rules_and_leaves_figure_and_numbers(tmp_path):
  workdir = tmp_path / "run"
  done = run(*SMALL, "--seeds=2", "--steps=150", f"--workdir={workdir}")
  assert (done.returncode, done.stderr) == (0, "")
  lines = done.stdout.splitlines()
  assert [line.split()[0] for line in lines[1:6]] == list(range_test.RULES)
  result = json.loads((workdir / "range_test.json").read_text())
  noise = result["suggestions"][-1]
  assert f"learning rate {noise['rate']:.2g}, by the rule noise" in lines
  assert lines[5].endswith(" 2/2  <")
  points = pd.read_csv(workdir / "curves.csv")
  assert len(points) == 300
  for seed, stop in zip((0, 1), result["stops"], strict=True):
    kept = points[(points.seed == seed) & points.kept]
    assert len(kept) == stop["update"]
    assert kept.smoothed.notna().all()
  assert (workdir / "range_test.png").read_bytes().startswith(b"\x89PNG")
  config = json.loads((workdir / "config.json").read_text())
  assert config["flags"]["steps"] == 150


@pytest.mark.parametrize(
  ("flags", "named"),
  [
    (("--low=1", "--high=0.5"), "--low, --high, --steps: the ramp goes from 1"),
    (("--divergence=0.5",), "--divergence: the divergence factor is 0.5"),
    (("--smoothing=2",), "--smoothing is 2.0, expected"),
    (("--steps=40", "--high=1e-3", "--low=1e-5"), None),
  ],
)
def test_a_wrong_flag_is_one_line_and_a_short_ramp_a_warning(
  tmp_path, flags, named
):
  done = run(*SMALL, "--seeds=2", f"--workdir={tmp_path / 'run'}", *flags)
  if named:
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
  else:
    assert done.returncode == 0
    assert "warning: 2 of 2 seeds had not diverged" in done.stdout
    assert "no suggestion, " in done.stdout
