"""Hundreds of training runs as few compiled programs, in one table.

  from mnist_jax import sweep
  grid = sweep.product(learning_rate=[0.1, 0.2, 0.5], seed=range(10))
  table = sweep.run(grid, sweep.Budget(epochs=5, evaluate_every=1))

A row of the table is one evaluation of one cell: every setting, `step`,
`epoch`, `rate` (the learning rate of the last update; of the first at step 0),
`batch_loss` (mean objective before the updates since the row before), loss in
nats and accuracy in [0, 1] of the splits asked for, `reached` (the target),
`diverged_step` (missing while finite), the cell's key, and the command that
runs it alone.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mnist_jax import data, runtime
from mnist_jax.runtime import compile_log, environment
from mnist_jax.sweep import _block as sweep_block
from mnist_jax.sweep import _program as sweep_program
from mnist_jax.sweep import plan
from mnist_jax.sweep import store as sweep_results
from mnist_jax.sweep.plan import Block, Budget, Target, cell_key, product
from mnist_jax.training.settings import Settings

__all__ = [
  "Budget",
  "Progress",
  "Settings",
  "Target",
  "cell_key",
  "product",
  "run",
]

REPLAY = "experiments.replay"
# Of a block on one device: more are no faster, and fewer land sooner.
_MAX_MEMBERS = {"cpu": 16}
_MAX_MEMBERS_ELSEWHERE = 256
_MEMORY_SHARE = 0.25
_MEMORY_UNKNOWN = 4 << 30  # bytes, where a device does not say
_DIGEST_SHOWN = 12  # hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a sweep is.

  Attributes:
    done, total: work in arbitrary units, of the cells not done before.
    cells_done, cells: of all that were asked for.
    doing: the group at work, in words.
  """

  done: float
  total: float
  cells_done: int
  cells: int
  doing: str


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
) -> pd.DataFrame:
  """Trains every cell that is not in `workdir` yet; returns the table of all.

  Cells that one program can train are trained together: vmapped, spread over
  the devices (see `runtime.use_all_cores` for CPUs), in blocks. A block's
  results are filed when it ends. Started again after a kill, a sweep forms the
  same blocks and runs those that are missing, to the same numbers.

  Args:
    cells: from `product`, or any list of `Settings`.
    budget: the same for all cells.
    dataset: the bundled MNIST by default.
    data_flags: what `experiments.replay` needs to load another one, such as
      "--data_source=idx"; they become part of the commands. So does the
      data's digest: a command that would load other data refuses.
    workdir: where results are filed, found again and added to. None keeps
      nothing on the disk.
    overwrite: begin `workdir` afresh.
    mesh: the devices, one axis; all of this process by default.
    max_members: of a block on one device; by default what is fast and fits.
    on_progress: called often.

  Returns:
    The rows of these cells, in their order, each by rising step.

  Raises:
    InputError: an empty grid, a cell twice, a cell that cannot be run, or a
      `workdir` of something else, of other data or code, or in use.
  """
  dataset = dataset or data.load()
  mesh = mesh or runtime.mesh()
  plan.check_cells(cells, budget, len(dataset.train.labels))
  digest = sweep_results.data_digest(dataset)
  run_missing = functools.partial(
    _run,
    cells,
    budget=budget,
    dataset=dataset,
    data_flags=(*data_flags, f"--data_digest={digest[:_DIGEST_SHOWN]}"),
    mesh=mesh,
    max_members=max_members,
    on_progress=on_progress,
  )
  if workdir is None:
    parts = [rows for _, rows, _ in run_missing(there=set())]
    return _ordered(pd.concat(parts, ignore_index=True), cells, budget)
  about = environment.describe()
  with sweep_results.Store(Path(workdir), digest, about, overwrite) as store:
    there = set(store.table()["cell"])
    for keys, rows, noted in run_missing(there=there):
      store.add(keys, rows, noted)
    return _ordered(store.table(), cells, budget)


def _ordered(
  table: pd.DataFrame, cells: Sequence[Settings], budget: Budget
) -> pd.DataFrame:
  place = {cell_key(cell, budget): i for i, cell in enumerate(cells)}
  table = table[table["cell"].isin(list(place))]
  order = pd.DataFrame({"at": table["cell"].map(place), "step": table["step"]})
  index = order.sort_values(["at", "step"]).index
  return table.loc[index].reset_index(drop=True)


