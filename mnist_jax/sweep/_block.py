"""Trains one block of a sweep: a function from its cells to their rows.

`run` goes from one evaluation to the next: `_advance` makes the updates up to
it, `_evaluate` measures every member, and `_rows` writes down what was found.
A `_State` is all that changes on the way, a `_Setup` all that does not.
Shapes: S rows of R members, T updates of the budget.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from mnist_jax import data
from mnist_jax.runtime import devices
from mnist_jax.schedules.batch_sizes import Clock
from mnist_jax.sweep import _program
from mnist_jax.sweep.plan import Block, Budget
from mnist_jax.training import loop
from mnist_jax.training.settings import Settings

Row = dict[str, Any]
Measured = dict[str, Float[np.ndarray, "S R"]]  # by column of the table
OnShare = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class BlockResult:
  """What a block came to."""

  rows: dict[Settings, list[Row]]  # of each cell, one for an evaluation
  epochs: float  # made by each member, the most where they differ
  seconds: float  # of training and evaluating, compiling left in
  cpu_seconds: float  # the processor time of this process meanwhile


@dataclasses.dataclass(frozen=True, eq=False)
class _Setup:
  """What stays the same while a block is trained."""

  block: Block
  mesh: Mesh
  splits: Mapping[str, data.Split]  # on the devices
  programs: _program.Programs
  hparams: loop.HParams
  clock: Clock
  orders: tuple[int, ...]  # the seed of each row's order of examples
  rates: Float[np.ndarray, "S R T"]

  def put(self, arrays: Any) -> Any:
    """The arrays on the devices, rows spread over them."""
    return jax.device_put(arrays, devices.spread(self.mesh))


class _State(NamedTuple):
  """All that changes while a block is trained."""

  members: _program.BlockState
  step: int  # made by members that neither diverged nor are done
  epoch: int = -1  # that `plan` is of; -1 before the first
  plan: _program.BlockPlan | None = None


def _begin(
  block: Block, budget: Budget, splits: Mapping[str, data.Split], mesh: Mesh
) -> tuple[_Setup, _State]:
  some = block.cells[0]
  # A place without a cell trains along with some cell's settings, unseen.
  places = [
    [cell or next((c for c in row if c), some) for cell in row]
    for row in block.rows
  ]

  num_train = len(splits["train"].labels)
  clock = some.clock(num_train)
  total = budget.total(clock)
  programs = _program.programs(block.group.config, mesh)
  traced = [[cell.traced() for cell in row] for row in places]
  members, hparams = programs.init(
    {
      name: np.array(
        [[member[name] for member in row] for row in traced],
        np.uint32 if name == "seed" else np.float32,
      )
      for name in traced[0][0]
      if name not in block.group.left_out
    }
  )
  rates = np.array(
    [[cell.learning_rates(num_train, total) for cell in row] for row in places]
  )
  orders = tuple(row[0].order for row in places)
  setup = _Setup(block, mesh, splits, programs, hparams, clock, orders, rates)
  return setup, _State(members, 0)


def _load_plan(setup: _Setup, epoch: int) -> _program.BlockPlan:
  some, num_train = setup.block.cells[0], len(setup.splits["train"].labels)
  size = some.batches.size_at(epoch)
  batches = {
    order: data.batch_indices(
      data.epoch_order(order, epoch, num_train), size, some.drop_last
    )
    for order in set(setup.orders)
  }
  begin, count = setup.clock.before(epoch), setup.clock.count(epoch)
  rates = setup.rates[:, :, begin : begin + count]
  missing = count - rates.shape[2]  # the budget ends in this epoch
  return _program.BlockPlan(
    *setup.put(
      (
        np.stack([batches[order][0] for order in setup.orders]),
        np.stack([batches[order][1] for order in setup.orders]),
        np.pad(rates, ((0, 0), (0, 0), (0, missing))),
      )
    )
  )


def _make_updates(
  setup: _Setup,
  state: _State,
  to: int,
  stop: Int[np.ndarray, "S #R"],
  on_step: Callable[[int], None] = lambda step: None,
) -> _State:
  """Makes the updates before `to`, of each member those before its `stop`."""
  shape = state.members.diverged.shape
  stops = setup.put(np.broadcast_to(stop, shape).astype(np.int32))
  while state.step < to:
    epoch, first = setup.clock.locate(state.step)
    if epoch != state.epoch:
      state = state._replace(epoch=epoch, plan=_load_plan(setup, epoch))
    last = min(setup.clock.count(epoch), first + to - state.step)
    members = setup.programs.advance(
      state.members,
      setup.splits["train"],
      state.plan,
      setup.hparams,
      stops,
      first,
      last,
    )
    jax.block_until_ready(members.diverged)
    state = state._replace(members=members, step=state.step + last - first)
    on_step(state.step)
  return state


def _advance(
  setup: _Setup,
  origin: _State,
  to: int,
  left: Collection[Settings],
  on_step: Callable[[int], None],
) -> _State:
  """Trains to update `to`; rows without a cell that is left stay."""
  active = [any(cell in left for cell in row) for row in setup.block.rows]
  stop = np.where(np.array(active)[:, None], to, origin.step)
  state = _make_updates(setup, origin, to, stop, on_step)
  diverged, made = jax.device_get(
    (state.members.diverged, state.members.train.step)
  )
  broken = (diverged >= 0) & (made >= diverged)
  return _take_back(setup, origin, state, broken, diverged)


def _take_back(
  setup: _Setup,
  origin: _State,
  state: _State,
  broken: Bool[np.ndarray, "S R"],
  diverged: Int[np.ndarray, "S R"],
) -> _State:
  """Puts broken members back to before the update after which they diverged.

  A loss that is not finite tells of the update before it, which has been
  made by then. Those members alone repeat what led there since the last
  evaluation, `origin`; one that diverged before that stays as it was
  evaluated. Without any, it is the same state that is returned.
  """
  broken = broken & (diverged > origin.step)
  if not broken.any():
    return state
  stop = np.where(broken, diverged - 1, origin.step)
  repeated = _make_updates(setup, origin, state.step, stop)

  def choose(again: np.ndarray, once: np.ndarray) -> np.ndarray:
    axes = tuple(range(broken.ndim, once.ndim))
    return np.where(np.expand_dims(broken, axes), again, once)

  again, once = jax.device_get((repeated.members, state.members))
  again = again._replace(diverged=diverged)
  return state._replace(members=setup.put(jax.tree.map(choose, again, once)))


def _measure(setup: _Setup, state: _State, splits: Sequence[str]) -> Measured:
  """Loss and accuracy of every member."""
  found = {}
  for name in splits:
    loss, accuracy = setup.programs.evaluate(
      state.members.train, setup.splits[name]
    )
    found[f"{name}_loss"] = np.asarray(loss)
    found[f"{name}_accuracy"] = np.asarray(accuracy)
  return found


def _evaluate(
  setup: _Setup, origin: _State, state: _State, splits: Sequence[str]
) -> tuple[_State, Measured]:
  """Measures all members, those taken back whose losses are not finite."""
  found = _measure(setup, state, splits)
  losses = [found[f"{name}_loss"] for name in splits]
  diverged = np.asarray(state.members.diverged)
  broken = (diverged < 0) & ~np.isfinite(losses).all(axis=0)
  now = np.full_like(diverged, state.step)
  kept = _take_back(setup, origin, state, broken, now)
  return kept, found if kept is state else _measure(setup, kept, splits)


def _rows(
  setup: _Setup, state: _State, measured: Measured, since: int
) -> dict[Settings, Row]:
  """A row for each cell; `since` is the step of the evaluation before."""
  diverged = np.asarray(state.members.diverged)
  losses = np.asarray(state.members.loss_sum)
  latest = max(0, state.step - 1)
  shared: Row = {"step": state.step, "epoch": setup.clock.epochs(state.step)}
  batches = setup.block.group.batches
  if batches is not None:  # the setting stands for all else
    shared["batch_size"] = batches.size_at(setup.clock.locate(latest)[0])
  result = {}
  for s, r, cell in setup.block.places():
    broken = int(diverged[s, r])
    made = (broken - 1 if broken >= 0 else state.step) - since
    result[cell] = {
      **shared,
      "rate": float(setup.rates[s, r, latest]),
      "batch_loss": float(losses[s, r]) / made if made > 0 else None,
      **{name: float(values[s, r]) for name, values in measured.items()},
      "diverged_step": broken if broken >= 0 else None,
    }
  return result


def run(
  block: Block,
  budget: Budget,
  splits: Mapping[str, data.Split],
  mesh: Mesh,
  on_share: OnShare = lambda share: None,
) -> BlockResult:
  """Trains the block's cells to the end of the budget, or to its target.

  A cell that diverged keeps its last finite weights; its rows go on, with
  `diverged_step` in them. A cell that reached the target has no row after it.
  What a cell's rows say does not depend on the other cells of the block.

  Args:
    splits: A copy on each device of "train" and of what the budget evaluates.
    on_share: Called at times with the share of the epochs that is made.
  """
  begun, cpu_begun = time.perf_counter(), time.process_time()
  setup, state = _begin(block, budget, splits, mesh)
  clock, target = setup.clock, budget.target
  points = budget.points(clock)
  whole = clock.epochs(points[-1])
  rows: dict[Settings, list[Row]] = {cell: [] for cell in block.cells}
  left = set(rows)
  for point in points:
    zero = setup.put(np.zeros(setup.rates.shape[:2], np.float32))
    origin = state._replace(members=state.members._replace(loss_sum=zero))
    state = _advance(
      setup,
      origin,
      point,
      left,
      lambda step: on_share(clock.epochs(step) / whole),
    )
    state, measured = _evaluate(setup, origin, state, budget.splits)
    found = _rows(setup, state, measured, origin.step)
    ended = left if point == points[-1] else set()
    if target is not None:
      for row in found.values():
        row["reached"] = target.reached(row)
      ended = ended | {cell for cell in left if found[cell]["reached"]}
    final = _measure(setup, state, budget.final_splits if ended else ())
    for s, r, cell in block.places():
      if cell in ended:
        found[cell] |= {name: float(x[s, r]) for name, x in final.items()}
      if cell in left:
        rows[cell].append(found[cell])
    left = left - ended
    if not left:
      break
  return BlockResult(
    rows,
    clock.epochs(state.step),
    time.perf_counter() - begun,
    time.process_time() - cpu_begun,
  )
