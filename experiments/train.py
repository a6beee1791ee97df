"""Trains a network on MNIST: the book's run unless flags say otherwise.

  python -m experiments.train
  python -m experiments.train --learning_rate=0.5 --schedule=poly --epochs=20
  python -m experiments.train --devices=all

Leaves curves, records and checkpoints in the run directory. The same command
goes on with a run that was stopped. Exit code 3: the loss was not finite; 4: a
process of several was lost (docs/scale.md).
"""

import contextlib
import datetime
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Float

from experiments._shared import app, machines, progress
from experiments._shared import flags as shared
from mnist_jax import data, training
from mnist_jax.runtime import (
  compile_log,
  environment,
  fields,
  hosts,
  standby,
)
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import checkpoint, run_directory, runner, settings

FLAGS = flags.FLAGS
RUNS = Path("runs/train")
# What may differ between two calls of the same run.
_UNCOMPARED = ("workdir", "overwrite", "checkpoint_every", "data_dir")
_OWN = ("workdir", "data_dir")  # what each process may name otherwise

shared.use_rate_or_auto()
shared.use(
  *settings.FIELDS,
  *fields.declared(runner.Options),
  *shared.DATA_FLAGS,
  "workdir",
  "overwrite",
)
machines.use()


def default_workdir(config: dict[str, Any]) -> Path:
  """The newest unfinished run of this configuration, else a new directory."""
  for path in sorted(RUNS.glob("*/config.json"), reverse=True):
    with contextlib.suppress(InputError):
      run = run_directory.read_run(path.parent)
      if config.items() <= run.config.items() and run.summary is None:
        return path.parent
  return RUNS / f"{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"[:-3]


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT, so that the epoch at work is still saved.

  A second signal acts as usual.
  """
  caught: list[int] = []
  before: dict[int, Any] = {}

  def catch(number: int, _: object) -> None:
    caught.append(number)
    signal.signal(number, before[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    before[number] = signal.signal(number, catch)
  try:
    yield caught
  finally:
    for caught_by, handler in before.items():
      signal.signal(caught_by, handler)


def draw(
  figures: standby.Standby,
  run: run_directory.RunDirectory,
  outcome: runner.Outcome,
  test: dict[str, float],
  split: data.Split,
  probabilities: Float[np.ndarray, "N C"],
) -> None:
  """The run's figures, and its confusion matrix as numbers."""
  images, labels = map(np.asarray, split)
  predictions, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
  pairs = np.bincount(10 * labels + predictions, minlength=100)
  counts, weights = pairs.reshape(10, 10), np.asarray(outcome.params[0].w)
  wanted: dict[str, tuple[Any, ...]] = {
    "curves": (("png", "svg"), run.rows(), test, outcome.epoch),
    "first_layer": (("png",), weights),
    "mistakes": (("png",), images, labels, predictions, sure),
    "confusion": (("png",), counts),
  }
  drawn = figures.call([("rendered", name, *of) for name, of in wanted.items()])
  for (name, (forms, *_)), files in zip(wanted.items(), drawn, strict=True):
    for form, content in zip(forms, files, strict=True):
      run.write_bytes(f"{name}.{form}", content)
  run.write_json("confusion.json", counts.tolist())


def finish(
  figures: standby.Standby,
  run: run_directory.RunDirectory,
  chosen: training.Settings,
  split: data.Split,
  outcome: runner.Outcome,
  compiled: compile_log.CompileLog,
) -> dict[str, Any]:
  """Reads the test set, once, and writes figures and summary."""
  config = chosen.train_config()
  result = training.evaluate(config.activations, outcome.params, split)
  accuracy, loss = float(result.accuracy), float(result.loss)
  test = {"test_accuracy": accuracy, "test_loss": loss}
  found = runner.probabilities(config, outcome.params, split.images)
  draw(figures, run, outcome, test, split, found)
  row = next(r for r in run.rows() if r["epoch"] == outcome.epoch)
  summary = {
    **test,
    **{name: row[name] for name in row if name.startswith(("train", "dev"))},
    "epoch": outcome.epoch,
    "epochs": outcome.epochs,
    "epochs_asked": FLAGS.epochs,
    "steps": run.rows()[-1]["step"],
    "ended": outcome.ended,
    "wall_seconds": outcome.wall_seconds,
    "compile_seconds": compiled.seconds,
    "params_sha256": checkpoint.tree_digest(outcome.params),
  }
  run.write_json("summary.json", summary)
  return summary


def report(path: Path, summary: dict[str, Any]) -> None:
  """Prints the results and where everything is."""
  print(
    f"test accuracy {summary['test_accuracy']:.4f}, "
    f"test loss {summary['test_loss']:.4f}\n"
    f"dev accuracy {summary['dev_accuracy']:.4f}, "
    f"dev loss {summary['dev_loss']:.4f}, after epoch {summary['epoch']}\n"
    f"{summary['epochs']} epochs in {summary['wall_seconds']:.1f} s\n"
    f"curves       {path / 'curves.png'}\n"
    f"records      {path / 'metrics.jsonl'}, {path / 'summary.json'}\n"
    f"checkpoints  {path / 'checkpoints'}"
  )


