"""What the process costs that plans a sweep, sends its blocks and files them.

  python -m benchmarks.workers.coordinator --members=100000

Workers that answer at once: 32 of them by an executor of this process, which
pickles and unpickles what a worker would get and send back, and with --dask by
a scheduler and 32 worker threads. The rows are made up, in number and type
those of a sweep of 5 epochs with an evaluation at each. Prints the cells that
are planned, sent and filed in a second, the whole, and the number of workers at
which the coordinator saturates, if a block takes a worker --block_seconds.
"""

import concurrent.futures as futures
import contextlib
import functools
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments._shared import app, cluster
from mnist_jax import data, sweep
from mnist_jax.runtime import extras
from mnist_jax.sweep import _workers, plan, store

FLAGS = flags.FLAGS
WORKERS = 32
EPOCHS = 5
MOST_ON_A_DEVICE = 16


def define_flags() -> None:
  flags.DEFINE_integer("members", 10_000, "of the sweep", lower_bound=16)
  flags.DEFINE_boolean("dask", False, "by a Dask scheduler and its workers")
  flags.DEFINE_float(
    "block_seconds",
    11.2,
    "that a core takes for 16 members of 5 epochs (docs/results.md, Sweeps)",
    lower_bound=0.001,
  )
  flags.DEFINE_string("folder", None, "for the results (default: temporary)")


def made_up(job: _workers.Task) -> _workers.Result:
  """What `Task` returns, without training."""
  points = job.budget.points(430)
  rows = [
    {
      "step": step,
      "epoch": step / 430,
      "rate": 0.2,
      "batch_loss": 0.1 if step else None,
      "dev_loss": 0.1 + i / 1000,
      "dev_accuracy": 0.97,
      "diverged_step": None,
    }
    for i, step in enumerate(points)
  ]
  count = len(job.block.cells)
  return _workers.Result([rows] * count, {"members": count, "seconds": 0.0})


def answered(code_version: str, kind: str | None, job: bytes) -> Any:
  """In the place of `_workers.answer`."""
  found = pickle.loads(job)
  if not isinstance(found, _workers.Task):
    return _workers.Answer(found())
  return _workers.Answer(made_up(found))


class AtOnce(futures.Executor):
  """Workers of this process that answer at once; their cost is in the sum."""

  def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any):  # type: ignore[no-untyped-def]
    future: futures.Future[Any] = futures.Future()
    sent = pickle.dumps((args, kwargs))
    (code_version, kind, job), _ = pickle.loads(sent)
    answer = pickle.dumps(answered(code_version, kind, job))
    future.set_result(pickle.loads(answer))
    return future


class Answering(futures.Executor):
  """Another executor, whose workers answer at once."""

  def __init__(self, inner: futures.Executor):
    self._inner = inner

  def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any):  # type: ignore[no-untyped-def]
    return self._inner.submit(answered, *args, **kwargs)


@contextlib.contextmanager
def executor() -> Iterator[futures.Executor]:
  if not FLAGS.dask:
    yield AtOnce()
    return
  with extras.needed("dask"):
    import distributed
  cluster.quieten()
  with (
    distributed.LocalCluster(
      n_workers=WORKERS,
      threads_per_worker=1,
      processes=False,
      dashboard_address=None,
    ) as local,
    distributed.Client(local) as client,
  ):
    yield Answering(client.get_executor(pure=False))


class Clock:
  """Seconds by part, of functions that are wrapped: (passed, processor's)."""

  def __init__(self) -> None:
    self.spent: dict[str, list[float]] = {}

  def watch(self, part: str, owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
      with self.of(part):
        return real(*args, **kwargs)

    setattr(owner, name, timed)

  @contextlib.contextmanager
  def of(self, part: str) -> Iterator[None]:
    begun = time.perf_counter(), time.process_time()
    try:
      yield
    finally:
      taken = time.perf_counter() - begun[0], time.process_time() - begun[1]
      before = self.spent.get(part, [0.0, 0.0])
      self.spent[part] = [a + b for a, b in zip(before, taken, strict=True)]


def main(_: list[str]) -> None:
  from mnist_jax.sweep import _run

  seeds = FLAGS.members // MOST_ON_A_DEVICE
  rates = [0.01 * 1.3**i for i in range(MOST_ON_A_DEVICE)]
  cells = sweep.product(learning_rate=rates, seed=range(seeds))
  budget = sweep.Budget(epochs=EPOCHS, evaluate_every=1)
  clock, dataset = Clock(), data.load()
  clock.watch("planned", plan, "check_cells")
  clock.watch("planned", plan, "blocks")
  clock.watch("filed", _run, "_frame")
  clock.watch("filed", store.Store, "add")
  with contextlib.ExitStack() as stack:
    temporary = stack.enter_context(tempfile.TemporaryDirectory())
    folder = Path(FLAGS.folder or temporary)
    by = stack.enter_context(executor())
    run = functools.partial(
      sweep.run,
      cells,
      budget,
      dataset=dataset,
      workdir=folder,
      max_members=MOST_ON_A_DEVICE,
      executor=by,
    )
    with clock.of("in all"):
      table = run()
    first = {part: tuple(both) for part, both in clock.spent.items()}
    with clock.of("started again"):
      again = run()
    files = list((folder / "cells").iterdir())
    size = sum(path.stat().st_size for path in files)
  assert len(again) == len(table)
  report(len(cells), len(files), size, first, clock.spent["started again"])


def report(
  cells: int,
  blocks: int,
  size: int,
  first: dict[str, tuple[float, ...]],
  again: Sequence[float],
) -> None:
  rest = [
    first["in all"][i] - first["planned"][i] - first["filed"][i] for i in (0, 1)
  ]
  print(f"{cells} cells of {EPOCHS} epochs, {blocks} blocks, {WORKERS} workers")
  print(f"{'':<22}{'s':>8}{'s of a core':>13}{'cells a s of a core':>21}")
  for name, both in {**first, "sent, and all else": rest}.items():
    wall, cpu = both
    print(f"{name:<22}{wall:8.1f}{cpu:13.1f}{cells / cpu:21.0f}")
  print(f"{'started again, at end':<22}{again[0]:8.1f}{again[1]:13.1f}")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f"on the disk {size / 1e6:.1f} MB of cells; peak memory {peak:.0f} MiB")
  each = (first["in all"][1] - first["planned"][1]) / blocks
  print(
    f"{1000 * each:.1f} ms of a core for a block, beside planning: saturated "
    f"by {FLAGS.block_seconds / each:.0f} workers whose blocks take "
    f"{FLAGS.block_seconds:g} s"
  )


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
