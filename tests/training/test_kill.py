"""Runs that are killed, stopped or damaged, and go on as if they were not."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# A state with every part that must come back: moments, keys, step.
FLAGS = (
  "--data_source=idx",
  "--dev_size=100",
  "--hidden_sizes=16",
  "--activations=sigmoid",
  "--optimizer=adam",
  "--learning_rate=0.003",
  "--dropout=0.1",
  "--batch_size=100",
)
EPOCHS = 20


def write_idx(folder, name, array):
  magic = 0x800 + array.ndim
  header = np.array([magic, *array.shape], ">i4").tobytes()
  (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def data_dir(mnist, tmp_path_factory):
  """A few hundred images of MNIST as IDX files."""
  folder = tmp_path_factory.mktemp("idx")
  for name, split, count in (
    ("train", mnist.train, 700),
    ("t10k", mnist.test, 200),
  ):
    images = np.asarray(split.images[:count]).reshape(-1, 28, 28)
    write_idx(folder, f"{name}-images-idx3-ubyte", images)
    labels = np.asarray(split.labels[:count])
    write_idx(folder, f"{name}-labels-idx1-ubyte", labels)
  return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Without other devices; what one session compiled, the next one finds."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }


@pytest.fixture(scope="module")
def command(data_dir):
  def build(workdir, *flags, epochs=EPOCHS):
    return [
      *(sys.executable, "-m", "experiments.train", *FLAGS),
      f"--data_dir={data_dir}",
      f"--epochs={epochs}",
      *([f"--workdir={workdir}"] if workdir else []),
      *flags,
    ]

  return build


@pytest.fixture(scope="module")
def train(command, environment):
  """Runs the command to its end."""

  def run(workdir, *flags, epochs=EPOCHS, cwd=ROOT):
    return subprocess.run(
      command(workdir, *flags, epochs=epochs),
      cwd=cwd,
      env=environment,
      capture_output=True,
      text=True,
      timeout=120,
    )

  return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed") / "run"
  done = train(workdir)
  assert done.returncode == 0, done.stderr
  return workdir


def assert_same(workdir, undisturbed):
  """Bit for bit the same weights, and the same rows."""
  ours, theirs = (
    json.loads((path / "summary.json").read_text())
    for path in (workdir, undisturbed)
  )
  for name in ("wall_seconds", "compile_seconds"):
    del ours[name], theirs[name]
  assert ours == theirs
  rows = (workdir / "metrics.jsonl").read_bytes()
  assert rows == (undisturbed / "metrics.jsonl").read_bytes()
  epochs = [json.loads(row)["epoch"] for row in rows.splitlines()]
  assert epochs == list(range(EPOCHS + 1))


# Runs the command again and again in children that are forked from a process
# that has imported everything but started nothing. Each kills itself at one of
# the moments at which a run changes the disk (Python's audit events), later
# and later ones; some are killed by the clock; the last ones at a run's end.
KILLED = """
import itertools, os, signal, sys, time, traceback, warnings
from pathlib import Path
import orbax.checkpoint, tensorboardX.summary
from experiments._shared import app
from experiments import train
from mnist_jax.plotting import run
warnings.filterwarnings("ignore", message=".*fork")
workdir, cache, argv = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
OURS = ("/proc/", cache)

def kill_at(moment, name):
  moments = itertools.count()
  def hook(event, args):
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if not (event in CHANGES or writes) or str(args[0]).startswith(OURS):
      return
    at = next(moments)
    if at == moment or name and event == name[0] and name[1] in str(args[0]):
      os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(hook)

def session(moment=None, name=None, seconds=None):
  rows = workdir / "metrics.jsonl"
  before = rows.stat().st_mtime_ns if rows.exists() else 0
  if not (pid := os.fork()):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    kill_at(moment, name)
    sys.argv = ["train", *argv]
    try:
      app.run(train.main, "")
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(1)
  ended = (0, 0)
  if seconds is not None:
    while not rows.exists() or rows.stat().st_mtime_ns == before:
      if (ended := os.waitpid(pid, os.WNOHANG)) != (0, 0):
        break
      time.sleep(0.001)
    else:
      time.sleep(seconds)
      os.kill(pid, signal.SIGKILL)
  status = (os.waitpid(pid, 0) if ended == (0, 0) else ended)[1]
  assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (moment, name)

