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
import traceback
from collections.abc import Sequence
from typing import Any

Job = tuple[Any, ...]  # a function's name, then its arguments
# With the caller's own paths, so that what it can import they can as well.
_PROGRAM = """
import sys
sys.path[:] = {path!r}
from {here} import _serve
_serve({module!r})
"""


class Standby:
  """Processes that have a module loaded; they end with the caller."""

  def __init__(self, module: str, processes: int = 1) -> None:
    """Starts them and returns at once.

    Args:
      processes: At most so many, and no more than there are cores; 0 where
        nothing will be asked.
    """
    self._module = module
    program = _PROGRAM.format(path=sys.path, here=__name__, module=module)
    self._ready = [
      subprocess.Popen(
        [sys.executable, "-c", program],
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
      Exception: What a function raised, one of them.
    """
    count = len(self._ready) or 1
    shares = [jobs[k::count] for k in range(count)]
    texts = list(map(pickle.dumps, shares))
    for process, text in zip(self._ready, texts, strict=False):
      assert process.stdin is not None
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.flush()
    if self._ready:
      # All are read before one is raised, or the next call would have the rest.
      answers = list(map(self._answer, self._ready, shares))
    else:
      answers = [_results(self._module, jobs)]
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
    except Exception:  # none came, half of one, or what cannot be made again
      answer = _results(self._module, jobs)
    return answer


def _results(module: str, jobs: Sequence[Job]) -> list[Any] | Exception:
  try:
    functions = importlib.import_module(module)
    return [getattr(functions, name)(*given) for name, *given in jobs]
  except Exception as error:
    error.add_note(traceback.format_exc())  # which pickle leaves out
    return error


def _serve(module: str) -> None:
  """Answers on what was standard output, which is errors from now on."""
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  with contextlib.suppress(Exception):  # a job tells of it
    importlib.import_module(module)
  # Without a caller, or where it ends in the midst, there is nobody to tell.
  with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
    while True:
      jobs = pickle.load(sys.stdin.buffer)
      answers.write(pickle.dumps(_results(module, jobs)))
      answers.flush()
      sys.stdout.flush()
  os._exit(0)
