"""All that one training run takes, beside its data and its length.

The fields are the flags of `experiments.train`, under the same names and with
the same defaults, so that a run of a sweep can be told, stored and repeated as
a command line.
"""

import dataclasses
import difflib
import functools
import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from mnist_jax import schedules
from mnist_jax.model import mlp, objective
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import batch_sizes
from mnist_jax.schedules.batch_sizes import BatchSchedule, Clock
from mnist_jax.schedules.config import Number
from mnist_jax.training import loop, optimizers

DEFAULT_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Settings:
  """One run; the default is the book's.

  Attributes:
    learning_rate: > 0; `schedule` and the fields after it are those of
      `schedules.ScheduleConfig`.
    batch_size: examples per update, >= 1.
    batch_schedule: batch sizes that change at epochs, as "0:128,20:640"; it
      takes the place of `batch_size`, which stays at its default.
    hidden_sizes, activations: one of each per hidden layer.
    l2: factor of sum(w^2) / 2, >= 0; 0 leaves the penalty out.
    dropout: probability of dropping a hidden unit, in [0, 1).
    momentum: in [0, 1), of optimizers that read it; None for 0.9.
    num_train: training examples used; None for all.
    seed: of weights and dropout, and of the order of examples unless
      `order_seed` is given.

  Raises:
    InputError: a value out of range, or fields that do not go together; it
      names the flag.
  """

  learning_rate: Number = 0.2
  batch_size: int = 128
  hidden_sizes: tuple[int, ...] = (64, 16)
  activations: tuple[mlp.Activation, ...] = ("sigmoid", "tanh")
  initializer: mlp.Initializer = "xavier"
  l2: Number = 0.0
  dropout: Number = 0.0
  optimizer: str = "sgd"
  momentum: Number | None = None
  grad: str = "hand"
  drop_last: bool = False
  num_train: int | None = None
  seed: int = 0
  order_seed: int | None = None
  schedule: str = "fixed"
  gamma: Number | None = None
  decay_rate: Number | None = None
  decay_steps: Number | None = None
  boundaries: tuple[Number, ...] | None = None
  power: Number | None = None
  staircase: bool | None = None
  warmup_steps: Number | None = None
  schedule_unit: str = "updates"
  batch_schedule: str | None = None

  def __post_init__(self) -> None:
    for name in FIELDS:
      object.__setattr__(self, name, as_held(name, getattr(self, name)))
    _check_values(self)
    _check_together(self)
    self.schedule_config()

  @property
  def order(self) -> int:
    """The seed of the order of examples."""
    return self.seed if self.order_seed is None else self.order_seed

  @property
  def batches(self) -> BatchSchedule:
    """The batch size of every epoch."""
    if self.batch_schedule is None:
      return BatchSchedule((0,), (self.batch_size,))
    return batch_sizes.parse(self.batch_schedule)

  def train_config(self) -> loop.TrainConfig:
    """What forces a compile; its batch size is the first epoch's."""
    return loop.TrainConfig(
      sizes=(784, *self.hidden_sizes, 10),
      activations=self.activations,
      initializer=self.initializer,
      optimizer=self.optimizer,
      grad=self.grad,
      dropout_rate=self.dropout,
      batch_size=self.batches.size_at(0),
      drop_last=self.drop_last,
    )

  def hparams(self, dtype: DTypeLike = jnp.float32) -> loop.HParams:
    """What the program takes as data."""
    momentum = DEFAULT_MOMENTUM if self.momentum is None else self.momentum
    return loop.make_hparams(
      self.seed, l2=self.l2 or None, momentum=momentum, dtype=dtype
    )

  def schedule_config(self) -> schedules.ScheduleConfig:
    """The schedule, its settings as given."""
    return schedules.ScheduleConfig(
      policy=self.schedule,
      learning_rate=self.learning_rate,
      gamma=self.gamma,
      decay_rate=self.decay_rate,
      decay_steps=self.decay_steps,
      boundaries=self.boundaries,
      power=self.power,
      staircase=self.staircase,
      warmup_steps=self.warmup_steps,
      unit=self.schedule_unit,
    )

  def clock(self, num_train: int) -> Clock:
    """Where epochs begin, of a training set of that size.

    Raises:
      InputError: a batch larger than the training set.
    """
    largest = max(self.batches.sizes)
    if largest > num_train:
      given = f"--batch_size={largest}:"
      if self.batch_schedule is not None:
        given = f"--batch_schedule={self.batch_schedule}: {largest} is"
      raise InputError(f"{given} more than the {num_train} training examples")
    return self.batches.clock(num_train, self.drop_last)

  def updates_per_epoch(self, num_train: int) -> int:
    """T, of a training set of that size; under a batch schedule the first's.

    Raises:
      InputError: a batch larger than the training set.
    """
    return self.clock(num_train).count(0)

  def learning_rates(
    self, num_train: int, updates: int
  ) -> Float[np.ndarray, " T_run"]:
    """The rate of every update of a run of so many updates, in float32.

    The array is shared between equal calls and cannot be written to. Epochs of
    a schedule are those of the data also where the batch size changes.

    Raises:
      InputError: as `schedules.from_config`, a batch larger than the
        training set, or one that comes after the end of the run.
    """
    clock, last = self.clock(num_train), self.batches.starts[-1]
    if last and clock.before(last) >= updates:
      raise InputError(
        f"--batch_schedule={self.batch_schedule}: epoch {last} is never "
        f"reached in {updates} updates, expected an earlier one"
      )
    return _tabulated(self.schedule_config(), clock, updates)

  def flags(self) -> list[str]:
    """The fields that are not at their defaults, as --name=value."""
    return [
      f"--{field.name}={_flag_value(getattr(self, field.name))}"
      for field in dataclasses.fields(self)
      if getattr(self, field.name) != field.default
    ]

  def command(self, module: str, *more: str) -> str:
    """The line for a shell that runs `module` with these settings."""
    return shlex.join(["python", "-m", module, *self.flags(), *more])


