"""Contestants take turns, each in a process of its own, all in one group."""

import contextlib
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SAME_LOSS = 1e-3  # relative; float32 sums in another order, update by update
PAUSE = 0.05  # seconds, in which threads of the one before stop spinning


class Failed(Exception):
  """What a contestant said when it could not go on."""


class Worker(contextlib.AbstractContextManager["Worker"]):
  """A process that runs one contestant when it is asked to."""

  def __init__(
    self, name: str, task: Path, python: str, env: Mapping[str, str]
  ):
    self.begun = time.perf_counter()
    line = [python, "-m", "benchmarks.bench.worker", name, str(task)]
    self._process = subprocess.Popen(
      line,
      cwd=ROOT,
      env={**os.environ, **env},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    try:
      self.facts = self._answer()
    except Failed:
      self.__exit__()
      raise

  def __exit__(self, *exc_info: object) -> None:
    assert self._process.stdin
    assert self._process.stdout
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      raise Failed(f"its process ended with {self._process.wait()}")
    found: dict[str, Any] = json.loads(line)
    if "failed" in found:
      raise Failed(found["failed"])
    return found

  def ask(self, what: str | int) -> dict[str, Any]:
    """One run, or "loss" or "memory".

    Raises:
      Failed: With the first line of what went wrong.
    """
    assert self._process.stdin
    self._process.stdin.write(json.dumps(what) + "\n")
    self._process.stdin.flush()
    return self._answer()


@dataclasses.dataclass
class Timed:
  """A contestant's rounds."""

  name: str
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: list[float] = dataclasses.field(default_factory=list)
  cpu: list[float] = dataclasses.field(default_factory=list)
  first: float = float("nan")  # seconds from its start to its first run's end
  memory: float = float("nan")  # MiB
  losses: list[float | None] = dataclasses.field(default_factory=list)
  failed: str = ""


Entry = tuple[str, str, Mapping[str, str]]  # contestant, python, environment


def take_turns(
  entries: Mapping[str, Entry], task: Path, rounds: int
) -> dict[str, Timed]:
  """Each makes a run that is not counted, then `rounds`, all in turn.

  The loss is asked for after the first run and after the last.
  """
  found = {name: Timed(name) for name in entries}
  with contextlib.ExitStack() as stack:
    workers: dict[str, Worker] = {}

    def asked(name: str, what: str | int) -> dict[str, Any]:
      try:
        return workers[name].ask(what)
      except Failed as error:
        found[name].failed = str(error)
        del workers[name]
        return {}

    for name, (contestant, python, env) in entries.items():
      say(f"{name} starts")
      try:
        worker = Worker(contestant, task, python, env)
      except (Failed, OSError) as error:
        found[name].failed = str(error)
        continue
      workers[name] = stack.enter_context(worker)
      found[name].facts = worker.facts
      if asked(name, 0):
        found[name].first = time.perf_counter() - worker.begun
        found[name].losses.append(asked(name, "loss").get("loss"))
    for number in range(1, rounds + 1):
      say(f"round {number} of {rounds}")
      for name in list(workers):
        time.sleep(PAUSE)
        if run := asked(name, number):
          found[name].seconds.append(run["seconds"])
          found[name].cpu.append(run["cpu"])
    for name in list(workers):
      found[name].losses.append(asked(name, "loss").get("loss"))
      found[name].memory = asked(name, "memory").get("memory", float("nan"))
  return found


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def ratio_interval(
  theirs: Sequence[float], own: Sequence[float]
) -> tuple[float, float, float]:
  """median(theirs) / median(own) and its 95 % interval, rounds resampled.

  Of the rounds that both made: the machine may be slower in later ones.
  """
  rng = np.random.default_rng(0)
  rounds = min(len(own), len(theirs))
  theirs, own = theirs[:rounds], own[:rounds]
  draws = rng.integers(0, rounds, (2000, rounds))
  ratios = np.median(np.array(theirs)[draws], axis=1) / np.median(
    np.array(own)[draws], axis=1
  )
  low, high = np.quantile(ratios, [0.025, 0.975])
  middle = statistics.median(theirs) / statistics.median(own)
  return middle, float(low), float(high)


def _busy() -> float:
  """Seconds that all cores have worked since the machine began; NaN unknown."""
  try:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
  except OSError:
    return float("nan")
  ticks = [int(field) for field in fields]
  idle, waiting = ticks[3], ticks[4]
  return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
  used = (
    resource.getrusage(who)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return sum(each.ru_utime + each.ru_stime for each in used)


@contextlib.contextmanager
def watched() -> Iterator[dict[str, Any]]:
  """Filled when the block ends: its seconds, and how many cores others used."""
  found: dict[str, Any] = {}
  begun, busy, own = time.monotonic(), _busy(), _own()
  yield found
  wall = time.monotonic() - begun
  others = (_busy() - busy - (_own() - own)) / wall
  found["wall_seconds"] = round(wall, 1)
  known = others == others
  found["cores_used_by_others"] = round(max(0.0, others), 2) if known else None
