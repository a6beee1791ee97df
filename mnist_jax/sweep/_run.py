"""A sweep: plan -> block -> program -> rows -> store.

`plan` cuts the cells into blocks, `_block` trains one by the compiled
functions of `_program`, and its rows are filed by `store`.

A row of the table is one evaluation of one cell: every setting, `step`,
`epoch`, `rate` (the learning rate of the last update; of the first at step 0),
`batch_loss` (mean objective before the updates since the row before), loss in
nats and accuracy in [0, 1] of the splits asked for, `reached` (the target),
`diverged_step` (missing while finite), the cell's key, and the command that
runs it alone.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from mnist_jax import data, runtime
from mnist_jax.runtime import compile_log, devices, environment, extras, files
from mnist_jax.sweep import _block, _program, plan, store
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
  on_progress: OnProgress = lambda progress: None,
) -> "pd.DataFrame":
  """Trains every cell that is not in `workdir` yet; returns the table of all.

  Cells that one program can train are trained together: vmapped, spread over
  the devices (see `runtime.use_all_cores` for CPUs), in blocks. A block's
  results are filed when it ends. Started again after a kill, a sweep forms the
  same blocks and runs those that are missing, to the same numbers.

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
      fast and fits.
    on_progress: What is told of progress, often.

  Returns:
    The rows of these cells, in their order, each by rising step.

  Raises:
    InputError: The grid is empty, a cell is there twice or cannot be run, or
      `workdir` is of something else, of other data or code, or in use.
  """
  with extras.needed("studies"):
    import pandas as pd  # a third of a second, for those who run a sweep

  dataset, mesh = dataset or data.load(), mesh or runtime.mesh()
  num_train = len(dataset.train.labels)
  keys = plan.check_cells(cells, budget, num_train)
  digest = store.data_digest(dataset)
  flags = (*data_flags, f"--data_digest={digest[:_DIGEST_SHOWN]}")
  most = max_members or _fitting(cells, mesh, num_train)
  with (
    contextlib.nullcontext()
    if workdir is None
    else store.Store(
      files.expanded(workdir), digest, environment.describe(), overwrite
    )
  ) as results:
    parts = [store.frame([]) if results is None else results.table()]
    there = set(parts[0]["cell"])
    missing = {cell for cell, key in keys.items() if key not in there}
    planned = plan.blocks(cells, mesh.size, most)
    todo = [b.only(missing) for b in planned if missing & set(b.cells)]
    for found, notes in _train(
      todo, len(cells), budget, dataset, mesh, on_progress
    ):
      rows = _frame(found, keys, budget, flags)
      if results is not None:
        results.add([keys[cell] for cell in found], rows, notes)
      parts.append(rows)
  return _ordered(pd.concat(parts, ignore_index=True), list(keys.values()))


def _train(
  todo: Sequence[Block],
  cells: int,
  budget: Budget,
  dataset: data.Dataset,
  mesh: Mesh,
  on_progress: OnProgress,
) -> Iterator[tuple[dict[Settings, list[_block.Row]], dict[str, Any]]]:
  """The rows of each block's cells, and its notes, as it is done."""
  num_train = len(dataset.train.labels)
  total = sum((_work(block, budget, num_train) for block in todo), 0.0)
  done = cells - sum(len(block.cells) for block in todo)
  now = Progress(0.0, total, done, cells, "nothing to do")
  for taken, blocks in itertools.groupby(todo, lambda b: b.group.num_train):
    splits = _on_devices(dataset, taken, budget, mesh)
    for block in blocks:
      work = _work(block, budget, num_train)
      now = dataclasses.replace(now, doing=str(block.group))

      def on_share(
        share: float, now: Progress = now, work: float = work
      ) -> None:
        on_progress(dataclasses.replace(now, done=now.done + share * work))

      on_share(0.0)
      with compile_log.watch() as compiled:
        result = _block.run(block, budget, splits, mesh, on_share)
      yield result.rows, _notes(block, result, compiled, mesh)
      now = dataclasses.replace(
        now, done=now.done + work, cells_done=now.cells_done + len(block.cells)
      )
      on_progress(now)


def _work(block: Block, budget: Budget, num_train: int) -> float:
  """The examples that a block's members are trained on, and its updates."""
  clock = block.cells[0].clock(block.group.num_train or num_train)
  updates = budget.total(clock)
  examples = clock.epochs(updates) * (block.group.num_train or num_train)
  return len(block.cells) * (examples + _UPDATE_COST * updates)


def _on_devices(
  dataset: data.Dataset, num_train: int | None, budget: Budget, mesh: Mesh
) -> dict[str, data.Split]:
  """A copy for each device of the splits that are trained on or evaluated."""
  if num_train is not None:
    dataset = data.take(dataset, num_train)
  names = {"train", *budget.splits, *budget.final_splits}
  return {
    name: jax.device_put(getattr(dataset, name), devices.copied(mesh))
    for name in names
  }


def _frame(
  found: Mapping[Settings, Sequence[_block.Row]],
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
    result += [identity | row for row in rows]
  return store.frame(result)


def _ordered(table: "pd.DataFrame", keys: Sequence[str]) -> "pd.DataFrame":
  """The rows of the cells with these keys, in that order."""
  place = {key: i for i, key in enumerate(keys)}
  own = table[table["cell"].isin(place)]
  order = own.assign(place=own["cell"].map(place))
  index = order.sort_values(["place", "step"]).index
  return own.loc[index].reset_index(drop=True)


def _notes(
  block: Block,
  result: _block.BlockResult,
  compiled: compile_log.CompileLog,
  mesh: Mesh,
) -> dict[str, Any]:
  """For blocks/: what the block cost."""
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
    "compiles": compiled.count,
    "compile_seconds": compiled.seconds,
    "seconds": result.seconds,
    "seconds_per_member_and_epoch": training
    / (members * max(result.epochs, 1e-9)),
  }
  if device.platform == "cpu":
    noted["device_use"] = result.cpu_seconds / (result.seconds * mesh.size)
  return noted


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
