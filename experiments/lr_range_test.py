"""Finds a learning rate by the range test of section 12.4.

  python -m experiments.lr_range_test
  python -m experiments.lr_range_test --batch_size=32 --loss=dev --seeds=30

Raises the rate after every update and watches the loss, for several seeds at
once; prints what each rule reads off the curves. The run directory gets
range_test.png, range_test.json and curves.csv. 3 to 4 s on two cores.
"""

import contextlib
import csv
import dataclasses
import datetime
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import data
from mnist_jax.range_test import curve as range_curve
from mnist_jax.range_test import recording as range_test
from mnist_jax.range_test import rules
from mnist_jax.runtime import environment, standby
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import run_directory, settings

FLAGS = flags.FLAGS
RUNS = Path("runs/lr_range_test")
_UNCOMPARED = ("workdir", "overwrite", "data_dir")
# A range test has a rate, an order and whole batches of its own.
_NOT_READ = (
  "learning_rate",
  *shared.SCHEDULE_FLAGS,
  "batch_schedule",
  "drop_last",
  "order_seed",
)
_OWN = (
  "rule",
  "loss",
  "seeds",
  "low",
  "high",
  "steps",
  "shape",
  "smoothing",
  "divergence",
)

flags.DEFINE_enum("rule", None, list(rules.RULES), "by --optimizer, or")
flags.DEFINE_enum(
  "loss", "train", list(range_curve.MEASURES), "watched, next batch or dev set"
)
flags.DEFINE_integer("seeds", 10, "runs, from --seed on", lower_bound=1)
flags.DEFINE_float("low", None, "first rate (default: by --optimizer)")
flags.DEFINE_float("high", None, "last rate (default: by --optimizer)")
flags.DEFINE_integer("steps", None, "updates of the ramp (default: 500)")
flags.DEFINE_enum("shape", "exponential", list(range_curve.SHAPES), "of ramp")
flags.DEFINE_float("smoothing", range_curve.SMOOTHING, "of the loss, in [0, 1)")
flags.DEFINE_float(
  "divergence", range_curve.DIVERGENCE_FACTOR, "stop at so often the best loss"
)
shared.use(
  *(name for name in settings.FIELDS if name not in _NOT_READ),
  *shared.DATA_FLAGS,
  "workdir",
  "overwrite",
)


@contextlib.contextmanager
def named(*names: str) -> Iterator[None]:
  """Puts these flags before what the library says of their values."""
  try:
    yield
  except InputError as error:
    given = ", ".join(f"--{name}" for name in names)
    raise InputError(f"{given}: {error}") from None


def ramp() -> range_curve.Ramp:
  """The optimiser's ramp with what the flags change of it.

  Raises:
    InputError: No ramp.
  """
  given = {name: FLAGS[name].value for name in ("low", "high", "steps")}
  with named(*given):
    return dataclasses.replace(
      range_test.default_ramp(FLAGS.optimizer),
      shape=FLAGS.shape,
      **{name: value for name, value in given.items() if value is not None},
    )


def measure(dataset: data.Dataset) -> range_curve.Recording:
  """The test that the flags ask for.

  Raises:
    InputError: flags out of range, or that do not go together.
  """
  asked = settings.from_values(shared.flag_values())
  # Tried on nothing, so that a wrong value costs no wait.
  asked_ramp = ramp()
  range_curve.smooth(np.ones(1), FLAGS.smoothing)
  with named("divergence"):
    range_curve.check_factor(FLAGS.divergence)
  if FLAGS.seed + FLAGS.seeds > 2**32:
    raise InputError(
      f"seeds={FLAGS.seeds} from seed={FLAGS.seed} on: expected the last "
      "one below 2^32"
    )
  return range_test.network(
    asked.train_config(),
    asked.hparams(),
    dataset,
    range(FLAGS.seed, FLAGS.seed + FLAGS.seeds),
    asked_ramp,
    measured_on=FLAGS.loss,
  )


def conclusion(recording: range_curve.Recording) -> standby.Job:
  """What is asked of `range_test.conclusion` about it."""
  rule = FLAGS.rule
  if rule is None:
    rule = range_test.default_rule(FLAGS.optimizer, FLAGS.batch_size)
  sizes = "-".join(map(str, (784, *FLAGS.hidden_sizes, 10)))
  title = f"{sizes}, {FLAGS.optimizer}, batch {FLAGS.batch_size}, "
  title += f"{FLAGS.seeds} seeds"
  return (
    *("conclude", recording, rule),
    *(FLAGS.smoothing, FLAGS.divergence, title),
  )


def points(test: rules.RangeTest) -> bytes:
  """Every update of every seed as CSV; `kept` ends where the seed stopped."""
  recording, noise = test.recording, test.recording.noise
  names = ["seed", "update", "rate", "loss", "kept", "smoothed"]
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(names if noise is None else [*names, "signal", "variance"])
  for i, curve in enumerate(test.curves):
    smoothed = dict(enumerate(curve.smoothed))
    for t, rate in enumerate(recording.rates):
      values = [smoothed.get(t, math.nan)]
      if noise is not None:
        values += [noise[i, 0, t], noise[i, 1, t]]
      kept, loss = t < len(curve.rates), recording.losses[i, t]
      own = (*map(_digits, (rate, loss)), kept, *map(_digits, values))
      table.writerow((recording.seeds[i], t, *own))
  return text.getvalue().encode()


def _digits(value: float) -> str:
  return "" if math.isnan(value) else f"{value:.6g}"


def main(_: list[str]) -> None:
  with standby.Standby("mnist_jax.range_test.conclusion") as ready:
    dataset = shared.load_dataset()
    ((test, picture),) = ready.call([conclusion(measure(dataset))])
  recorded = {
    "flags": {
      **{name: FLAGS[name].value for name in _OWN},
      **shared.flag_values(without=_UNCOMPARED),
    },
    "seed": FLAGS.seed,
    "data_digest": dataset.digest,
    **environment.describe(),
  }
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
  workdir = Path(FLAGS.workdir) if FLAGS.workdir else RUNS / now
  with run_directory.open_run(
    workdir, recorded, overwrite=FLAGS.overwrite
  ) as run:
    run.write_bytes("range_test.png", picture)
    run.write_json("range_test.json", test.to_dict())
    run.write_bytes("curves.csv", points(test))
    print(test)
    print(f"figure  {run.path / 'range_test.png'}")


if __name__ == "__main__":
  app.run(main, __doc__)
