"""The checks in blocks of one program each, on several processes, filed."""

import concurrent.futures
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gradcheck_simulation import cases, judges
from mnist_jax.runtime import files

Record = dict[str, Any]


class Block(NamedTuple):
  """The checks from `first` to before `end` of one compiled program."""

  family: str
  precision: str
  shape: int
  first: int
  end: int

  @property
  def file_name(self) -> str:
    """Of its records, the same in any run that has this block."""
    words = f"{self.family} {self.precision} {self.shape} {self.first}"
    return f"{words} to {self.end}.json".replace(" ", "_")


def plan(checks: int, most: int) -> list[Block]:
  """Blocks of at most `most` checks, at least `checks` in all.

  Each family in each precision and shape has equally many.
  """
  programs = [
    (family, precision, shape)
    for family, made in cases.FAMILIES.items()
    for precision in cases.PRECISIONS
    for shape in range(len(made.shapes))
  ]
  each = -(-checks // len(programs))
  return [
    Block(*program, first, min(first + most, each))
    for program in programs
    for first in range(0, each, most)
  ]


def run(block: Block) -> list[Record]:
  """A record for each of its checks (`judges.judge`)."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # verdicts say what is not finite
    return [
      judges.judge(
        cases.draw(block.family, block.precision, block.shape, number)
      )
      for number in range(block.first, block.end)
    ]


def _timed(block: Block) -> tuple[list[Record], float]:
  begun = time.monotonic()
  return run(block), time.monotonic() - begun


def filed(folder: Path, block: Block) -> dict[str, Any] | None:
  """What `measure` filed of it, None if it did not."""
  path = folder / block.file_name
  if not path.exists():
    return None
  return json.loads(path.read_text("utf-8"))


def measure(
  folder: Path, blocks: Sequence[Block], workers: int
) -> Iterator[Block]:
  """Runs blocks and files each when it is done, in the order they end.

  Stopped, at the latest a block for each worker is lost.
  """
  folder.mkdir(parents=True, exist_ok=True)

  def file(block: Block, found: tuple[list[Record], float]) -> None:
    records, seconds = found
    text = json.dumps({"seconds": seconds, "records": records})
    files.write_text(folder / block.file_name, f"{text}\n")

  if workers == 1:
    for block in blocks:
      file(block, _timed(block))
      yield block
    return
  # JAX's threads do not survive a fork.
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), _prepare_worker
  )
  try:
    running = {pool.submit(_timed, block): block for block in blocks}
    for done in concurrent.futures.as_completed(running):
      file(running[done], done.result())
      yield running[done]
    pool.shutdown()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
      child.terminate()


def _prepare_worker() -> None:
  """Leaves stopping to the parent, and ends with it however that ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