@functools.lru_cache(maxsize=256)  # a sweep's seeds have the same table
def _tabulated(
  config: schedules.ScheduleConfig,
  clock: Clock,
  updates: int,
) -> Float[np.ndarray, " T_run"]:
  per_epoch, places, length = clock.table_places(updates)
  if config.unit == "updates":
    places, length = np.arange(updates), updates
  schedule = schedules.from_config(config, per_epoch, length)
  rates = schedules.tabulate(schedule, length)[places]
  rates.flags.writeable = False
  return rates


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


def from_values(values: Mapping[str, Any]) -> Settings:
  """Settings from flag values, as parsed or as a run recorded them.

  Values that are no settings (workdir, ...) are passed over.

  Raises:
    InputError: as `Settings`, or a learning rate that is a word, such as
      auto, which only training chooses by itself.
  """
  rate = values.get("learning_rate")
  if isinstance(rate, str):
    raise InputError(f"--learning_rate={rate}: expected a number here")
  known = {name: values[name] for name in FIELDS if name in values}
  if "hidden_sizes" in known:
    known["hidden_sizes"] = tuple(map(int, known["hidden_sizes"]))
  if "activations" in known:
    known["activations"] = tuple(known["activations"])
  if known.get("boundaries") is not None:
    known["boundaries"] = tuple(map(float, known["boundaries"]))
  return Settings(**known)


def require_known(names: Iterable[str]) -> None:
  """Raises InputError for a name that is no field, with the nearest one."""
  for name in names:
    if name not in FIELDS:
      near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
      hint = f"{near[0]!r}" if near else f"one of {', '.join(FIELDS)}"
      raise InputError(f"unknown setting {name!r}, expected {hint}")


def _flag_value(value: Any) -> str:
  if isinstance(value, tuple):
    return ",".join(map(_flag_value, value))
  if isinstance(value, bool):
    return str(value).lower()
  return repr(value) if isinstance(value, float) else str(value)


TUPLES = ("hidden_sizes", "activations", "boundaries")
_WHOLE = ("batch_size", "num_train", "seed", "order_seed")


def as_held(name: str, given: Any) -> Any:
  """A field's value as `Settings` holds it, from NumPy's numbers and lists."""
  if name in TUPLES and isinstance(given, Iterable):
    if isinstance(given, str):
      return (given,)
    return tuple(as_held("", value) for value in given)
  value = given.item() if hasattr(given, "item") else given
  if name in _WHOLE and isinstance(value, float) and value.is_integer():
    return int(value)
  return value


_RANGES: dict[str, tuple[float, float, str]] = {
  "learning_rate": (5e-324, math.inf, "a finite number > 0"),
  "l2": (0, math.inf, "a finite number >= 0"),
  "dropout": (0, 1, "a number in [0, 1)"),
  "momentum": (0, 1, "a number in [0, 1)"),
  "batch_size": (1, math.inf, "a whole number >= 1"),
  "num_train": (1, math.inf, "a whole number >= 1"),
  "seed": (0, 2**32, "a whole number in [0, 2^32)"),
  "order_seed": (0, 2**32, "a whole number in [0, 2^32)"),
}
_CHOICES: dict[str, tuple[str, ...]] = {
  "initializer": tuple(mlp.INITIALIZERS),
  "optimizer": optimizers.OPTIMIZERS,
  "grad": objective.GRADIENTS,
}


def _check_values(settings: Settings) -> None:
  for name, (low, high, expected) in _RANGES.items():
    value = getattr(settings, name)
    if value is None:
      continue
    number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = number and low <= value < high
    if not inside or ("whole" in expected and value != int(value)):
      raise InputError(f"--{name}={value}: expected {expected}")
  for name, choices in _CHOICES.items():
    if getattr(settings, name) not in choices:
      raise InputError(
        f"--{name}={getattr(settings, name)}: expected one of "
        f"{', '.join(choices)}"
      )
  for size in settings.hidden_sizes:
    if not (isinstance(size, int) and size >= 1):
      raise InputError(f"--hidden_sizes={size}: expected whole numbers > 0")
  for name in settings.activations:
    if name not in mlp.ACTIVATIONS:
      raise InputError(
        f"--activations={name}: expected names of {', '.join(mlp.ACTIVATIONS)}"
      )


def _check_together(settings: Settings) -> None:
  if settings.batch_schedule is not None:
    batch_sizes.parse(settings.batch_schedule)
    if settings.batch_size != Settings.batch_size:
      raise InputError(
        f"--batch_size={settings.batch_size} and "
        f"--batch_schedule={settings.batch_schedule}: expected one of the two"
      )
  hidden, named = len(settings.hidden_sizes), len(settings.activations)
  if hidden != named:
    raise InputError(
      f"--activations names {named} layers, --hidden_sizes {hidden}: expected "
      "one activation for each hidden layer"
    )
  kind = settings.optimizer
  if settings.momentum is not None and kind not in optimizers.USES_MOMENTUM:
    raise InputError(
      f"--momentum is given, but --optimizer={kind} does not read it: "
      f"expected one of {', '.join(optimizers.USES_MOMENTUM)}"
    )
