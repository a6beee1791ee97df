"""The flags that experiments share, each defined once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from mnist_jax import data, schedules
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import errors
from mnist_jax.training import optimizers

FLAGS = flags.FLAGS
AUTO = "auto"  # a learning rate that the range test chooses


def _number(
  name: str,
  default: float | None,
  help_line: str,
  *,
  above: float | None = None,
  least: float | None = None,
  below: float | None = None,
) -> None:
  """A float flag in a range; absl's own bounds let NaN and infinity pass."""
  bounds = [
    text
    for bound, text in (
      (above, f"> {above}"),
      (least, f">= {least}"),
      (below, f"< {below}"),
    )
    if bound is not None
  ]

  def inside(value: float | None) -> bool:
    return value is None or (
      math.isfinite(value)
      and (above is None or value > above)
      and (least is None or value >= least)
      and (below is None or value < below)
    )

  flags.DEFINE_float(name, default, help_line)
  expected = f"must be a finite number {' and '.join(bounds)}".strip()
  flags.register_validator(name, inside, expected)


class _RateParser(flags.ArgumentParser):
  """A finite number > 0, or the word auto."""

  syntactic_help = "a number or auto"

  def parse(self, argument: str | float) -> str | float:
    try:
      rate = float(argument)
    except ValueError:
      if argument == AUTO:
        return argument
      raise ValueError("expected a number > 0, or auto") from None
    if not 0 < rate < math.inf:
      raise ValueError("must be a finite number > 0.0, or auto")
    return rate


def _integer(
  name: str,
  default: int | None,
  help_line: str,
  least: int,
  most: int | None = None,
) -> None:
  flags.DEFINE_integer(
    name, default, help_line, lower_bound=least, upper_bound=most
  )


def _choice(
  name: str, default: str | None, choices: Sequence[str], help_line: str
) -> None:
  flags.DEFINE_enum(name, default, list(choices), help_line)


def _names(
  name: str, default: Sequence[str], choices: Sequence[str], help_line: str
) -> None:
  """A comma-separated list of some of the choices."""
  flags.DEFINE_list(name, list(default), help_line)
  flags.register_validator(
    name,
    lambda values: all(value in choices for value in values),
    f"must be names of {', '.join(choices)}, separated by commas",
  )


def _sizes(name: str, default: Sequence[int], help_line: str) -> None:
  """A comma-separated list of positive integers, possibly empty."""
  flags.DEFINE_list(name, [str(size) for size in default], help_line)
  flags.register_validator(
    name,
    lambda values: all(v.isdecimal() and int(v) > 0 for v in values),
    "must be whole numbers > 0, separated by commas",
  )


def _numbers(name: str, help_line: str) -> None:
  """A comma-separated list of numbers."""

  def are_numbers(values: list[str] | None) -> bool:
    try:
      return values is None or all(math.isfinite(float(v)) for v in values)
    except ValueError:
      return False

  flags.DEFINE_list(name, None, help_line)
  flags.register_validator(
    name, are_numbers, "must be numbers separated by commas"
  )


