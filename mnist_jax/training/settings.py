"""All that one training run takes, beside its data and its length.

The flags of `experiments.train`, the checks, the columns of a sweep's table and
the keys of its cells are derived from the fields of `Settings`, so that a run
of a sweep can be told, stored and repeated as a command line.
"""

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from mnist_jax import schedules
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import fields
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import batch_sizes
from mnist_jax.schedules.batch_sizes import BatchSchedule, Clock
from mnist_jax.schedules.config import Number
from mnist_jax.training import loop, optimizers

DEFAULT_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Settings(schedules.ScheduleConfig):
  """One run; the default is the book's. The schedule's fields are inherited.

  Attributes:
    hidden_sizes, activations: One of each per hidden layer.
    batch_schedule: It takes the place of `batch_size`, which stays at its
      default.
    clip_norm: The Euclidean norm over all parameters to which a longer
      gradient is scaled down before the optimizer sees it.

  Raises:
    InputError: A value out of range, or fields that do not go together; it
      names the field.
  """

  batch_size: int = fields.setting(128, "examples per update", int, least=1)
  hidden_sizes: tuple[int, ...] = fields.setting(
    (64, 16), "units of each hidden layer", int, many=True, least=1
  )
  activations: tuple[mlp.Activation, ...] = fields.setting(
    ("sigmoid", "tanh"),
    "one per hidden layer",
    str,
    many=True,
    choices=tuple(mlp.ACTIVATIONS),
  )
  initializer: mlp.Initializer = fields.setting(
    "xavier", "of the weights", str, choices=tuple(mlp.INITIALIZERS)
  )
  l2: Number = fields.setting(0.0, "factor of sum(w^2) / 2", least=0)
  dropout: Number = fields.setting(
    0.0, "probability of dropping a hidden unit", least=0, below=1
  )
  optimizer: str = fields.setting(
    "sgd", f"{', '.join(optimizers.OPTIMIZERS)}, or another of optax", str
  )
  momentum: Number | None = fields.setting(
    None, "of momentum and nesterov (default: 0.9)", least=0, below=1
  )
  grad: str = fields.setting(
    "hand",
    "hand-derived backward or jax.grad",
    str,
    choices=objective.GRADIENTS,
  )
  drop_last: bool = fields.setting(
    False, "leave out an epoch's short last batch", bool
  )
  num_train: int | None = fields.setting(
    None, "training examples used (default: all)", int, least=1
  )
  seed: int = fields.setting(
    0, "of weights, order and dropout", int, least=0, below=2**32
  )
  order_seed: int | None = fields.setting(
    None,
    "of the order of examples (default: --seed)",
    int,
    least=0,
    below=2**32,
  )
  batch_schedule: str | None = fields.setting(
    None, "batch sizes from epochs on, as 0:128,20:640", str, newer=True
  )
  clip_norm: Number | None = fields.setting(
    None, "largest norm of a gradient (default: any)", above=0, newer=True
  )
  init_scale: Number = fields.setting(
    1.0, "factor of the initial weights", above=0, newer=True
  )
  optimizer_args: str | None = fields.setting(
    None, "of the optimizer, as weight_decay=0.01,b1=0.8", str, newer=True
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.batch_schedule is not None:
      batch_sizes.parse(self.batch_schedule)
      if self.batch_size != Settings.batch_size:
        raise InputError(
          f"batch_size={self.batch_size} and "
          f"batch_schedule={self.batch_schedule}: expected one of the two"
        )
    sizes, names = self.hidden_sizes, self.activations
    if len(sizes) != len(names):
      raise InputError(
        f"activations={','.join(names)}: expected one for each of the "
        f"{len(sizes)} layers of hidden_sizes={','.join(map(str, sizes))}"
      )
    kind = self.optimizer
    optimizers.check(kind, self.optimizer_args)
    if self.momentum is not None and kind not in optimizers.USES_MOMENTUM:
      raise InputError(
        f"momentum={self.momentum}: not read by optimizer={kind}, expected "
        f"one of {', '.join(optimizers.USES_MOMENTUM)} with it"
      )

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
      init_scale=self.init_scale,
      optimizer=optimizers.kind_of(self.optimizer, self.optimizer_args),
      grad=self.grad,
      dropout_rate=self.dropout,
      batch_size=self.batches.size_at(0),
      drop_last=self.drop_last,
    )

  def traced(self) -> dict[str, Any]:
    """What the program takes as data, as `loop.make_hparams` does.

    None leaves a term out of the program, which is then another program.
    """
    momentum = DEFAULT_MOMENTUM if self.momentum is None else self.momentum
    return {
      "seed": self.seed,
      "l2": self.l2 or None,
      "momentum": momentum,
      "clip_norm": self.clip_norm,
    }

  def hparams(self, dtype: DTypeLike = jnp.float32) -> loop.HParams:
    """The same as arrays."""
    return loop.make_hparams(**self.traced(), dtype=dtype)

  def clock(self, num_train: int) -> Clock:
    """Where epochs begin, of a training set of that size.

    Raises:
      InputError: A batch larger than the training set.
    """
    largest = max(self.batches.sizes)
    if largest > num_train:
      given = f"batch_size={largest}:"
      if self.batch_schedule is not None:
        given = f"batch_schedule={self.batch_schedule}: {largest} is"
      raise InputError(f"{given} more than the {num_train} training examples")
    return self.batches.clock(num_train, self.drop_last)

  def updates_per_epoch(self, num_train: int) -> int:
    """T, as in `clock`; under a batch schedule the first epoch's."""
    return self.clock(num_train).count(0)

  def learning_rates(self, num_train: int, updates: int) -> loop.Rates:
    """The table of this run's rates, by `schedules.learning_rates`.

    Raises:
      InputError: As there, a batch larger than the training set, or one that
        comes after the end of the run.
    """
    clock, last = self.clock(num_train), self.batches.starts[-1]
    if last and clock.before(last) >= updates:
      raise InputError(
        f"batch_schedule={self.batch_schedule}: epoch {last} is never "
        f"reached in {updates} updates, expected an earlier one"
      )
    # Without the rest, for runs with the same rates to share a table.
    names = fields.declared(schedules.ScheduleConfig)
    config = schedules.ScheduleConfig(**{n: getattr(self, n) for n in names})
    return schedules.learning_rates(config, clock, updates)

  def identity(self) -> dict[str, Any]:
    """The fields, equal for settings that mean the same run.

    A default that stands for another value is that value; newer fields are
    left out at their defaults, as in what was filed before they were.
    """
    meant: dict[str, Any] = {"order_seed": self.order}
    if self.optimizer in optimizers.USES_MOMENTUM:
      meant["momentum"] = self.traced()["momentum"]
    if self.batch_schedule is not None:
      meant["batch_schedule"] = str(self.batches)
    if self.optimizer_args is not None:
      meant["optimizer_args"] = optimizers.canonical(self.optimizer_args)
    return {
      name: meant.get(name, getattr(self, name))
      for name, each in FIELDS.items()
      if not (each.newer and getattr(self, name) == each.default)
    }

  def flags(self) -> list[str]:
    """The fields that are not at their defaults, as --name=value."""
    return [
      f"--{name}={each.text(getattr(self, name))}"
      for name, each in FIELDS.items()
      if getattr(self, name) != each.default
    ]

  def command(self, module: str, *more: str) -> str:
    """The line for a shell that runs `module` with these settings."""
    return shlex.join(["python", "-m", module, *self.flags(), *more])


