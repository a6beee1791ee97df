"""A sweep: plan -> block -> program -> rows -> store.

`plan` cuts the cells into blocks, `_block` trains one by the compiled
functions of `_program`, in this process or in a worker (`_workers`), and its
rows are filed by `store`.

A row of the table is one evaluation of one cell: every setting, `step`,
`epoch`, `rate` (the learning rate of the last update; of the first at step 0),
`batch_loss` (mean objective before the updates since the row before), loss in
nats and accuracy in [0, 1] of the splits asked for, `reached` (the target),
`diverged_step` (missing while finite), the cell's key, and the command that
runs it alone.
"""

import concurrent.futures as futures
import contextlib
import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh

from mnist_jax import data, runtime
from mnist_jax.runtime import extras, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _program, _workers, plan, reuse, store, tables
from mnist_jax.sweep.plan import Block, Budget
from mnist_jax.training.settings import Settings

if TYPE_CHECKING:
  import pandas as pd

REPLAY = "experiments.replay"
# Members of a block on one device: more are no faster, and fewer land sooner.
_MAX_MEMBERS = {"cpu": 16}
_MAX_MEMBERS_ELSEWHERE = 256
_MEMORY_SHARE = 0.25
_MEMORY_UNKNOWN = 4 << 30  # bytes, where a device does not say
_DIGEST_SHOWN = 12  # hexadecimal digits
_UPDATE_COST = 24  # what an update costs beside its examples, in examples


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a sweep is."""

  done: float  # work in arbitrary units, of `total`
  total: float  # that of the cells not done before
  cells_done: int
  cells: int  # all that were asked for
  doing: str  # the group at work, in words


OnProgress = Callable[[Progress], None]
_Rows = Sequence[Mapping[str, Any]]


def run(
  cells: Sequence[Settings],
  budget: Budget,
  *,
  dataset: data.Dataset | None = None,
  data_flags: Sequence[str] = (),
  workdir: str | Path | None = None,
  overwrite: bool = False,
  mesh: Mesh | None = None,
  max_members: int | None = None,
  executor: futures.Executor | None = None,
  mixed: bool = False,
  known: Sequence[str | Path] = (),
  on_progress: OnProgress = lambda progress: None,
) -> "pd.DataFrame":
  """Trains every cell that is not in `workdir` yet; returns the table of all.

  Cells that one program can train are trained together: vmapped, spread over
  the devices (see `runtime.use_all_cores` for CPUs), in blocks. A block's
  results are filed when it ends. Started again after a kill, a sweep forms the
  same blocks and runs those that are missing, to the same numbers; to rounding
  where `known` has gained some of its runs since.

  Args:
    cells: What `product` returns, or any list of `Settings`.
    dataset: The bundled MNIST by default.
    data_flags: The flags by which `experiments.replay` loads other data, such
      as "--data_source=idx"; they become part of the commands. So does the
      data's digest: a command that would load other data refuses.
    workdir: Where results are filed, found again and added to. None keeps
      nothing on the disk.
    overwrite: Whether to begin `workdir` afresh.
    mesh: The devices, on one axis; all of this process by default.
    max_members: The most members of a block on one device; by default what is
      fast and fits, and with an executor what is fast on a CPU.
    executor: Whose workers train the blocks, on their first device; they can
      import this package, of the same code, and load the data by `data_flags`.
      The plan of the blocks, and so what is filed, does not depend on which
      workers there are.
    mixed: Whether workers may round otherwise than one another: other devices,
      processors, cores, or versions of jax.
    known: Directories of other sweeps: what they have of the same data, code
      and (unless `mixed`) machine is taken from there, see `reuse`.
    on_progress: What is told of progress, often.

  Returns:
    The rows of these cells, in their order, each by rising step.

  Raises:
    InputError: The grid is empty, a cell is there twice or cannot be run; one
      of `known` is no directory;
      `workdir` is of something else, of other data or code, or in use; a
      worker has other data or code, or is of another kind; the executor is
      gone. What was filed stays.
  """
  with extras.needed("studies"):
    import pandas as pd  # a third of a second, for those who run a sweep

  if mesh is not None and executor is not None:
    raise InputError("found a mesh and an executor, expected one of the two")
  places = _directories(known)
  dataset = dataset or data.load()
  num_train = len(dataset.train.labels)
  keys = plan.check_cells(cells, budget, num_train)
  digest = store.data_digest(dataset)
  flags = (*data_flags, f"--data_digest={digest[:_DIGEST_SHOWN]}")
  if executor is None:
    mesh = mesh or runtime.mesh()
    count, most = mesh.size, max_members or _fitting(cells, mesh, num_train)
    about = _workers.about()
  else:
    count, most = 1, max_members or _MAX_MEMBERS["cpu"]
    about = _workers.ask(executor)
  with (
    contextlib.nullcontext()
    if workdir is None
    else store.Store(files.expanded(workdir), digest, about, overwrite)
  ) as results:
    taken = set() if results is None else results.taken(reuse.version())
    parts = [store.frame([]) if results is None else results.table()]
    there = set(parts[0]["cell"])

    def file(found: Mapping[Settings, _Rows], notes: Mapping[str, Any]) -> None:
      rows = _frame(found, keys, budget, flags)
      if results is not None:
        results.add([keys[cell] for cell in found], rows, notes)
      parts.append(rows)
      there.update(keys[cell] for cell in found)

    taken &= there  # a kill may have left notes without cells
    kind = (None if results is None else results.kind) or about["kind"]
    kind = None if mixed else kind
    for place in places:
      lacking = [cell for cell, key in keys.items() if key not in there]
      if found := _found(place, lacking, budget, num_train, digest, kind):
        new = [keys[cell] for cell in found]
        file(found, reuse.notes(place, new, kind))
        taken.update(new)
    # Without those taken, so that no block has places for them.
    own = [cell for cell, key in keys.items() if key not in taken]
    missing = {cell for cell in own if keys[cell] not in there}
    planned = plan.blocks(own, count, most)
    todo = [b.only(missing) for b in planned if missing & set(b.cells)]
    if executor is None:
      assert mesh is not None
      trained = _train(todo, len(cells), budget, dataset, mesh, on_progress)
    else:
      trained = _send(
        todo,
        len(cells),
        budget,
        num_train,
        [_workers.Task(b, budget, tuple(data_flags), digest) for b in todo],
        executor,
        kind,
        on_progress,
      )
    for block, result in trained:
      file(dict(zip(block.cells, result.rows, strict=True)), result.notes)
  return tables.in_order(pd.concat(parts, ignore_index=True), [*keys.values()])


def _directories(known: Sequence[str | Path]) -> list[Path]:
  if isinstance(known, str | Path):
    raise InputError(f"known={known}: expected a list of directories")
  found = [files.expanded(place) for place in known]
  for place in found:
    if not place.is_dir():
      raise InputError(f"known has {place}: found no directory of that name")
  return found


def _found(
  place: Path,
  cells: Sequence[Settings],
  budget: Budget,
  num_train: int,
  digest: str,
  kind: str | None,
) -> Mapping[Settings, _Rows]:
  """What another sweep's directory holds; nothing where it cannot be read."""
  try:
    if store.is_alike(place, digest, kind):
      return reuse.find(place, cells, budget, num_train)
  except (InputError, OSError) as error:
    warnings.warn(f"no runs are taken from {place}: {error}", stacklevel=3)
  return {}


