"""Trains one block of a sweep and returns its rows."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from mnist_jax import data
from mnist_jax.runtime import devices
from mnist_jax.sweep import _program as sweep_program
from mnist_jax.sweep.plan import Block, Budget
from mnist_jax.training.settings import Settings

Row = dict[str, Any]
OnUpdates = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class BlockResult:
  """What a block came to.

  Attributes:
    rows: by cell, one per evaluation.
    seconds: of training and evaluating, compiling left in.
    cpu_seconds: of this process over the same time.
    updates: made by each member (the most, where they differ), each counted
      as an epoch's share that it has at the first batch size.
  """

  rows: dict[Settings, list[Row]]
  seconds: float
  cpu_seconds: float
  updates: int


class _Data:
  """The splits on the devices, each put there when first asked for."""

  def __init__(self, dataset: data.Dataset, mesh: Mesh):
    self._dataset = dataset
    self._mesh = mesh
    self._there: dict[str, data.Split] = {}

  def __getitem__(self, name: str) -> data.Split:
    if name not in self._there:
      split = getattr(self._dataset, name)
      self._there[name] = jax.device_put(split, devices.copied(self._mesh))
    return self._there[name]

  @property
  def num_train(self) -> int:
    return len(self._dataset.train.labels)


def on_devices(dataset: data.Dataset, mesh: Mesh) -> _Data:
  """The data set for `run`, whose splits are copied to the devices once."""
  return _Data(dataset, mesh)


class _Training:
  """The block while it is trained."""

  def __init__(self, block: Block, budget: Budget, on: _Data, mesh: Mesh):
    self.block, self.budget, self.data, self.mesh = block, budget, on, mesh
    self.programs = sweep_program.programs(block.group.config, mesh)
    some = block.cells[0]
    self.batches, self.clock = some.batches, some.clock(on.num_train)
    total = budget.total(self.clock)
    # A place without a cell trains along with some cell's settings, unseen.
    self.places = [
      [cell or next((c for c in row if c), some) for cell in row]
      for row in block.rows
    ]
    self.rates = np.stack(
      [
        [cell.learning_rates(on.num_train, total) for cell in row]
        for row in self.places
      ]
    )
    self.state, self.hparams = self.programs.init(self._traced())
    self.epoch = -1
    self.step = self.origin_step = 0
    self.origin = self.state
    self.plan: sweep_program.BlockPlan | None = None

  def _traced(self) -> dict[str, np.ndarray]:
    cells = [[cell.traced() for cell in row] for row in self.places]
    return {
      name: np.array(
        [[of[name] for of in row] for row in cells],
        np.uint32 if name == "seed" else np.float32,
      )
      for name in cells[0][0]
      if name not in self.block.group.left_out
    }

  def _load_plan(self, epoch: int) -> sweep_program.BlockPlan:
    drop_last = self.block.group.config.drop_last
    by_order: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for row in self.places:
      order = row[0].order
      if order not in by_order:
        by_order[order] = data.batch_indices(
          data.epoch_order(order, epoch, self.data.num_train),
          self.batches.size_at(epoch),
          drop_last,
        )
    batches = [by_order[row[0].order] for row in self.places]
    begin, count = self.clock.before(epoch), self.clock.count(epoch)
    rates = self.rates[:, :, begin : begin + count]
    missing = count - rates.shape[2]  # the budget ends in this epoch
    arrays = (
      np.stack([indices for indices, _ in batches]),
      np.stack([weights for _, weights in batches]),
      np.pad(rates, ((0, 0), (0, 0), (0, missing))),
    )
    return sweep_program.BlockPlan(
      *jax.device_put(arrays, devices.spread(self.mesh))
    )

  def advance(
    self, to: int, active: Bool[np.ndarray, " S"], on_updates: OnUpdates
  ) -> None:
    """Makes all updates before update `to`; rows not active stay."""
    loss_sum = np.zeros(self.state.loss_sum.shape, np.float32)
    self.state = self.state._replace(
      loss_sum=jax.device_put(loss_sum, devices.spread(self.mesh))
    )
    self.origin, self.origin_step = self.state, self.step
    stop = np.where(active[:, None], to, self.step)
    self._make_updates(to, stop, on_updates)
    diverged, made = jax.device_get(
      (self.state.diverged, self.state.train.step)
    )
    self.take_back((diverged >= 0) & (made >= diverged), diverged)

  def _make_updates(
    self, to: int, stop: Int[np.ndarray, "S #R"], on_updates: OnUpdates
  ) -> None:
    shape = self.state.diverged.shape
    stops = jax.device_put(
      np.broadcast_to(stop, shape).astype(np.int32), devices.spread(self.mesh)
    )
    while self.step < to:
      epoch, first = self.clock.locate(self.step)
      if epoch != self.epoch:
        self.plan, self.epoch = self._load_plan(epoch), epoch
      last = min(self.clock.count(epoch), first + to - self.step)
      self.state = self.programs.advance(
        self.state,
        self.data["train"],
        self.plan,
        self.hparams,
        stops,
        first,
        last,
      )
      jax.block_until_ready(self.state.diverged)
      before = self.progress()
      self.step += last - first
      on_updates(self.progress() - before)

  def progress(self) -> int:
    """Updates made, as the budget counts them by the first batch size."""
    if self.budget.unit == "updates":
      return self.step
    return self.clock.evenly(self.step, self.clock.count(0))

  def take_back(
    self, members: Bool[np.ndarray, "S R"], diverged: Int[np.ndarray, "S R"]
  ) -> bool:
    """Puts members back to before the update after which they diverged.

    A loss that is not finite tells of the update before it, which has been
    made by then. Those members alone repeat what led there since the last
    evaluation; one that diverged before that stays as it was evaluated.

    Returns:
      Whether there were any.
    """
    members = members & (diverged > self.origin_step)
    if not members.any():
      return False
    ended, to = jax.device_get(self.state), self.step
    place = devices.spread(self.mesh)
    self.state, self.step = self.origin, self.origin_step
    stop = np.where(members, diverged - 1, self.origin_step)
    self._make_updates(to, stop, lambda updates: None)
    repeated = jax.device_get(self.state)

    def choose(again: np.ndarray, once: np.ndarray) -> np.ndarray:
      axes = tuple(range(members.ndim, once.ndim))
      return np.where(np.expand_dims(members, axes), again, once)

    state = jax.tree.map(choose, repeated, ended)
    state = state._replace(diverged=choose(diverged, ended.diverged))
    self.state = jax.device_put(state, place)
    return True

  def measure(
    self, splits: Sequence[str]
  ) -> dict[str, Float[np.ndarray, "S R"]]:
    """Loss and accuracy of every member, by column name."""
    found = {}
    for name in splits:
      loss, accuracy = self.programs.evaluate(
        self.state.train.params, self.data[name]
      )
      found[f"{name}_loss"] = np.asarray(loss)
      found[f"{name}_accuracy"] = np.asarray(accuracy)
    return found

  def measure_finite(
    self, splits: Sequence[str]
  ) -> dict[str, Float[np.ndarray, "S R"]]:
    """`measure`, of members whose losses are not finite after `take_back`."""
    found = self.measure(splits)
    losses = [found[f"{name}_loss"] for name in splits]
    diverged = np.asarray(self.state.diverged)
    bad = (diverged < 0) & ~np.isfinite(losses).all(axis=0)
    if self.take_back(bad, np.full_like(diverged, self.step)):
      found = self.measure(splits)
    return found

  def rows(self, splits: Sequence[str], since: int) -> dict[Settings, Row]:
    """A row for each cell, of the state as it is."""
    measured = self.measure_finite(splits)
    diverged: Int[np.ndarray, "S R"] = np.asarray(self.state.diverged)
    losses = np.asarray(self.state.loss_sum)
    shared: Row = {"step": self.step, "epoch": self.clock.epochs(self.step)}
    if self.block.group.batches is not None:  # the setting stands for all else
      epoch, _ = self.clock.locate(max(0, self.step - 1))
      shared["batch_size"] = self.batches.size_at(epoch)
    result = {}
    for s, row in enumerate(self.block.rows):
      for r, cell in enumerate(row):
        if cell is None:
          continue
        broken = int(diverged[s, r])
        made = (broken - 1 if broken >= 0 else self.step) - since
        result[cell] = {
          **shared,
          "rate": float(self.rates[s, r, max(0, self.step - 1)]),
          "batch_loss": float(losses[s, r]) / made if made > 0 else None,
          **{name: float(values[s, r]) for name, values in measured.items()},
          "diverged_step": broken if broken >= 0 else None,
        }
    return result


def run(
  block: Block,
  budget: Budget,
  on: _Data,
  mesh: Mesh,
  on_updates: OnUpdates = lambda updates: None,
) -> BlockResult:
  """Trains the block's cells to the end of the budget, or to its target.

  A cell that diverged keeps its last finite weights; its rows go on, with
  `diverged_step` in them. A cell that reached the target has no row after it.
  What a cell's rows say does not depend on the other cells of the block.

  Args:
    on: from `on_devices`, of the group's training set.
    on_updates: called as training goes on with the updates just made.
  """
  begun, cpu_begun = time.perf_counter(), time.process_time()
  training = _Training(block, budget, on, mesh)
  rows: dict[Settings, list[Row]] = {cell: [] for cell in block.cells}
  done: set[Settings] = set()
  points = budget.points(training.clock)
  before = 0
  for point in points:
    active = np.array(
      [any(c and c not in done for c in row) for row in block.rows]
    )
    training.advance(point, active, on_updates)
    _take_in(training, budget, point == points[-1], before, rows, done)
    before = point
    if len(done) == len(rows):
      break
  return BlockResult(
    rows,
    time.perf_counter() - begun,
    time.process_time() - cpu_begun,
    training.clock.evenly(training.step, training.clock.count(0)),
  )


def _take_in(
  training: _Training,
  budget: Budget,
  at_end: bool,
  since: int,
  rows: dict[Settings, list[Row]],
  done: set[Settings],
) -> None:
  """Adds the rows of an evaluation, and notes the cells that are done."""
  target = budget.target
  found = training.rows(budget.splits, since)
  arrived = {
    cell
    for cell, row in found.items()
    if cell not in done and (at_end or (target and target.reached(row)))
  }
  final = {}
  if arrived and budget.final_splits:
    final = training.measure(budget.final_splits)
  for s, places in enumerate(training.block.rows):
    for r, cell in enumerate(places):
      if cell is None or cell in done:
        continue
      row = found[cell]
      if target is not None:
        row["reached"] = target.reached(row)
      if cell in arrived:
        row |= {name: float(values[s, r]) for name, values in final.items()}
      rows[cell].append(row)
  done |= arrived
