"""`experiments.train` on several devices, and as several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import two_processes

from mnist_jax import training

ROOT = Path(__file__).parents[2]
SMALL = (
  "--num_train=1000",
  "--hidden_sizes=16",
  "--activations=sigmoid",
  "--batch_size=100",
)
PATIENCE = 200  # seconds


def start(*flags):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.train", *SMALL, *flags],
    cwd=ROOT,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(process):
  """Its exit code, and what it said but for gloo and the rows."""
  _, said = process.communicate(timeout=PATIENCE)
  lines = said.splitlines()
  return process.returncode, [
    line for line in lines if not line.startswith(("[Gloo]", "epoch "))
  ]


def train(*flags):
  code, said = ended(start(*flags))
  assert code == 0, said
  return said


def job(count, *flags):
  port = two_processes.free_port()
  return [
    start(
      f"--coordinator=localhost:{port}",
      f"--num_processes={count}",
      f"--process_id={i}",
      "--devices=1",
      "--peer_timeout=60",
      *flags,
    )
    for i in range(count)
  ]


def rows_when(processes, path, count):
  """Waits until the run has so many rows."""
  end = time.monotonic() + PATIENCE
  while not (path / "metrics.jsonl").exists() or (
    len(training.read_run(path).rows) < count
  ):
    assert time.monotonic() < end
    assert all(p.poll() is None for p in processes), map(ended, processes)
    time.sleep(0.05)


def agree(path, other):
  """Whether two runs have the same rows, to rounding."""
  rows, others = (training.read_run(p).rows for p in (path, other))
  assert len(rows) == len(others)
  for row, expected in zip(rows, others, strict=True):
    assert [*row] == [*expected]
    for name in ("epoch", "step", "learning_rate"):
      assert row[name] == expected[name]
    for name in ("train_loss", "dev_loss"):
      np.testing.assert_allclose(row[name], expected[name], rtol=1e-5)
  weights = [training.load_model(p) for p in (path, other)]
  images = np.arange(784 * 9, dtype=np.uint8).reshape(9, 784)
  one, two = (model(images) for model in weights)
  np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.once
def test_the_range_test_and_gradient_checks_work_beside_it(tmp_path):
  said = train(
    "--devices=3",
    "--learning_rate=auto",
    "--check_gradients_every=9",
    "--epochs=1",
    f"--workdir={tmp_path}",
  )
  assert said[0].startswith("learning rate ")
  checks = training.read_run(tmp_path).rows[1]["gradient_checks"]
  assert [check["step"] for check in checks] == [0, 9]
  assert all(check["verdict"] == "correct" for check in checks)


@pytest.mark.once
def test_four_processes_lose_one_and_the_run_goes_on_elsewhere(tmp_path):
  """With two processes, and with three devices; the end is that of one."""
  path = tmp_path / "a"
  same = ("--learning_rate=0.5", "--dropout=0.1", "--patience=3000")
  flags = (*same, f"--workdir={path}", "--epochs=5000")
  four = job(4, *flags)
  rows_when(four, path, 3)
  four[2].kill()
  for process in (four[0], four[1], four[3]):
    code, said = ended(process)
    assert code == 4, "\n".join(said)
    assert len(said) == 1
    assert said[0].startswith("error: process 2 on ")
    assert said[0].endswith(" is lost: its connection closed")
  assert ended(four[2])[0] == -signal.SIGKILL
  done = len(training.read_run(path).rows)
  two = job(2, *flags)
  rows_when(two, path, done + 2)
  two[1].terminate()
  for process in two:
    code, said = ended(process)
    assert code == 128 + signal.SIGTERM, said
    assert "which is saved" in said[-1]
  reached = training.read_run(path).rows[-1]["epoch"]
  flags = (*same, f"--epochs={reached + 1}")
  train(*flags, f"--workdir={path}", "--devices=3")
  train(*flags, f"--workdir={tmp_path / 'b'}")
  agree(path, tmp_path / "b")
  sessions = json.loads((path / "config.json").read_text())["sessions"]
  assert [s["device"]["processes"] for s in sessions] == [4, 2, 1]
  assert [s["device"]["used"] for s in sessions] == [4, 2, 3]


@pytest.mark.once
def test_other_settings_are_refused_in_both(tmp_path):
  port = two_processes.free_port()
  both = [
    start(
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={i}",
      f"--learning_rate=0.{i + 1}",
      f"--workdir={tmp_path / 'a'}",
    )
    for i in range(2)
  ]
  for process in both:
    code, said = ended(process)
    assert code == 2
    assert said == [
      "error: process 1 has --learning_rate=0.2, process 0 has 0.1"
    ]
  assert not (tmp_path / "a").exists()