sessions = [{"moment": 2 * i} for i in range(22)]
sessions += [{"seconds": seconds} for seconds in (0.001, 0.007, 0.02)]
sessions += [
  {"name": (event, name)}
  for event, name in (
    ("os.mkdir", "checkpoints/LAST.tmp/state"),
    ("open", "checkpoints/LAST.tmp/meta.json"),
    ("os.rename", "checkpoints/LAST.tmp"),
    ("open", "-curves.svg"),
    ("open", "-summary.json"),
  )
]
for each in sessions:
  session(**each)
print(len(sessions))
"""


@pytest.mark.once
def test_killed_at_many_moments_ends_bit_exact(
  command, train, environment, undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  done = subprocess.run(
    [
      *(sys.executable, "-c", KILLED.replace("LAST", str(6 * EPOCHS))),
      str(workdir),
      environment["JAX_COMPILATION_CACHE_DIR"],
      *command(workdir)[3:],
    ],
    env=environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) >= 20  # each session was killed, else rc is 1
  assert not (workdir / "summary.json").exists()
  last = train(workdir)
  assert last.returncode == 0, last.stderr
  assert_same(workdir, undisturbed)


@contextlib.contextmanager
def started(command, environment, workdir, rows):
  """The command, in a process of its own, when it has written some rows."""
  process = subprocess.Popen(
    command(workdir),
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    for line in process.stderr:
      if line.startswith(f"epoch {rows}/"):
        break
    yield process
  finally:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_saved_and_goes_on(
  command, environment, train, undisturbed, tmp_path, number
):
  workdir = tmp_path / "run"
  with started(command, environment, workdir, rows=0) as process:
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
  assert process.returncode == 128 + number, said
  assert printed == ""
  lines = [x for x in said.splitlines() if not x.startswith("epoch ")]
  assert len(lines) == 1, said
  assert number.name in lines[0]
  assert f"--workdir={workdir}" in lines[0]
  epochs = len((workdir / "metrics.jsonl").read_text().splitlines()) - 1
  assert (workdir / "checkpoints" / str(6 * epochs)).is_dir()
  assert epochs < EPOCHS
  again = train(workdir)
  assert again.returncode == 0, again.stderr
  assert f"goes on after epoch {epochs}" in again.stderr
  assert_same(workdir, undisturbed)


def flip(path):
  found = bytearray(path.read_bytes())
  found[len(found) // 2] ^= 1
  path.write_bytes(found)


DAMAGE = {
  "flipped": flip,
  "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
  "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(
  train, undisturbed, tmp_path, kind
):
  workdir = tmp_path / "run"
  shutil.copytree(undisturbed, workdir)
  (workdir / "summary.json").unlink()  # as if killed before its end
  newest = workdir / "checkpoints" / str(6 * EPOCHS)
  largest = max(
    (path for path in newest.rglob("*") if path.is_file()),
    key=lambda path: path.stat().st_size,
  )
  DAMAGE[kind](largest)
  done = train(workdir)
  assert done.returncode == 0, done.stderr
  named, goes_on, *rows = done.stderr.splitlines()
  assert str(newest) in named
  assert goes_on == f"{workdir}: goes on after epoch {EPOCHS - 1}"
  assert len(rows) == 1
  assert_same(workdir, undisturbed)


def test_more_epochs_are_as_a_longer_run(train, undisturbed, tmp_path):
  workdir = tmp_path / "run"
  short = train(workdir, epochs=2)
  assert short.returncode == 0, short.stderr
  grown = train(workdir)
  assert grown.returncode == 0, grown.stderr
  assert "goes on after epoch 2" in grown.stderr
  assert_same(workdir, undisturbed)


def test_a_changed_flag_is_refused(train, undisturbed):
  before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
  done = train(undisturbed, "--batch_size=50", "--dropout=0.2")
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert "--batch_size=100" in done.stderr
  assert "--dropout=0.1" in done.stderr
  assert "--optimizer" not in done.stderr
  assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_without_workdir_the_unfinished_run_goes_on(
  train, undisturbed, tmp_path
):
  run = tmp_path / "runs" / "train" / "20260101-000000-000"
  shutil.copytree(undisturbed, run)
  (run / "summary.json").unlink()
  again = train(None, cwd=tmp_path)
  assert again.returncode == 0, again.stderr
  assert f"goes on after epoch {EPOCHS}" in again.stderr
  assert_same(run, undisturbed)
  assert [p.name for p in run.parent.iterdir()] == [run.name]
