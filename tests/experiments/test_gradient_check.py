"""The gradient check's experiment as its user meets it: break it, be told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = (
  "--num_train=300",
  "--hidden_sizes=4",
  "--activations=sigmoid",
  "--batch_size=6",
  "--seed=3",
)
# The whole study, in small.
TINY = ("--preset=quick", "--seeds=2", "--depths=1,2", "--epochs=1")


@pytest.fixture(scope="module")
def run():
  """run(*flags, python=Python's own) -> exit code, stdout, stderr."""
  env = os.environ | {"JAX_PLATFORMS": "cpu"}

  def run(*flags, python=()):
    done = subprocess.run(
      [sys.executable, *python, "-m", "experiments.gradient_check", *flags],
      cwd=ROOT,
      env=env,
      capture_output=True,
      text=True,
    )
    return done.returncode, done.stdout, done.stderr

  return run


def picture_size(path):
  with Image.open(path) as picture:
    return picture.size


def test_a_planted_fault_is_placed_and_named(run, tmp_path):
  code, printed, said = run(
    *SMALL,
    "--inject=mask1_missing",
    "--dropout=0.4",
    "--l2=0",
    f"--workdir={tmp_path / 'run'}",
  )
  assert code == 1, said
  assert "gradient check: WRONG" in printed
  assert "cause in [0].w: mask1_missing: dA1 before dropout := " in printed
  assert "wrong: W1, B1. Looked at from the output, layer 1" in printed
  rows = {line.split()[0]: line.split()[1] for line in printed.split("\n")[1:3]}
  assert rows == {"data": "correct", "dropout": "wrong"}
  report = json.loads((tmp_path / "run" / "report.json").read_text())
  assert report["dropout"]["hand"]["verdict"] == "wrong"
  assert report["dropout"]["autodiff"]["verdict"] == "correct"
  assert (tmp_path / "run" / "report.txt").read_text() in printed
  assert min(picture_size(tmp_path / "run" / "residual_map.png")) > 400
  assert not (tmp_path / "run" / "verdict.json").exists()


def test_list_and_mistyped_names(run, tmp_path):
  code, printed, _ = run("--inject=list")
  assert code == 0
  names = [line.split()[0] for line in printed.splitlines()]
  assert len(names) == len(set(names)) > 100
  assert "dz2_missing" in names
  assert max(map(len, printed.splitlines())) <= 100
  code, printed, said = run(
    "--inject=dz2_mising", f"--workdir={tmp_path / 'a'}"
  )
  assert (code, printed) == (2, "")
  assert said.count("\n") == 1
  assert "'dz2_missing'" in said
  assert not (tmp_path / "a").exists()


def test_the_question_alone_is_answered_without_the_study(run, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  code, printed, said = run(*SMALL, workdir, python=("-X", "importtime"))
  assert code == 0, said
  assert "gradient check: CORRECT" in printed
  loaded = {line.rpartition("|")[2].strip() for line in said.splitlines()}
  assert "matplotlib" in loaded
  assert not loaded & {"orbax.checkpoint", "pandas", "scipy.stats"}
  assert not (tmp_path / "run" / "verdict.json").exists()
  code, _, said = run("--preset=quick", "--inject=dw2_sign")
  assert code == 2
  assert "inject" in said
  assert said.count("\n") == 1


def test_a_fault_that_changes_nothing_is_refused(run, tmp_path):
  code, _, said = run(
    *SMALL, "--inject=mask1_missing", f"--workdir={tmp_path / 'run'}"
  )
  assert code == 2
  assert "--inject=mask1_missing changes nothing here" in said
  assert said.count("\n") == 1


@pytest.mark.once
def test_the_studies_in_small(run, tmp_path):
  code, printed, said = run(*TINY, "--num_train=600", f"--workdir={tmp_path}")
  assert code == 0, said
  assert "G1" in printed
  verdict = json.loads((tmp_path / "verdict.json").read_text())
  assert {c["claim"] for c in verdict["claims"]} == {"G1", "G2", "G3", "G5"}
  parts = [p for claim in verdict["claims"] for p in claim["parts"]]
  # Two seeds decide nothing; what was tried out is settled.
  assert {p["verdict"] for p in parts if p["n"]} == {"undecided"}
  planted = next(p for p in parts if p["name"] == "no mistake below the bar")
  assert planted["n"] >= 6
  settled = {p["name"]: p["verdict"] for p in parts if p["n"] is None}
  assert len(settled) == 3
  assert set(settled.values()) == {"holds"}
  for key in ("command", "device", "versions", "wall_seconds", "values"):
    assert verdict[key]
  effects = {p["name"]: p["effect"] for p in parts}
  assert effects["one-sided slope"] == pytest.approx(1, abs=0.1)
  assert effects["two-sided slope"] == pytest.approx(2, abs=0.1)
  assert effects["all, at the start"] < -7
  assert effects["leaving L2 out is caught"] == 1
  found = json.loads((tmp_path / "measurements.json").read_text())
  assert np.shape(found["by_depth"]["numeric, tanh"]) == (2, 2)
  for name in ("error_vs_step", "distance_vs_depth", "distance_vs_training"):
    assert min(picture_size(tmp_path / f"{name}.png")) > 400
