"""Whole processes, from the command to the prompt, in turn."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import turns

BEFORE = "e6e06a0"  # the commit that start-up is compared with
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Command:
  """A line to run, and where."""

  name: str
  line: Sequence[str]
  cwd: Path = turns.ROOT
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  prepare: Callable[[], Any] = lambda: None  # before each run, not timed
  rounds: int = 5


def _once(command: Command) -> tuple[float, float, float]:
  """Its seconds, its CPU seconds, its peak memory in MiB.

  Raises:
    turns.Failed: With the last line of what it said.
  """
  command.prepare()
  path = {"PYTHONPATH": str(command.cwd)}
  begun = time.perf_counter()
  with open(os.devnull, "w") as nowhere:
    process = subprocess.Popen(
      command.line,
      cwd=command.cwd,
      env={**os.environ, **path, **command.env},
      stdout=nowhere,
      stderr=subprocess.PIPE,
      text=True,
    )
    assert process.stderr
    with process.stderr as lines:
      said = lines.read().strip().splitlines()
    _, status, used = os.wait4(process.pid, 0)
  seconds = time.perf_counter() - begun
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise turns.Failed(said[-1] if said else f"exit code {process.returncode}")
  unit = 2**20 if sys.platform == "darwin" else 2**10
  return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / unit


def in_turn(commands: Sequence[Command], *, filled: bool = False) -> list[Row]:
  """In turn, round by round; caches that are not filled by a round before."""
  rows: list[Row] = [
    {"name": command.name, "seconds": [], "cpu": [], "memory": 0.0}
    for command in commands
  ]
  last = max(command.rounds for command in commands)
  for number in range(int(filled), last + 1):
    turns.say(f"round {number} of the commands")
    for command, row in zip(commands, rows, strict=True):
      if "failed" in row or number > command.rounds:
        continue
      try:
        seconds, cpu, memory = _once(command)
      except (turns.Failed, OSError) as error:
        row["failed"] = str(error)
        continue
      if number:
        row["seconds"].append(seconds)
        row["cpu"].append(cpu)
        row["memory"] = max(row["memory"], memory)
  return rows


def _train(out: Path, epochs: int) -> list[str]:
  line = [sys.executable, "-m", "experiments.train", "--overwrite"]
  return [*line, f"--epochs={epochs}", f"--workdir={out}"]


def whole(
  folder: Path, peers: str, kernel: Mapping[str, str], epochs: int, rounds: int
) -> list[Row]:
  """Training, evaluation of every epoch, and the figures: ours and scripts.

  Cold is with an empty cache of compiled programs and of fonts, one epoch.
  """

  def commands(kind: str, epochs: int, cache: Path) -> list[Command]:
    scripts = "benchmarks.bench.scripts"
    lines = {
      "experiments.train": (_train(folder / "ours", epochs), {}),
      "NumPy script": (
        [sys.executable, "-m", f"{scripts}.numpy_mnist", str(epochs)],
        kernel,
      ),
      "PyTorch script": (
        [peers, "-m", f"{scripts}.torch_mnist", str(epochs)],
        {},
      ),
    }

    def emptied() -> None:
      if kind == "cold":
        shutil.rmtree(cache, ignore_errors=True)

    return [
      Command(
        f"{name}, {epochs} epochs, {kind}",
        line if "experiments" in name else [*line, str(folder / "script")],
        env={**env, "XDG_CACHE_HOME": str(cache)},
        prepare=emptied,
        rounds=rounds,
      )
      for name, (line, env) in lines.items()
    ]

  return [
    *in_turn(commands("warm", 1, folder / "warm")),
    *in_turn(commands("warm", epochs, folder / "warm"), filled=True),
    *in_turn(commands("cold", 1, folder / "cold"), filled=True),
  ]


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
  """That commit in a folder.

  Raises:
    turns.Failed: The history does not reach so far back.
  """
  git = ["git", "-C", str(turns.ROOT), "worktree"]
  path = folder / commit
  line = [*git, "add", "--quiet", "--detach", str(path), commit]
  done = subprocess.run(line, capture_output=True, text=True)
  if done.returncode:
    raise turns.Failed(f"no checkout of {commit}: {done.stderr.strip()}")
  try:
    yield path
  finally:
    subprocess.run([*git, "remove", "--force", str(path)], check=False)


def startup(folder: Path, rounds: int) -> list[Row]:
  """Commands now and at the commit of before, and imports.

  Raises:
    turns.Failed: As `checkout`.
  """
  from PIL import Image

  from mnist_jax import data

  digit = folder / "digit.png"
  image = np.asarray(data.load().test.images[0]).reshape(28, 28)
  Image.fromarray(image).save(digit)
  with checkout(BEFORE, folder) as before:
    commands = []
    for what, where in (("now", turns.ROOT), ("before", before)):
      out = folder / what
      run = [sys.executable, "-m"]
      lines = {
        "experiments.train --epochs=1": _train(out / "train", 1),
        "experiments.predict": [
          *(*run, "experiments.predict", f"--run={out / 'train'}", str(digit))
        ],
        "experiments.gradient_check": [*run, "experiments.gradient_check"],
        "experiments.lr_range_test": [
          *(*run, "experiments.lr_range_test", "--overwrite"),
          f"--workdir={out / 'range'}",
        ],
        "import experiments.train": [
          *(sys.executable, "-c", "import experiments.train")
        ],
        "import jax": [sys.executable, "-c", "import jax"],
      }
      for name, line in lines.items():
        cache = {"XDG_CACHE_HOME": str(folder / "cache")}
        commands.append(
          Command(f"{name}, {what}", line, where, env=cache, rounds=rounds)
        )
    return in_turn(commands)
