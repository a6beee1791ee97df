"""Workers of a sweep are killed, and nothing is lost or there twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.once
def test_killed_workers_lose_and_double_nothing():
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.workers.kills"),
      *("--kills=3", "--cells=120", "--workers=2"),
    ],
    cwd=Path(__file__).parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  killed = [x for x in done.stdout.splitlines() if x.startswith("workers kill")]
  assert int(killed[0].split()[-1]) > 0
