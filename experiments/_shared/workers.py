"""Cases of a study worked through by processes, one for each core.

Python traces programs on one core at a time, and a network of a few units
does not keep two busy either. Each process compiles for itself.
"""

import concurrent.futures as futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax

from mnist_jax.runtime import devices
from mnist_jax.runtime.errors import InputError

R = TypeVar("R")


def finished(cases: Mapping[str, Callable[[], R]]) -> Iterator[tuple[str, R]]:
  """The name and the result of each case, as they end.

  Cases are begun in their order; they and what they return are pickled. On an
  accelerator, and where there is one case or core, they run in this process.

  Raises:
    InputError: A process was killed.
  """
  count = min(devices.cores(), len(cases))
  if count < 2 or jax.default_backend() != "cpu":
    yield from in_turn(cases)
    return
  pool = futures.ProcessPoolExecutor(
    count,
    multiprocessing.get_context("spawn"),  # jax does not survive a fork
    _begin,
    (dict(jax.config.values), dict(cases)),
  )
  try:
    names = {pool.submit(_run, name): name for name in cases}
    for done in futures.as_completed(names):
      yield names[done], done.result()
  except BrokenProcessPool:
    raise InputError(
      "one of the study's processes was killed, as for want of memory; the "
      "same command goes on where it was"
    ) from None
  finally:  # where one failed, or nobody asks for more, the rest need not run
    pool.shutdown(cancel_futures=True)


def in_turn(cases: Mapping[str, Callable[[], R]]) -> Iterator[tuple[str, R]]:
  """The name and the result of each case, one after another."""
  yield from ((name, case()) for name, case in cases.items())


_cases: dict[str, Callable[[], Any]] = {}


def _run(name: str) -> Any:
  return _cases[name]()


def _begin(
  config: Mapping[str, Any], cases: Mapping[str, Callable[[], Any]]
) -> None:
  """Makes a process ready; jax's settings are those of its parent."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent answers
  threading.Thread(target=_end_with_parent, daemon=True).start()
  for name, value in config.items():
    if jax.config.values[name] != value:
      jax.config.update(name, value)
  _cases.update(cases)


def _end_with_parent() -> None:
  """A parent that is killed cannot tell its processes to end."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)
