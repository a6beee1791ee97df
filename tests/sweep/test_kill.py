"""A sweep that is killed again and again, against one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
KILLS = 21

# Runs the sweep in children that are forked from a process that has imported
# everything but started nothing. A child dies by SIGKILL at a random change of
# the disk (Python's audit events, and halfway through a file of results), or
# some random time after its first update.
SWEEP = """
import dataclasses, itertools, os, random, signal, sys, time, warnings
import pandas as pd
import pytest
from mnist_jax import data
from mnist_jax import sweep
warnings.filterwarnings("ignore", message=".*fork")
workdir, cache, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
CHANGES = {"os.mkdir", "os.rename", "os.remove"}
mnist = data.load()
dev = data.Split(*(x[:64] for x in mnist.dev))
small = dataclasses.replace(data.take(mnist, 64), dev=dev, test=dev)
cells = sweep.product(
  sweep.Settings(hidden_sizes=(4,), activations=("sigmoid",)),
  batch_size=32, learning_rate=[0.1, 0.2, 0.5], seed=range(20))
budget = sweep.Budget(epochs=2, evaluate_every=0.5)

def run(on_progress=lambda progress: None):
  sweep.run(cells, budget, dataset=small, workdir=workdir, max_members=1,
    on_progress=on_progress)

def kill_at(moment):
  moments = itertools.count()
  write = pd.DataFrame.to_parquet
  def half_written(table, path, **options):
    write(table, path, **options)
    if next(moments) == moment:
      os.truncate(path, os.path.getsize(path) // 2)
      os.kill(os.getpid(), signal.SIGKILL)
  pd.DataFrame.to_parquet = half_written
  def hook(event, args):
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if (event in CHANGES or writes) and str(args[0]).startswith(workdir):
      if next(moments) == moment:
        os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(hook)

def session(moment, seconds):
  ready, told = os.pipe()
  if not (pid := os.fork()):
    try:
      if moment is not None:
        kill_at(moment)
      run(lambda progress: progress.done and os.write(told, b"."))
    finally:
      os._exit(1)
  os.close(told)
  if seconds is not None:
    os.read(ready, 1)  # nothing, if the child has ended
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
  os.close(ready)
  status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  assert status == -signal.SIGKILL, (moment, seconds, status)

drawn = random.Random(4)
for number in range(kills):
  by_clock = number % 3 == 2
  session(
    None if by_clock else drawn.randrange(1, 17),
    drawn.uniform(0, 0.15) if by_clock else None)
print(len(os.listdir(f"{workdir}/cells")) if kills else 0)
if not kills:
  run()
"""


@pytest.mark.once
def test_a_sweep_killed_at_random_moments_loses_and_doubles_nothing(tmp_path):
  cache = tmp_path / "cache"

  def run(name, kills):
    done = subprocess.run(
      [
        sys.executable,
        "-c",
        SWEEP,
        str(tmp_path / name),
        str(cache),
        str(kills),
      ],
      cwd=ROOT,
      env=os.environ
      | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      },
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)

  def table(name):
    found = pd.read_parquet(tmp_path / name / "cells")
    return found.sort_values(["cell", "step"], ignore_index=True)

  run("whole", 0)
  filed = run("killed", KILLS)
  assert 5 < filed < 60  # killed at work, and before the end
  run("killed", 0)
  whole = table("whole")
  assert len(whole) == 60 * 5
  pd.testing.assert_frame_equal(table("killed"), whole, check_exact=True)
