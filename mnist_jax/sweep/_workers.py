"""A block trained, by this process or by a worker of an executor.

The process that called `sweep.run` plans the blocks, sends them and files what
comes back. A worker gets a `Task`, which is plain data, loads the data set by
its flags, and returns the rows. It trains on one device, whichever and however
many it has, so that the plan and the programs do not depend on it.
"""

import collections
import concurrent.futures as futures
import dataclasses
import functools
import importlib.metadata as metadata
import os
import pickle
import platform
import queue
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mnist_jax import data
from mnist_jax.data import sparse
from mnist_jax.runtime import compile_log, devices, environment
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _block, store
from mnist_jax.sweep.plan import Block, Budget

_MOST_TRIES = 10  # of a block whose workers are killed again and again
_GOES_ON = "what was filed stays, and the same command goes on"
Job = Callable[[], Any]


class Result(NamedTuple):
  """What a block came to.

  Attributes:
    rows: Of each of its cells, in their order.
    notes: For blocks/: what it cost.
  """

  rows: list[list[_block.Row]]
  notes: dict[str, Any]


class Answer(NamedTuple):
  """What a worker sends back: a result, or in words why there is none."""

  result: Any = None
  refusal: str | None = None  # the user's to mend
  failure: str | None = None  # a traceback


@dataclasses.dataclass(frozen=True)
class Task:
  """A block as it is sent to a worker.

  Attributes:
    data_flags: The flags that load the data, --name=value each.
    data_digest: Of the data that they have to give.
  """

  block: Block
  budget: Budget
  data_flags: tuple[str, ...]
  data_digest: str

  def __call__(self) -> Result:
    """Trains the block on this process's first device."""
    found = _loaded(self.data_flags)[1]
    if found != self.data_digest:
      raise InputError(
        f"has data_digest {found:.12}, expected {self.data_digest:.12}: the "
        "flags of the data give other data there"
      )
    names = tuple(sorted(evaluated(self.budget)))
    splits = _splits(self.data_flags, self.block.group.num_train, names)
    return train(self.block, self.budget, splits, devices.mesh(1))


def train(
  block: Block,
  budget: Budget,
  splits: Mapping[str, data.Split],
  mesh: Mesh,
  on_share: Callable[[float], None] = lambda share: None,
) -> Result:
  """`_block.run` with its notes."""
  with compile_log.watch() as compiled:
    found = _block.run(block, budget, splits, mesh, on_share)
  rows = [found.rows[cell] for cell in block.cells]
  return Result(rows, _notes(block, found, compiled, mesh))


def evaluated(budget: Budget) -> set[str]:
  """The names of the splits that are trained on or evaluated."""
  return {"train", *budget.splits, *budget.final_splits}


def on_devices(
  dataset: data.Dataset,
  num_train: int | None,
  names: Sequence[str] | set[str],
  mesh: Mesh,
) -> dict[str, data.Split]:
  """A copy for each device of the splits of these names."""
  if num_train is not None:
    dataset = data.take(dataset, num_train)
  return {
    name: jax.device_put(getattr(dataset, name), devices.copied(mesh))
    for name in names
  }


def load(told: Mapping[str, str]) -> data.Dataset:
  """The data set that flags, texts by name, are about."""
  names = ("data_source", "data_dir", "dataset", "dev_size", "split_seed")
  given: dict[str, Any] = {name: told[name] for name in names if name in told}
  for name in {"dev_size", "split_seed"} & set(given):
    given[name] = int(given[name])
  dataset = data.load(**given)
  if "num_train" in told:
    dataset = data.take(dataset, int(told["num_train"]))
  if "sparse_lowest" in told:
    seed = int(told.get("sparse_seed", 0))
    dataset = sparse.sparsify(dataset, float(told["sparse_lowest"]), seed)
  return dataset


@functools.lru_cache(maxsize=1)
def _loaded(flags: tuple[str, ...]) -> tuple[data.Dataset, str]:
  """The data set of the flags, and its digest."""
  pairs = (flag.removeprefix("--").partition("=") for flag in flags)
  dataset = load({name: text for name, _, text in pairs})
  return dataset, store.data_digest(dataset)


@functools.lru_cache(maxsize=1)
def _splits(
  flags: tuple[str, ...], num_train: int | None, names: tuple[str, ...]
) -> dict[str, data.Split]:
  return on_devices(_loaded(flags)[0], num_train, names, devices.mesh(1))


