"""A process that loads a module while the caller works, and then calls from it.

  with standby.Standby("mnist_jax.plotting.run", 2) as ready:
    ...                                      # meanwhile it imports it
    pictures = ready.call([("rendered", "curves", ...), ("rendered", ...)])

A module that takes half a second to load, such as matplotlib, costs the caller
nothing where a core is idle meanwhile.
"""

import atexit
import contextlib
import gc
import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import IO, Any, NoReturn

Job = tuple[Any, ...]  # a function's name, then its arguments
Answer = list[Any] | Exception  # what the functions returned, or one raised
# With the caller's own paths, so that what it can import it can as well.
_PROGRAM = """
import sys
sys.path[:] = {path!r}
from {here} import _serve
_serve({module!r}, {at_once})
"""


class Standby:
  """A process that has a module loaded; it ends with the caller."""

  def __init__(self, module: str, at_once: int = 1) -> None:
    """Starts it and returns at once.

    Args:
      at_once: The jobs that are done at a time: no more than there are cores,
        and one on macOS; 0 where nothing will be asked, and none is started.
    """
    self._module = module
    # Once it has loaded Apple's libraries, a process may crash after a fork.
    most = 1 if sys.platform == "darwin" else os.cpu_count() or 1
    program = _PROGRAM.format(
      path=sys.path, here=__name__, module=module, at_once=min(at_once, most)
    )
    self._process: subprocess.Popen[bytes] | None = None
    self._answered = False
    if not at_once:
      return
    self._process = subprocess.Popen(
      [sys.executable, "-c", program],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      # OpenBLAS without its threads, which a fork would not copy.
      env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
      process_group=0,  # Ctrl-C is for the caller, whose end is its own
    )

  def __enter__(self) -> "Standby":
    return self

  def __exit__(self, *_: object) -> None:
    if self._process:
      if self._answered:  # else it may be in the midst of something
        with contextlib.suppress(subprocess.TimeoutExpired):
          self._process.communicate(timeout=1.0)
          return
      # PermissionError is what macOS says of a group in which all have ended.
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.communicate()

  def call(self, jobs: Sequence[Job]) -> list[Any]:
    """What the functions return, which with their arguments can be pickled.

    Jobs are dealt out in turn, so two that take long are best next to each
    other. Where the process has been lost they are done here.

    Raises:
      Exception: What a function raised, one of them.
    """
    text = pickle.dumps(jobs)
    self._answered = False
    answer = None
    if self._process and self._process.stdin and self._process.stdout:
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.write(text)
        self._process.stdin.flush()
      answer = _answer(self._process.stdout)
      self._answered = answer is not None
    if answer is None:
      answer = _results(self._module, jobs)
    if isinstance(answer, Exception):
      raise answer
    return answer


def _answer(stream: IO[bytes]) -> Answer | None:
  """None where none comes, or half of one, or what cannot be made again."""
  try:
    found: Answer = pickle.load(stream)
  except Exception:
    return None
  return found


def _results(module: str, jobs: Sequence[Job]) -> Answer:
  try:
    functions = importlib.import_module(module)
    return [getattr(functions, name)(*given) for name, *given in jobs]
  except Exception as error:
    error.add_note(traceback.format_exc())  # which pickle leaves out
    return error


def _forked(
  module: str, jobs: Sequence[Job], answers: IO[bytes]
) -> tuple[int, IO[bytes]]:
  """A process that does the jobs and ends, and where its answer comes from."""
  receive, send = os.pipe()
  process = os.fork()
  if process:
    os.close(send)
    return process, os.fdopen(receive, "rb")
  try:
    # Else it would wait for itself to read, and the caller for its answers,
    # where the process that it came from is lost.
    os.close(receive)
    os.close(answers.fileno())
    with os.fdopen(send, "wb") as stream:
      pickle.dump(_results(module, jobs), stream)
    sys.stdout.flush()
  finally:
    os._exit(0)


def _shared(
  module: str, jobs: Sequence[Job], count: int, answers: IO[bytes]
) -> Answer:
  """`_results`, the jobs dealt out to `count` processes, this one of them."""
  count = min(count, len(jobs)) or 1
  shares = [jobs[k::count] for k in range(count)]
  others = [(share, *_forked(module, share, answers)) for share in shares[1:]]
  found = [_results(module, shares[0])]
  for share, process, stream in others:
    with stream:
      answer = _answer(stream)
    os.waitpid(process, 0)
    found.append(_results(module, share) if answer is None else answer)
  results: list[list[Any]] = []
  for answer in found:
    if isinstance(answer, Exception):
      return answer
    results.append(answer)
  return [results[k % count][k // count] for k in range(len(jobs))]


def _serve(module: str, at_once: int) -> NoReturn:
  """Answers on what was standard output, which is errors from now on."""
  os.nice(5)  # the caller's own work goes first
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  # As in the commands: matplotlib tells of a font cache that it builds.
  logging.getLogger().setLevel(logging.ERROR)
  gc.disable()  # it would go through all that is loaded again and again
  with contextlib.suppress(Exception):  # a job tells of it
    importlib.import_module(module)
  gc.freeze()
  gc.enable()
  # Without a caller, or where it ends in the midst, there is nobody to tell.
  with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
    while True:
      jobs = pickle.load(sys.stdin.buffer)
      answers.write(pickle.dumps(_shared(module, jobs, at_once, answers)))
      answers.flush()
      sys.stdout.flush()
  atexit._run_exitfuncs()  # matplotlib may have made a folder for its cache
  os._exit(0)
