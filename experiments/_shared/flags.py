"""The flags that experiments share, each declared once.

Those of a run are the fields of `training.Settings` and `runner.Options`: a
field that is added there is a flag here.
"""

import math
import os
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from mnist_jax import data, schedules
from mnist_jax.runtime import errors, fields
from mnist_jax.runtime.fields import Setting
from mnist_jax.training import runner, settings

FLAGS = flags.FLAGS
AUTO = "auto"  # a learning rate that the range test chooses

_DATA = {
  "data_source": Setting(
    "bundled",
    "where the images come from",
    str,
    choices=("bundled", "idx", "tfds"),
  ),
  "data_dir": Setting(None, "folder of the idx files, or of TFDS", str),
  "dataset": Setting("mnist", "TFDS data set", str),
  "dev_size": Setting(5000, "examples kept for development", int, least=1),
  "split_seed": Setting(0, "seed of the train/dev split", int, least=0),
}
_SHARED = {
  **settings.FIELDS,
  **fields.declared(runner.Options),
  **_DATA,
  "preset": Setting(
    "quick",
    "under a minute, or the verdict",
    str,
    choices=("quick", "full"),
  ),
  "workdir": Setting(None, "run directory (default: in runs/EXPERIMENT)", str),
  "overwrite": Setting(False, "replace another run in --workdir", bool),
  "scheduler": Setting(
    None, "address of a Dask scheduler, whose workers run the sweeps", str
  ),
  "known_runs": Setting(
    None, "folder of other sweeps, whose runs are not made again", str
  ),
  "mixed": Setting(False, "let its workers round differently", bool),
}
SCHEDULE_FLAGS = tuple(
  name
  for name in settings.FIELDS
  if name in fields.declared(schedules.ScheduleConfig)
  and name != "learning_rate"
)
DATA_FLAGS = (*_DATA, "num_train")
CLUSTER_FLAGS = ("scheduler", "mixed")
_PATHS = ("data_dir", "known_runs", "workdir")
_VALUE = r"""(?:[-+.\d'"(\[]|nan|inf|None)"""  # how one begins in a message
_used: list[str] = []
_listed: list[str] = []  # in the help, beside the shared ones


def _define(name: str, setting: Setting) -> None:
  """The flag of a setting; the value of a tuple is a list of texts."""
  default, text = setting.default, setting.help
  if setting.many:
    texts = default and [str(item) for item in default]
    flags.DEFINE_list(name, texts, text)
  elif setting.choices:
    flags.DEFINE_enum(name, default, list(setting.choices), text)
  elif setting.kind is float:
    flags.DEFINE_float(name, default, text)
  elif setting.kind is int:
    flags.DEFINE_integer(name, default, text)
  elif setting.kind is bool:
    flags.DEFINE_boolean(name, default, text)
  elif name in _PATHS:
    _define_path(name, text)
  else:
    flags.DEFINE_string(name, default, text)

  def good(value: Any) -> bool:
    try:
      setting.check(name, setting.read(value))
    except (errors.InputError, ValueError):
      return False
    return True

  commas = ", separated by commas" if setting.many else ""
  flags.register_validator(name, good, f"must be {setting.expected}{commas}")


class _PathParser(flags.ArgumentParser):
  """A path; a shell expands no `~` after the = of a flag."""

  syntactic_help = "a path"

  def parse(self, argument: str) -> str:
    return os.path.expanduser(argument)


def define_path(name: str, text: str) -> None:
  """An experiment's own flag of a file or directory, None if not given."""
  _define_path(name, text)
  list_in_help(name)


def _define_path(name: str, text: str) -> None:
  flags.DEFINE(
    _PathParser(), name, None, text, serializer=flags.ArgumentSerializer()
  )


class _RateParser(flags.ArgumentParser):
  """A learning rate, or the word auto."""

  syntactic_help = "a number or auto"

  def parse(self, argument: str | float) -> str | float:
    if argument == AUTO:
      return AUTO
    rate = _SHARED["learning_rate"]
    try:
      value = float(argument)
    except ValueError:
      value = math.nan
    if not rate.accepts(value):
      raise ValueError(f"must be {rate.expected}, or auto")
    return value


def use(*names: str) -> None:
  """Gives the calling experiment these shared flags.

  An experiment takes only what it reads, so that a flag without effect is an
  error. Two experiments imported together share a flag of the same name.
  """
  for name in names:
    if name not in FLAGS:
      _define(name, _SHARED[name])
      _used.append(name)


def use_rate_or_auto() -> None:
  """Like `use("learning_rate")`, but the flag may also be the word auto."""
  if "learning_rate" not in FLAGS:
    flags.DEFINE(
      _RateParser(),
      "learning_rate",
      _SHARED["learning_rate"].default,
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


def with_dashes(message: str) -> str:
  """A message of the library with parameters named as the flags they are."""
  return re.sub(
    rf"(?<![-\w/.])[a-z]\w*(?=[=:]| is {_VALUE})",
    lambda found: f"--{found[0]}" if found[0] in FLAGS else found[0],
    message,
  )


def asks_for_study(argv: Sequence[str]) -> bool:
  """Whether a command that answers a question is to run its study instead."""
  return any(arg.lstrip("-").startswith("preset") for arg in argv[1:])


def load_dataset(*, take: bool = True) -> data.Dataset:
  """The data set that the data flags ask for.

  Args:
    take: Whether to cut the training set to --num_train; a sweep's cells do so
      themselves.

  Raises:
    InputError: As `data.load` and `data.take`.
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


def flag_values(*, without: Sequence[str] = ()) -> dict[str, Any]:
  """The shared flags in use, by name, as they were given or defaulted.

  Newer settings at their defaults are left out, as in runs from before them.

  Raises:
    InputError: Two flags that exclude each other.
  """
  values = {
    name: FLAGS[name].value
    for name in _used
    if name not in without
    and not (_SHARED[name].newer and FLAGS[name].value == FLAGS[name].default)
  }
  if "batch_schedule" in values and FLAGS["batch_size"].present:
    raise errors.InputError(
      f"batch_size={FLAGS.batch_size} and "
      f"batch_schedule={FLAGS.batch_schedule}: expected one of the two"
    )
  return values
