"""Processes that load a module while the caller works, and then call from it.

  with standby.Standby("mnist_jax.plotting.run", 2) as ready:
    ...                                      # meanwhile they import it
    pictures = ready.call([("rendered", "curves", ...), ("rendered", ...)])

A module that takes half a second to load, such as matplotlib, costs the caller
nothing where a core is idle meanwhile.
"""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Job = tuple[Any, ...]  # a function's name, then its arguments
_ROOT = Path(__file__).parents[2]


class Standby:
  """Processes that have a module of this project loaded; they end with it."""

  def __init__(self, module: str, processes: int = 1) -> None:
    """Starts them and returns at once.

    Args:
      processes: At most so many, and no more than there are cores; 0 where
        nothing will be asked.
    """
    self._module = module
    line = [sys.executable, "-m", __name__, module]
    self._ready = [
      subprocess.Popen(
        line,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C is for the caller, whose end is theirs
      )
      for _ in range(min(processes, os.cpu_count() or 1))
    ]

  def __enter__(self) -> "Standby":
    return self

  def __exit__(self, *_: object) -> None:
    for process in self._ready:
      process.kill()
      process.communicate()

  def call(self, jobs: Sequence[Job]) -> list[Any]:
    """What the functions return, which with their arguments can be pickled.

    Each process has every n-th job, so those that take long are best apart. A
    process that has been lost is done without: its jobs are made here.

    Raises:
      Exception: What a function raised, the first of them.
    """
    count = len(self._ready)
    shares = [jobs[k::count] for k in range(count)]
    for process, share in zip(self._ready, shares, strict=True):
      assert process.stdin is not None
      with contextlib.suppress(BrokenPipeError):
        pickle.dump(share, process.stdin)
        process.stdin.flush()
    # All are read before one is raised, or the next call would have the rest.
    answers = list(map(self._answer, self._ready, shares))
    found: list[list[Any]] = []
    for answer in answers:
      if isinstance(answer, Exception):
        raise answer
      found.append(answer)
    return [found[k % count][k // count] for k in range(len(jobs))]

  def _answer(
    self, process: subprocess.Popen[bytes], jobs: Sequence[Job]
  ) -> list[Any] | Exception:
    assert process.stdout is not None
    try:
      answer: list[Any] | Exception = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):  # of half an answer
      answer = _results(self._module, jobs)
    return answer


def _results(module: str, jobs: Sequence[Job]) -> list[Any]:
  functions = importlib.import_module(module)
  return [getattr(functions, name)(*given) for name, *given in jobs]


def _serve(module: str) -> None:
  """Answers on what was standard output, which is errors from now on."""
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  with contextlib.suppress(Exception):  # a job tells of it
    importlib.import_module(module)
  with contextlib.suppress(EOFError):
    while True:
      jobs = pickle.load(sys.stdin.buffer)
      try:
        found: list[Any] | Exception = _results(module, jobs)
      except Exception as error:
        found = error
      pickle.dump(found, answers)
      answers.flush()


if __name__ == "__main__":
  _serve(sys.argv[1])