def _place(item: tuple[str, fields.Setting]) -> tuple[bool, ...]:
  """Where commands and tables have it: as those on file, the newer last."""
  name, each = item
  scheduled = name in fields.declared(schedules.ScheduleConfig)
  return each.newer, name != "learning_rate", scheduled


FIELDS = dict(sorted(fields.declared(Settings).items(), key=_place))


def from_values(values: Mapping[str, Any]) -> Settings:
  """Settings from flag values, as parsed or as a run recorded them.

  Values that are no settings (workdir, ...) are passed over.

  Raises:
    InputError: As `Settings`, or a learning rate that is a word, such as
      auto, which only training chooses by itself.
  """
  rate = values.get("learning_rate")
  if isinstance(rate, str):
    raise InputError(f"learning_rate={rate}: expected a number here")
  return Settings(
    **{
      name: each.read(values[name])
      for name, each in FIELDS.items()
      if name in values
    }
  )


def require_known(names: Iterable[str]) -> None:
  """Raises InputError for a name that is no field, with the nearest one.

  That is the one with these initials, such as lr, or of similar letters.
  """
  initials = {  # of two fields the first
    "".join(word[0] for word in field.split("_")): field
    for field in reversed(FIELDS)
  }
  for name in names:
    if name not in FIELDS:
      near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
      near = [initials[name]] if name in initials else near
      hint = f"{near[0]!r}" if near else f"one of {', '.join(FIELDS)}"
      raise InputError(f"unknown setting {name!r}, expected {hint}")