# One line each, in the order in which the help shows them.
_SHARED: dict[str, Callable[[str], None]] = {
  "data_source": lambda n: _choice(
    n, "bundled", ["bundled", "idx", "tfds"], "where the images come from"
  ),
  "data_dir": lambda n: flags.DEFINE_string(
    n, None, "folder of the idx files, or of TFDS"
  ),
  "dataset": lambda n: flags.DEFINE_string(n, "mnist", "TFDS data set"),
  "dev_size": lambda n: _integer(
    n, 5000, "examples kept for development", least=1
  ),
  "split_seed": lambda n: _integer(n, 0, "seed of the train/dev split", 0),
  "num_train": lambda n: _integer(
    n, None, "training examples used (default: all)", least=1
  ),
  "hidden_sizes": lambda n: _sizes(n, (64, 16), "units of each hidden layer"),
  "activations": lambda n: _names(
    n, ("sigmoid", "tanh"), tuple(mlp.ACTIVATIONS), "one per hidden layer"
  ),
  "initializer": lambda n: _choice(
    n, "xavier", tuple(mlp.INITIALIZERS), "of the weights"
  ),
  "l2": lambda n: _number(n, 0.0, "factor of sum(w^2) / 2", least=0),
  "dropout": lambda n: _number(
    n, 0.0, "probability of dropping a hidden unit", least=0, below=1
  ),
  "optimizer": lambda n: _choice(n, "sgd", optimizers.OPTIMIZERS, "update"),
  "learning_rate": lambda n: _number(n, 0.2, "step size", above=0),
  "momentum": lambda n: _number(
    n, None, "of momentum and nesterov (default: 0.9)", least=0, below=1
  ),
  "batch_size": lambda n: _integer(n, 128, "examples per update", least=1),
  "batch_schedule": lambda n: flags.DEFINE_string(
    n, None, "instead of it, sizes from epochs on, as 0:128,20:640"
  ),
  "drop_last": lambda n: flags.DEFINE_boolean(
    n, False, "leave out an epoch's short last batch"
  ),
  "epochs": lambda n: _integer(n, 40, "passes over the training set", least=1),
  "grad": lambda n: _choice(
    n, "hand", objective.GRADIENTS, "hand-derived backward or jax.grad"
  ),
  "patience": lambda n: _integer(
    n, None, "stop after so many epochs without a better dev loss", least=1
  ),
  "check_gradients_every": lambda n: _integer(
    n, None, "updates between gradient checks (default: none)", least=1
  ),
  "seed": lambda n: _integer(
    n, 0, "of weights, order and dropout", least=0, most=2**32 - 1
  ),
  "order_seed": lambda n: _integer(
    n, None, "of the order of examples (default: --seed)", 0, most=2**32 - 1
  ),
  "schedule": lambda n: _choice(n, "fixed", schedules.POLICIES, "rate policy"),
  "gamma": lambda n: _number(n, None, "factor of step, multistep, exp, inv"),
  "decay_rate": lambda n: _number(n, None, "factor of exponential_decay"),
  "decay_steps": lambda n: _number(n, None, "period of a decay, or its end"),
  "boundaries": lambda n: _numbers(n, "where multistep drops, as 4000,8000"),
  "power": lambda n: _number(n, None, "exponent of inv and poly"),
  "staircase": lambda n: flags.DEFINE_boolean(
    n, None, "exponential_decay by whole periods"
  ),
  "warmup_steps": lambda n: _number(n, None, "linear rise to the rate"),
  "schedule_unit": lambda n: _choice(
    n, "updates", ("updates", "epochs"), "of the settings above"
  ),
  "preset": lambda n: _choice(
    n, "quick", ("quick", "full"), "under a minute, or the verdict"
  ),
  "workdir": lambda n: flags.DEFINE_string(
    n, None, "run directory (default: in runs/EXPERIMENT)"
  ),
  "overwrite": lambda n: flags.DEFINE_boolean(
    n, False, "replace another run in --workdir"
  ),
  "checkpoint_every": lambda n: _integer(
    n, 1, "epochs between checkpoints", least=1
  ),
}
SCHEDULE_FLAGS = (
  "schedule",
  "gamma",
  "decay_rate",
  "decay_steps",
  "boundaries",
  "power",
  "staircase",
  "warmup_steps",
  "schedule_unit",
)
DATA_FLAGS = (
  "data_source",
  "data_dir",
  "dataset",
  "dev_size",
  "split_seed",
  "num_train",
)
_used: list[str] = []
_listed: list[str] = []  # in the help, beside the shared ones


def use(*names: str) -> None:
  """Gives the calling experiment these shared flags.

  An experiment takes only what it reads, so that a flag without effect is an
  error. Two experiments imported together share a flag of the same name.
  """
  for name in names:
    if name not in FLAGS:
      _SHARED[name](name)
      _used.append(name)


def use_rate_or_auto() -> None:
  """Like `use("learning_rate")`, but the flag may also be the word auto."""
  if "learning_rate" not in FLAGS:
    flags.DEFINE(
      _RateParser(),
      "learning_rate",
      0.2,
      "step size, or auto: by a range test",
      serializer=flags.ArgumentSerializer(),
    )
    _used.append("learning_rate")


def data_flags() -> list[str]:
  """The data flags that are not at their defaults, as --name=value."""
  given = [FLAGS[name] for name in DATA_FLAGS]
  return [f"--{f.name}={f.value}" for f in given if f.value != f.default]


def shown() -> list[str]:
  """The names that the help of an experiment lists after its own flags."""
  return [*_listed, *_used]


def list_in_help(name: str) -> None:
  """Shows a flag that another module than the experiment's own defined."""
  _listed.append(name)


def load_dataset(*, take: bool = True) -> data.Dataset:
  """The data set that the data flags ask for.

  Args:
    take: cut the training set to --num_train; a sweep's cells do so
      themselves.

  Raises:
    InputError: from the loaders.
  """
  dataset = data.load(
    FLAGS.data_source,
    data_dir=FLAGS.data_dir,
    dataset=FLAGS.dataset,
    dev_size=FLAGS.dev_size,
    split_seed=FLAGS.split_seed,
  )
  if take and FLAGS.num_train is not None:
    dataset = data.take(dataset, FLAGS.num_train)
  return dataset


Values = Mapping[str, Any]


def flag_values(*, without: Sequence[str] = ()) -> dict[str, Any]:
  """The shared flags in use, by name, as they were given or defaulted.

  Raises:
    InputError: two flags that exclude each other.
  """
  values = {name: FLAGS[name].value for name in _used if name not in without}
  if values.get("batch_schedule") is None:  # as in runs from before it was
    values.pop("batch_schedule", None)
  elif FLAGS["batch_size"].present:
    raise errors.InputError(
      f"--batch_size={FLAGS.batch_size} and "
      f"--batch_schedule={FLAGS.batch_schedule}: expected one of the two"
    )
  return values
