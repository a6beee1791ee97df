"""Settings as dataclass fields that carry their help, range and choices.

  @dataclasses.dataclass(frozen=True)
  class Regularised:
    l2: float = fields.setting(0.0, "factor of the penalty", least=0)

    def __post_init__(self) -> None:
      fields.settle(self)

Its check, flag, column in a table and text in a command follow from that line.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from mnist_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Setting:
  """What there is to know of a setting; None is allowed where it is default.

  Attributes:
    least, above, below, most: The bounds of a number, `above` and `below` left
      out themselves. A number is always finite.
    newer: Whether records were on file before the setting was: at its default
      it is then left out of keys and records, which so stay the same.
  """

  default: Any
  help: str
  kind: type = float  # or int, bool, str: of the value, or of each of them
  many: bool = False  # a tuple of values
  choices: tuple[str, ...] = ()  # empty for any
  least: int | float = -math.inf
  above: int | float = -math.inf
  below: int | float = math.inf
  most: int | float = math.inf
  newer: bool = False

  @property
  def expected(self) -> str:
    """The values allowed, in words."""
    if self.choices:
      names = ", ".join(self.choices)
      return f"names of {names}" if self.many else f"one of {names}"
    if self.kind in (bool, str):
      return "true or false" if self.kind is bool else "text"
    number = "whole number" if self.kind is int else "finite number"
    number = f"{number}s" if self.many else f"a {number}"
    low, high = max(self.least, self.above), min(self.most, self.below)
    if math.isinf(low):
      return number
    if math.isinf(high):
      return f"{number} {'>' if low == self.above else '>='} {_bound(low)}"
    left = "(" if low == self.above else "["
    right = ")" if high == self.below else "]"
    return f"{number} in {left}{_bound(low)}, {_bound(high)}{right}"

  def accepts(self, value: Any) -> bool:
    """Whether one value, of a tuple each, is in range."""
    if self.kind in (bool, str):
      return isinstance(value, self.kind) and (
        not self.choices or value in self.choices
      )
    types = int if self.kind is int else int | float
    return (
      isinstance(value, types)
      and not isinstance(value, bool)
      and math.isfinite(value)
      and self.least <= value <= self.most
      and self.above < value < self.below
    )

  def check(self, name: str, value: Any) -> None:
    """Raises InputError, which names the setting, for a value out of range."""
    if value is None and self.default is None:
      return
    single = not self.many or not isinstance(value, tuple)
    for each in (value,) if single else value:
      if not self.accepts(each) or single == self.many:
        raise InputError(f"{name}={each}: expected {self.expected}")

  def hold(self, given: Any) -> Any:
    """The value as a frozen dataclass keeps it: no NumPy, no lists."""
    if self.many and isinstance(given, Iterable):
      items = (given,) if isinstance(given, str) else given
      return tuple(self._plain(item) for item in items)
    return self._plain(given)

  def _plain(self, given: Any) -> Any:
    value = given
    if hasattr(given, "item"):
      # Several values, or one that jax traces: for `check` to refuse.
      with contextlib.suppress(TypeError, ValueError):
        value = given.item()
    whole = self.kind is int and isinstance(value, float)
    return int(value) if whole and value.is_integer() else value

  def read(self, given: Any) -> Any:
    """The value from a flag or a record, which hold a tuple as texts.

    Raises:
      ValueError: A text that is no number.
    """
    if self.many and given is not None:
      return tuple(self.kind(item) for item in given)
    return given

  def text(self, value: Any) -> str:
    """The value as a command writes it after --name=."""
    if isinstance(value, tuple):
      return ",".join(map(self.text, value))
    if isinstance(value, bool):
      return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)

  @property
  def dtype(self) -> str:
    """The pandas type of the setting's column, tuples as texts."""
    if self.many or self.kind is str:
      return "string"
    optional = self.default is None
    return {
      float: "float64",
      int: "Int64" if optional else "int64",
      bool: "boolean" if optional else "bool",
    }[self.kind]

  def field(self) -> Any:
    """A dataclass field with this setting's default."""
    return dataclasses.field(default=self.default, metadata={"setting": self})


def setting(*args: Any, **kwargs: Any) -> Any:
  """A dataclass field of the `Setting` with these arguments."""
  return Setting(*args, **kwargs).field()


def declared(kind: type) -> dict[str, Setting]:
  """The settings of a dataclass, by name, bases first."""
  return {f.name: f.metadata["setting"] for f in dataclasses.fields(kind)}


def settle(instance: Any) -> None:
  """Holds and checks every setting of a frozen dataclass; its __post_init__.

  Raises:
    InputError: A value out of range.
  """
  for name, each in declared(type(instance)).items():
    value = each.hold(getattr(instance, name))
    object.__setattr__(instance, name, value)
    each.check(name, value)


def _bound(value: int | float) -> str:
  if isinstance(value, int) and value > 1 << 20 and not value & (value - 1):
    return f"2^{value.bit_length() - 1}"
  return f"{value:.3g}" if isinstance(value, float) else str(value)