def _notes(
  block: Block,
  result: _block.BlockResult,
  compiled: compile_log.CompileLog,
  mesh: Mesh,
) -> dict[str, Any]:
  members = len(block.cells)
  training = max(result.seconds - compiled.seconds, 1e-9)
  device = mesh.devices.flat[0]
  noted = {
    "group": str(block.group),
    "members": members,
    "rows": len(block.rows),
    "members_per_row": len(block.rows[0]),
    "devices": mesh.size,
    "device": f"{device.platform} {device.device_kind}",
    "kind": kind(),
    "compiles": compiled.count,
    "compile_seconds": compiled.seconds,
    "seconds": result.seconds,
    "seconds_per_member_and_epoch": training
    / (members * max(result.epochs, 1e-9)),
  }
  if device.platform == "cpu":
    noted["device_use"] = result.cpu_seconds / (result.seconds * mesh.size)
  return noted


def kind() -> str:
  """What rounds alike: the device, and what makes programs for it.

  Of a CPU its cores count, because a program is cut up for them.
  """
  device = jax.devices()[0]
  name = f"{device.platform} {device.device_kind}"
  if device.platform == "cpu":
    name = f"{_processor()}, cores {devices.cores()}"
  return f"{name}, jax {jax.__version__}, jaxlib {metadata.version('jaxlib')}"


def _processor() -> str:
  try:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
  except OSError:
    lines = []
  names = [line for line in lines if line.startswith("model name")]
  return names[0].partition(":")[2].strip() if names else platform.machine()


def about() -> dict[str, Any]:
  """What a manifest says of where its cells ran."""
  return {**environment.describe(), "kind": kind()}


def answer(code_version: str, expected: str | None, job: bytes) -> Answer:
  """Does a pickled job; this is what the executor calls in a worker.

  Args:
    code_version: Of the process that sent it; it is pickled by that code.
    expected: The kind of machine, None for any.
  """
  try:
    if store.code_version() != code_version:
      raise InputError(
        f"has code_version {store.code_version()}, expected {code_version}"
      )
    if expected is not None and kind() != expected:
      raise InputError(
        f"is of another kind ({kind()}) than the others ({expected}) and may "
        "round otherwise; mixed=True allows it"
      )
    return Answer(pickle.loads(job)())
  except InputError as error:
    where = f"{socket.gethostname()}, process {os.getpid()}"
    return Answer(refusal=f"worker on {where}: {error}")
  except Exception:
    return Answer(failure=traceback.format_exc())


def answers(
  executor: futures.Executor, jobs: Sequence[Job], expected: str | None
) -> Iterator[tuple[int, Any]]:
  """The number and the result of each job, as they are done.

  A job whose worker is lost is sent again, where the executor has others.

  Args:
    expected: The kind of machine that may do them, None for any.

  Raises:
    InputError: A worker refuses, or the executor is gone.
    RuntimeError: A job failed; it has the worker's traceback.
  """
  done: queue.SimpleQueue[futures.Future[Answer]] = queue.SimpleQueue()
  sent: dict[futures.Future[Answer], int] = {}
  tries: collections.Counter[int] = collections.Counter()

  def send(number: int) -> None:
    tries[number] += 1
    job = pickle.dumps(jobs[number])
    try:
      future = executor.submit(answer, store.code_version(), expected, job)
    except (futures.BrokenExecutor, RuntimeError, OSError) as error:
      raise _lost(error) from None
    sent[future] = number
    future.add_done_callback(done.put)

  try:
    for number in range(len(jobs)):
      send(number)
    while sent:
      future = done.get()
      number = sent.pop(future)
      try:
        found = future.result()
      except (futures.BrokenExecutor, futures.CancelledError) as error:
        raise _lost(error) from None
      except Exception as error:  # the executor's: a job's are in its answer
        if tries[number] == _MOST_TRIES:
          reason = " ".join(str(error).split())
          raise InputError(
            f"a block was sent {_MOST_TRIES} times and never answered, at "
            f"last: {type(error).__name__}: {reason}; {_GOES_ON}"
          ) from None
        send(number)
        continue
      if found.refusal is not None:
        raise InputError(found.refusal)
      if found.failure is not None:
        raise RuntimeError(f"in a worker:\n{found.failure}")
      yield number, found.result
  finally:  # where one failed, or nobody asks for more, the rest need not run
    for future in sent:
      future.cancel()


def ask(executor: futures.Executor) -> dict[str, Any]:
  """`about` of some worker; it waits until there is one."""
  ((_, found),) = answers(executor, [about], None)
  return found


def _lost(error: BaseException) -> InputError:
  reason = " ".join(str(error).split()) or type(error).__name__
  return InputError(f"the executor of the sweep is gone ({reason}); {_GOES_ON}")