def _run(
  cells: Sequence[Settings],
  *,
  there: set[str],
  budget: Budget,
  dataset: data.Dataset,
  data_flags: Sequence[str],
  mesh: Mesh,
  max_members: int | None,
  on_progress: OnProgress,
) -> Iterator[tuple[list[str], pd.DataFrame, dict[str, Any]]]:
  """The blocks' keys, rows and notes as each is done."""
  num_train = len(dataset.train.labels)
  most = max_members or _fitting(cells, mesh, num_train)
  missing = {c for c in cells if cell_key(c, budget) not in there}
  planned = plan.blocks(cells, mesh.size, most)
  todo = [b.only(missing) for b in planned if missing & set(b.cells)]
  counter = _Counter(todo, budget, num_train, len(cells), on_progress)
  group, on = None, None
  for block in todo:
    if on is None or group is None or block.group.num_train != group.num_train:
      taken = plan.training_set(dataset, block.group)
      on = sweep_block.on_devices(taken, mesh)
    group = block.group
    counter.begin(block)
    with compile_log.watch() as compiled:
      result = sweep_block.run(block, budget, on, mesh, counter.updates)
    keys = [cell_key(cell, budget) for cell in block.cells]
    rows = sweep_results.frame(
      {**_identity(cell, budget, data_flags), **row}
      for cell in block.cells
      for row in result.rows[cell]
    )
    yield keys, rows, _notes(block, result, compiled, mesh, on.num_train)
    counter.end(block)


def _identity(
  cell: Settings, budget: Budget, data_flags: Sequence[str]
) -> dict[str, Any]:
  text = json.dumps(budget.to_dict())
  return {
    **sweep_results.setting_columns(cell),
    "cell": cell_key(cell, budget),
    "budget": text,
    "command": cell.command(REPLAY, *data_flags, f"--budget={text}"),
  }


def _notes(
  block: Block,
  result: sweep_block.BlockResult,
  compiled: compile_log.CompileLog,
  mesh: Mesh,
  num_train: int,
) -> dict[str, Any]:
  """For blocks/: what the block cost."""
  members = len(block.cells)
  per_epoch = block.cells[0].updates_per_epoch(num_train)
  epochs = result.updates / per_epoch
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
    "seconds_per_member_and_epoch": training / (members * max(epochs, 1e-9)),
  }
  if device.platform == "cpu":
    noted["device_use"] = result.cpu_seconds / (result.seconds * mesh.size)
  return noted


def _fitting(cells: Sequence[Settings], mesh: Mesh, num_train: int) -> int:
  """Members of a block on one device: fast, and within its memory."""
  device = mesh.devices.flat[0]
  most = _MAX_MEMBERS.get(device.platform, _MAX_MEMBERS_ELSEWHERE)
  limit = (device.memory_stats() or {}).get("bytes_limit", _MEMORY_UNKNOWN)
  largest = max(_member_bytes(cell, num_train) for cell in cells)
  return int(np.clip(_MEMORY_SHARE * limit // largest, 1, most))


def _weights(sizes: Sequence[int]) -> int:
  return sum(a * b for a, b in itertools.pairwise(sizes))


def _member_bytes(cell: Settings, num_train: int) -> int:
  """Weights five times (optimiser, gradients, copies), batch, order."""
  sizes = cell.train_config().sizes
  params = _weights(sizes)
  largest = max(*cell.batches.sizes, sweep_program.EVALUATION_CHUNK)
  passed = sum(sizes) * largest
  return 4 * (5 * params + 4 * passed + 3 * num_train)


class _Counter:
  """Turns updates made into progress."""

  def __init__(
    self,
    blocks: Sequence[Block],
    budget: Budget,
    num_train: int,
    cells: int,
    on_progress: OnProgress,
  ):
    self._budget, self._num_train = budget, num_train
    self._tell = on_progress
    self._total = sum((self._work(b) for b in blocks), 0.0)
    self._cells = cells
    self._cells_done = cells - sum(len(b.cells) for b in blocks)
    self._done = self._part = self._per_update = 0.0
    self._doing = "nothing to do"

  def _per(self, block: Block) -> float:
    """Work of an update: its examples' products, and a part that is fixed."""
    config = block.group.config
    each = _weights(config.sizes) * (config.batch_size + 24.0)
    return len(block.cells) * each

  def _work(self, block: Block) -> float:
    size = block.group.num_train or self._num_train
    per_epoch = block.cells[0].updates_per_epoch(size)
    return self._per(block) * self._budget.total(per_epoch)

  def _show(self) -> None:
    self._tell(
      Progress(
        self._done + self._part,
        self._total,
        self._cells_done,
        self._cells,
        self._doing,
      )
    )

  def begin(self, block: Block) -> None:
    self._doing = str(block.group)
    self._part, self._per_update = 0.0, self._per(block)
    self._show()

  def updates(self, count: int) -> None:
    self._part += count * self._per_update
    self._show()

  def end(self, block: Block) -> None:
    """A block may end before its budget; its work is done all the same."""
    self._done, self._part = self._done + self._work(block), 0.0
    self._cells_done += len(block.cells)
    self._show()
