"""A sweep by Dask workers that are killed again and again.

  python -m benchmarks.workers.kills --kills=50

Three workers, each a process with one device, train the blocks of a sweep of
small networks. At random moments one of those that have a block is killed by
SIGKILL, and another one is started in its place; the first once a block is
filed. The results are compared with those of the same sweep in one process:
cells that are missing, cells that are there twice, and whether each file of
cells has the same bytes. Prints the seed of the moments.
"""

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags

from benchmarks.workers import local
from experiments._shared import app, cluster
from mnist_jax import sweep
from mnist_jax.runtime import devices, extras
from mnist_jax.sweep import _workers

FLAGS = flags.FLAGS
DATA = ("--dev_size=64", "--num_train=1000")
BUDGET = sweep.Budget(epochs=20)
SECONDS = (0.2, 3.0)  # between a kill and the next


def define_flags() -> None:
  flags.DEFINE_integer("kills", 50, "of workers", lower_bound=0)
  flags.DEFINE_integer("workers", 3, "at a time", lower_bound=1)
  flags.DEFINE_integer("cells", 1600, "of the sweep", lower_bound=1)
  flags.DEFINE_integer("kill_seed", 0, "of the moments", lower_bound=0)


def cells() -> list[sweep.Settings]:
  base = sweep.Settings(
    hidden_sizes=(4,), activations=("sigmoid",), batch_size=8
  )
  return sweep.product(base, seed=range(FLAGS.cells))


class Killer(threading.Thread):
  """Keeps a number of workers, and kills one that is at work now and then.

  Attributes:
    killed: How many so far.
  """

  def __init__(
    self,
    folder: Path,
    workdir: Path,
    client: Any,
    workers: int,
    kills: int,
    seed: int,
  ):
    super().__init__()
    self._cells = workdir / "cells"
    self.killed = 0
    self.ended = threading.Event()
    self._folder, self._client = folder, client
    self._workers, self._kills = workers, kills
    self._drawn = random.Random(seed)

  def _busy(self, names: Iterable[str]) -> list[str]:
    """Those of the workers which have a block."""
    known = self._client.scheduler_info(n_workers=-1)["workers"]
    processing = self._client.processing()
    return [
      known[address]["name"]
      for address, keys in processing.items()
      if keys and address in known and known[address]["name"] in names
    ]

  def run(self) -> None:
    with contextlib.ExitStack() as stack:
      started = itertools.count()

      def start() -> tuple[str, subprocess.Popen[bytes]]:
        name = f"worker-{next(started)}"
        return name, stack.enter_context(local.worker(self._folder, name))

      alive = dict(start() for _ in range(self._workers))
      while self.killed < self._kills:
        if self.ended.wait(self._drawn.uniform(*SECONDS)):
          return
        # Not so many that one block meets all of them: ten times is its most.
        filed = len(list(self._cells.glob("[!.]*.parquet")))
        busy = sorted(self._busy(alive))
        if not busy or self.killed >= self._workers * filed:
          continue
        gone = alive.pop(self._drawn.choice(busy))
        gone.send_signal(signal.SIGKILL)
        gone.wait()
        self.killed += 1
        alive.update([start()])
      self.ended.wait()


def run_killed(folder: Path, workdir: Path, kills: int) -> tuple[int, float]:
  """The sweep by workers; how many were killed, and its seconds."""
  with extras.needed("dask"):
    import distributed

  cluster.quieten()
  with local.scheduler(folder):
    file = folder / "scheduler.json"
    while not file.exists():
      time.sleep(0.05)
    with distributed.Client(scheduler_file=str(file)) as client:
      killer = Killer(
        folder, workdir, client, FLAGS.workers, kills, FLAGS.kill_seed
      )
      killer.start()
      begun = time.monotonic()
      try:
        run(workdir, executor=client.get_executor(pure=False))
      finally:
        killer.ended.set()
        killer.join()
    return killer.killed, time.monotonic() - begun


def run(workdir: Path, **where: object) -> None:
  dataset = _workers.load(
    dict(flag.removeprefix("--").split("=") for flag in DATA)
  )
  sweep.run(
    cells(),
    BUDGET,
    dataset=dataset,
    data_flags=DATA,
    workdir=workdir,
    max_members=4,
    **where,  # type: ignore[arg-type]
  )


def main(_: list[str]) -> None:
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    whole, killed = folder / "whole", folder / "killed"
    run(whole, mesh=devices.mesh(1))
    kills, seconds = run_killed(folder, killed, FLAGS.kills)
    expected, found = (
      {path.name: path.read_bytes() for path in (place / "cells").iterdir()}
      for place in (whole, killed)
    )
    wanted, there = (
      pd.read_parquet(place / "cells")[["cell", "step"]]
      for place in (whole, killed)
    )
  lost = set(wanted["cell"]) - set(there["cell"])
  doubled = there[there.duplicated()]["cell"].nunique()
  same = sum(expected[name] == found.get(name) for name in expected)
  print(f"seed {FLAGS.kill_seed}, {FLAGS.workers} workers, {seconds:.0f} s")
  print(f"workers killed   {kills}")
  print(f"cells            {wanted['cell'].nunique()}")
  print(f"cells lost       {len(lost)}")
  print(f"cells doubled    {doubled}")
  print(f"files of cells   {len(expected)}, bytes equal in {same}")
  if lost or doubled or found != expected:
    sys.exit(1)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