def _train(
  todo: Sequence[Block],
  cells: int,
  budget: Budget,
  dataset: data.Dataset,
  mesh: Mesh,
  on_progress: OnProgress,
) -> Iterator[tuple[Block, _workers.Result]]:
  """The result of each block, trained by this process, as it is done."""
  num_train = len(dataset.train.labels)
  now = _beginning(todo, cells, budget, num_train)
  names = _workers.evaluated(budget)
  for taken, blocks in itertools.groupby(todo, lambda b: b.group.num_train):
    splits = _workers.on_devices(dataset, taken, names, mesh)
    for block in blocks:
      work = _work(block, budget, num_train)
      now = dataclasses.replace(now, doing=str(block.group))

      def on_share(
        share: float, now: Progress = now, work: float = work
      ) -> None:
        on_progress(dataclasses.replace(now, done=now.done + share * work))

      on_share(0.0)
      yield block, _workers.train(block, budget, splits, mesh, on_share)
      now = _after(now, block, work)
      on_progress(now)


def _send(
  todo: Sequence[Block],
  cells: int,
  budget: Budget,
  num_train: int,
  tasks: Sequence[_workers.Task],
  executor: futures.Executor,
  kind: str | None,
  on_progress: OnProgress,
) -> Iterator[tuple[Block, _workers.Result]]:
  """The same by the workers of an executor, in the order in which they end."""
  now = _beginning(todo, cells, budget, num_train)
  on_progress(now)
  for number, result in _workers.answers(executor, tasks, kind):
    block = todo[number]
    yield block, result
    now = _after(now, block, _work(block, budget, num_train))
    on_progress(dataclasses.replace(now, doing=str(block.group)))


