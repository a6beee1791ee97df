"""What a sweep is to do: cells, budgets, and how they become programs.

A cell is the `Settings` of one run. Cells that one compiled program can train
make a group; a group is cut into blocks of rows (see `_program`). All of
it is a function of the cells asked for and the number of devices, so a sweep
that is started again forms the same blocks.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import numbers
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mnist_jax import training
from mnist_jax.runtime import fields
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules.batch_sizes import BatchSchedule, Clock, steady
from mnist_jax.training import settings
from mnist_jax.training.settings import Number, Settings

SPLITS = ("train", "dev", "test")
METRICS = ("loss", "accuracy")
_NUMBER = fields.Setting(None, "")
_HELD = {  # the numbers of a budget, which NumPy's become plain ones in
  "epochs": _NUMBER,
  "updates": fields.Setting(None, "", int),
  "evaluate_every": _NUMBER,
  "evaluate_at": fields.Setting((), "", many=True),
}
_WIDEST_ROW = 16
# What a row costs beside its members, in members' time (measured at batch 128).
_ROW_COST = 0.3


def product(base: Settings | None = None, **axes: Any) -> list[Settings]:
  """Every combination of the values given, the last axis changing fastest.

  Args:
    base: The settings that the cells share; the book's run by default.
    axes: For a field of `Settings`, one value or an iterable of values. A
      tuple or a string is one value where the field holds one.

  Raises:
    InputError: A field is unknown (the nearest is named), an axis has no
      values, or `Settings` refuses one.
  """
  base = base or Settings()
  settings.require_known(axes)
  values = {
    name: _values(name, settings.FIELDS[name], given)
    for name, given in axes.items()
  }
  return [
    dataclasses.replace(base, **dict(zip(values, chosen, strict=True)))
    for chosen in itertools.product(*values.values())
  ]


def _values(name: str, setting: fields.Setting, given: Any) -> list[Any]:
  if isinstance(given, str) or not isinstance(given, Iterable):
    return [setting.hold(given)]
  values = list(given)
  one = isinstance(given, tuple) and not given
  if setting.many and (
    one or any(isinstance(v, str | numbers.Real) for v in values)
  ):
    values = [values]
  if not values:
    raise InputError(f"{name}: found no values, expected at least one")
  return [setting.hold(value) for value in values]


def _is_number(value: Any) -> bool:
  plain = isinstance(value, int | float) and not isinstance(value, bool)
  return plain and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class Target:
  """A goal on the dev set.

  A "dev_loss" is reached at or below its value, a "dev_accuracy" at or above.
  """

  metric: str
  value: Number

  def __post_init__(self) -> None:
    object.__setattr__(self, "value", _NUMBER.hold(self.value))
    if self.metric not in ("dev_loss", "dev_accuracy"):
      raise InputError(
        f"target is on {self.metric!r}, expected dev_loss or dev_accuracy"
      )
    if not _is_number(self.value):
      raise InputError(f"target is {self.value!r}, expected a number")

  def reached(self, row: Mapping[str, Any]) -> bool:
    """Whether a row of the table has it."""
    reaches = operator.le if self.metric == "dev_loss" else operator.ge
    return bool(reaches(row[self.metric], self.value))


@dataclasses.dataclass(frozen=True)
class Budget:
  """How long each cell is trained, and when it is looked at.

  The untrained network (point 0) and the end are always evaluated.

  Raises:
    InputError: There is no length or two, or a value is out of range.
  """

  epochs: Number | None = None  # the length, in one of the two units
  updates: int | None = None
  evaluate_every: Number | None = None  # in that unit, also in fractions of it
  evaluate_at: tuple[Number, ...] = ()  # further points
  splits: tuple[str, ...] = ("dev",)  # what is evaluated: "train" and "dev"
  final_splits: tuple[str, ...] = ()  # at the end beside those, "test" too
  target: Target | None = None  # a cell ends at the first evaluation with it

  def __post_init__(self) -> None:
    for name, kind in _HELD.items():
      object.__setattr__(self, name, kind.hold(getattr(self, name)))
    if (self.epochs is None) == (self.updates is None):
      raise InputError(
        f"found epochs={self.epochs} and updates={self.updates}, expected one "
        "of the two"
      )
    for name in ("epochs", "updates", "evaluate_every"):
      value = getattr(self, name)
      if value is not None and not (_is_number(value) and value > 0):
        raise InputError(f"{name}={value}: expected a number > 0")
    if self.updates is not None and self.updates != int(self.updates):
      raise InputError(f"updates={self.updates}: expected a whole number")
    for point in self.evaluate_at:
      if not (_is_number(point) and 0 <= point <= self.length):
        raise InputError(
          f"evaluate_at={point}: expected a point in the {self.length:g} "
          f"{self.unit} of the budget"
        )
    for name in (*self.splits, *self.final_splits):
      if name not in SPLITS:
        raise InputError(f"split {name!r}: expected one of {', '.join(SPLITS)}")
    if "test" in self.splits:
      raise InputError(
        "splits has 'test': the test set is read once, at the end; expected "
        "it in final_splits"
      )
    if self.target is not None and "dev" not in self.splits:
      raise InputError("a target is on the dev set, expected 'dev' in splits")

  @property
  def unit(self) -> str:
    """ "epochs" or "updates"."""
    return "updates" if self.epochs is None else "epochs"

  @property
  def length(self) -> Number:
    """The length in the unit."""
    length = self.updates if self.epochs is None else self.epochs
    assert length is not None
    return length

  def total(self, clock: Clock | int) -> int:
    """Updates of a cell with that clock, or so many an epoch; at least one."""
    return max(1, self._updates(self.length, clock))

  def points(self, clock: Clock | int) -> list[int]:
    """The updates after which a cell is evaluated, rising; 0 and the last."""
    total = self.total(clock)
    places = list(self.evaluate_at)
    if self.evaluate_every is not None:
      count = math.floor(self.length / self.evaluate_every + 1e-9)
      places += [i * self.evaluate_every for i in range(1, count + 1)]
    found = {self._updates(place, clock) for place in places}
    return sorted({0, total, *(p for p in found if p < total)})

  def _updates(self, place: Number, clock: Clock | int) -> int:
    at = 1 if self.unit == "updates" else clock
    return (at if isinstance(at, Clock) else steady(at)).updates(place)

  def to_dict(self) -> dict[str, Any]:
    """The fields that are not at their defaults, for JSON."""
    defaults = {f.name: f.default for f in dataclasses.fields(self)}
    return {
      name: value
      for name, value in dataclasses.asdict(self).items()
      if getattr(self, name) != defaults[name]
    }


def budget_from_dict(found: Mapping[str, Any]) -> Budget:
  """The budget that `Budget.to_dict` was of.

  Raises:
    InputError: A field is unknown, or `Budget` refuses a value.
  """
  _check_names("budget", found, Budget)
  given: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list) else v for k, v in found.items()
  }
  if given.get("target") is not None:
    _check_names("target", given["target"], Target)
    given["target"] = Target(**{"metric": "", "value": None, **given["target"]})
  return Budget(**given)


def _check_names(what: str, found: Any, kind: type) -> None:
  names = [field.name for field in dataclasses.fields(kind)]
  if not isinstance(found, Mapping):
    raise InputError(f"{what} is {found!r}, expected {{{', '.join(names)}}}")
  for name in found:
    if name not in names:
      raise InputError(
        f"{what} has {name!r}, expected fields of {', '.join(names)}"
      )


def cell_key(cell: Settings, budget: Budget) -> str:
  """What the cell's results are filed under: 16 hex digits.

  Equal for settings that mean the same run: 1 and 1.0, a momentum or an
  `order_seed` that is given or the same by default.
  """
  text = json.dumps([cell.identity(), budget.to_dict()])
  meant = json.loads(text, parse_float=_plain)
  text = json.dumps(meant, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(text: str) -> float | int:
  value = float(text)
  return int(value) if value.is_integer() else value


@dataclasses.dataclass(frozen=True)
class Group:
  """What one compiled program trains."""

  config: training.TrainConfig
  num_train: int | None  # None for all
  left_out: tuple[str, ...] = ()  # traced settings whose terms it has not
  batches: BatchSchedule | None = None  # None for `config`'s size alone

  def __str__(self) -> str:
    sizes = "-".join(map(str, self.config.sizes))
    batch = self.batches or self.config.batch_size
    parts = [f"{sizes} batch {batch}", self.config.optimizer]
    if self.num_train is not None:
      parts.append(f"N {self.num_train}")
    return ", ".join(parts)


def group_of(cell: Settings) -> Group:
  """The group of a cell."""
  batches = cell.batches if cell.batch_schedule is not None else None
  left_out = tuple(k for k, value in cell.traced().items() if value is None)
  return Group(cell.train_config(), cell.num_train, left_out, batches)


@dataclasses.dataclass(frozen=True)
class Block:
  """Members that are trained in one go.

  The cells of a row share their order of examples; a place may have none.
  """

  group: Group
  rows: tuple[tuple[Settings | None, ...], ...]

  @property
  def cells(self) -> tuple[Settings, ...]:
    """All cells, row by row."""
    return tuple(cell for _, _, cell in self.places())

  def places(self) -> Iterator[tuple[int, int, Settings]]:
    """All cells with their places, as (s, r, cell)."""
    for s, row in enumerate(self.rows):
      for r, cell in enumerate(row):
        if cell is not None:
          yield s, r, cell

  def only(self, wanted: Iterable[Settings]) -> "Block":
    """The same block with places for these cells alone."""
    keep = set(wanted)
    rows = tuple(
      tuple(c if c in keep else None for c in row) for row in self.rows
    )
    return Block(self.group, rows)


def check_cells(
  cells: Sequence[Settings], budget: Budget, num_train: int
) -> dict[Settings, str]:
  """The key of each cell, once it is known that all of them can be run.

  Raises:
    InputError: These are no cells or no budget; there is no cell, one cell
      twice, a batch or a `num_train` larger than the training set, or a
      schedule that does not fit the budget.
  """
  expected = "expected a list of sweep.Settings, as sweep.product makes it"
  if not isinstance(cells, Sequence):
    raise InputError(f"cells is a {type(cells).__name__}, {expected}")
  for i, cell in enumerate(cells):
    if not isinstance(cell, Settings):
      raise InputError(f"cells[{i}] is a {type(cell).__name__}, {expected}")
  if not isinstance(budget, Budget):
    raise InputError(f"budget is {budget!r}, expected a sweep.Budget")
  if not cells:
    raise InputError("the grid is empty, expected at least one cell")
  keys = [cell_key(cell, budget) for cell in cells]
  counts = collections.Counter(keys)
  for cell, key in zip(cells, keys, strict=True):
    if counts[key] > 1:
      shown = " ".join(cell.flags()) or "the defaults"
      raise InputError(
        f"the grid has a cell {counts[key]} times ({shown}), expected each once"
      )
    if cell.num_train is not None and cell.num_train > num_train:
      raise InputError(
        f"num_train={cell.num_train}: found {num_train} training examples"
      )
    size = cell.num_train or num_train
    cell.learning_rates(size, budget.total(cell.clock(size)))
  return dict(zip(cells, keys, strict=True))


def blocks(
  cells: Sequence[Settings], devices: int, max_members: int
) -> list[Block]:
  """The cells cut into blocks, in order of their groups' first cells.

  All blocks of a group have the same shape.

  Args:
    devices: How many; a block has a multiple of it as rows.
    max_members: The most of a block on one device, at least 1.
  """
  groups: dict[Group, list[Settings]] = {}
  for cell in cells:
    groups.setdefault(group_of(cell), []).append(cell)
  result = []
  for group, members in groups.items():
    rows = _rows(members, devices, max_members)
    width = len(rows[0])
    most = devices * max(1, max_members // width)
    count = math.ceil(len(rows) / most)
    height = math.ceil(len(rows) / (devices * count)) * devices
    empty: tuple[Settings | None, ...] = (None,) * width
    rows += [empty] * (count * height - len(rows))
    result += [
      Block(group, tuple(rows[i : i + height]))
      for i in range(0, len(rows), height)
    ]
  return result


def _rows(
  members: Sequence[Settings], devices: int, max_members: int
) -> list[tuple[Settings | None, ...]]:
  """Members of the same order side by side, at the least estimated cost."""
  orders: dict[int, list[Settings]] = {}
  for cell in members:
    orders.setdefault(cell.order, []).append(cell)
  sizes = [len(cells) for cells in orders.values()]
  widest = min(_WIDEST_ROW, max_members, max(sizes))

  def cost(width: int) -> tuple[float, int]:
    count = sum(math.ceil(size / width) for size in sizes)
    return math.ceil(count / devices) * (width + _ROW_COST), -width

  width = min(range(1, widest + 1), key=cost)
  rows: list[tuple[Settings | None, ...]] = []
  for cells in orders.values():
    padded = [*cells, *[None] * (-len(cells) % width)]
    rows += [tuple(padded[i : i + width]) for i in range(0, len(padded), width)]
  return rows