def options() -> runner.Options:
  """The length of the run, and what it does on the way, from the flags."""
  names = fields.declared(runner.Options)
  return runner.Options(**{name: FLAGS[name].value for name in names})


def fit(
  chosen: training.Settings,
  rates: Float[np.ndarray, " T_run"],
  dataset: data.Dataset,
  run: run_directory.RunDirectory,
  on: Mesh | None,
  stops: list[int],
) -> runner.Outcome:
  """`runner.run` with its progress shown; a broken loss ends the program."""
  quiet = not hosts.is_first()
  shown = progress.EpochProgress(FLAGS.epochs, len(dataset.train.labels))

  def resumed(epoch: int, rejected: tuple[tuple[int, str], ...]) -> None:
    for step, reason in () if quiet else rejected:
      where = run.checkpoints / str(step)
      print(f"passed over checkpoint {where}: {reason}", file=sys.stderr)
    if not quiet:
      print(f"{run.path}: goes on after epoch {epoch}", file=sys.stderr)
    shown.resume(epoch)

  try:
    return runner.run(
      chosen,
      rates,
      dataset,
      run,
      options(),
      mesh=on,
      on_row=(lambda row: None) if quiet else shown.show,
      on_resume=resumed,
      should_stop=lambda: hosts.any_of(bool(stops)),
    )
  except training.NonFiniteError as error:
    last = run.checkpoints / str(max(checkpoint.steps(run.checkpoints)))
    app.fail(f"{error}; the last good checkpoint is {last}", 3)
  finally:
    shown.close()


def complete(
  run: run_directory.RunDirectory,
  chosen: training.Settings,
  rates: Float[np.ndarray, " T_run"],
  dataset: data.Dataset,
  on: Mesh | None,
  figures: standby.Standby,
) -> dict[str, Any]:
  """Trains to the end; the first process alone evaluates and draws it."""
  with compile_log.watch() as compiled, stop_requests() as stops:
    outcome = fit(chosen, rates, dataset, run, on, stops)
    if outcome.ended == "stopped":
      number = stops[0] if stops else signal.SIGTERM  # in another process
      name = signal.Signals(number).name
      app.fail(
        f"stopped by {name} after epoch {outcome.epochs}, which is saved; "
        f"to go on: the same command with --workdir={run.path}",
        128 + number,
      )
    if not hosts.is_first():
      return {}
    return finish(figures, run, chosen, dataset.test, outcome, compiled)


def choose_rate(dataset: data.Dataset) -> tuple[float, str]:
  """What the range test says for these flags, and why.

  Raises:
    InputError: it has no suggestion.
  """
  from mnist_jax import range_test  # here, as few runs ask for it

  rough = settings.from_values(shared.flag_values() | {"learning_rate": 1.0})
  rate, reason = range_test.choose(
    rough.train_config(),
    rough.hparams(),
    dataset,
    rough.seed,
    order_seed=rough.order_seed,
  )
  if rate is None:
    raise InputError(f"learning_rate=auto: {reason}; expected a number")
  rate, reason = json.loads(hosts.from_first(json.dumps([rate, reason])))
  if hosts.is_first():
    print(f"learning rate {rate:g}: {reason}", file=sys.stderr)
  return rate, reason


def main(_: list[str]) -> None:
  values = shared.flag_values()
  # Begun before the data are read, which keeps only one core busy, and so in
  # vain by those processes that a cluster numbers and are not the first.
  at_once = 0 if FLAGS.process_id else 2
  with standby.Standby("mnist_jax.plotting.run", at_once) as figures:
    dataset = shared.load_dataset()
    alike = {k: v for k, v in values.items() if k not in _OWN}
    with machines.joined({**alike, "data_digest": dataset.digest}):
      train(values, dataset, figures)


def train(
  values: dict[str, Any], dataset: data.Dataset, figures: standby.Standby
) -> None:
  """The run with these flags; the first process alone ends and reports it."""
  on, why = machines.mesh(), {}
  if values["learning_rate"] == shared.AUTO:
    values["learning_rate"], reason = choose_rate(dataset)
    why = {"learning_rate_chosen": reason}
  chosen = settings.from_values(values)
  count = len(dataset.train.labels)
  updates = chosen.clock(count).before(FLAGS.epochs)
  rates = chosen.learning_rates(count, updates)
  identity = {
    "flags": {k: v for k, v in values.items() if k not in _UNCOMPARED},
    "seed": FLAGS.seed,
    "data_digest": dataset.digest,
    **why,
  }
  workdir = Path(
    FLAGS.workdir or hosts.from_first(str(default_workdir(identity)))
  )
  recorded = {**identity, **environment.describe()}
  if on is not None:
    recorded["device"]["used"] = on.size
  with run_directory.open_run(
    workdir, recorded, overwrite=FLAGS.overwrite
  ) as run:
    summary = run_directory.read_run(workdir).summary
    if summary is None or summary["epochs_asked"] != FLAGS.epochs:
      summary = complete(run, chosen, rates, dataset, on, figures)
    if hosts.is_first():
      report(run.path, summary)


if __name__ == "__main__":
  app.run(main, __doc__)