def _beginning(
  todo: Sequence[Block], cells: int, budget: Budget, num_train: int
) -> Progress:
  total = sum((_work(block, budget, num_train) for block in todo), 0.0)
  done = cells - sum(len(block.cells) for block in todo)
  doing = str(todo[0].group) if todo else "nothing to do"
  return Progress(0.0, total, done, cells, doing)


def _after(now: Progress, block: Block, work: float) -> Progress:
  return dataclasses.replace(
    now, done=now.done + work, cells_done=now.cells_done + len(block.cells)
  )


def _work(block: Block, budget: Budget, num_train: int) -> float:
  """The examples that a block's members are trained on, and its updates."""
  clock = block.cells[0].clock(block.group.num_train or num_train)
  updates = budget.total(clock)
  examples = clock.epochs(updates) * (block.group.num_train or num_train)
  return len(block.cells) * (examples + _UPDATE_COST * updates)


def _frame(
  found: Mapping[Settings, _Rows],
  keys: Mapping[Settings, str],
  budget: Budget,
  data_flags: Sequence[str],
) -> "pd.DataFrame":
  """The rows with what tells their cells apart, made once a cell."""
  text = json.dumps(budget.to_dict())
  result = []
  for cell, rows in found.items():
    identity = {
      **store.setting_columns(cell),
      "cell": keys[cell],
      "budget": text,
      "command": cell.command(REPLAY, *data_flags, f"--budget={text}"),
    }
    result += [{**identity, **row} for row in rows]
  return store.frame(result)


def _fitting(cells: Sequence[Settings], mesh: Mesh, num_train: int) -> int:
  """The most members of a block on one device: fast, and within its memory."""
  device = mesh.devices.flat[0]
  most = _MAX_MEMBERS.get(device.platform, _MAX_MEMBERS_ELSEWHERE)
  limit = (device.memory_stats() or {}).get("bytes_limit", _MEMORY_UNKNOWN)
  largest = max(_member_bytes(cell, num_train) for cell in cells)
  return int(np.clip(_MEMORY_SHARE * limit // largest, 1, most))


def _member_bytes(cell: Settings, num_train: int) -> int:
  """Weights five times (optimiser, gradients, copies), batch, order."""
  sizes = cell.train_config().sizes
  params = sum(a * b for a, b in itertools.pairwise(sizes))
  largest = max(*cell.batches.sizes, _program.EVALUATION_CHUNK)
  return 4 * (5 * params + 4 * sum(sizes) * largest + 3 * num_train)
