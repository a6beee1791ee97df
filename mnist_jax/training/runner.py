"""A training run in a directory: recorded, checkpointed, continued.

A run that was stopped at any moment and goes on here ends as the run that was
never stopped, bit for bit, with the same rows.
"""

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.runtime import fields
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import (
  ahead,
  checkpoint,
  devices,
  events,
  loop,
  run_directory,
)
from mnist_jax.training.settings import Settings, from_values

Row = dict[str, Any]
# The epoch gone on from, and the checkpoints passed over: (update, reason).
OnResume = Callable[[int, tuple[tuple[int, str], ...]], None]


@dataclasses.dataclass(frozen=True)
class Options:
  """How long a run goes on, and what it does on the way.

  Raises:
    InputError: A value out of range.
  """

  epochs: int = fields.setting(40, "passes over the training set", int, least=1)
  patience: int | None = fields.setting(
    None, "stop after so many epochs without a better dev loss", int, least=1
  )
  check_gradients_every: int | None = fields.setting(
    None, "updates between gradient checks (default: none)", int, least=1
  )
  checkpoint_every: int = fields.setting(
    1, "epochs between checkpoints", int, least=1
  )

  def __post_init__(self) -> None:
    fields.settle(self)


class Best(NamedTuple):
  """The epoch of the lowest dev loss so far, and its weights."""

  epoch: Int[np.ndarray, ""]
  dev_loss: Float[np.ndarray, ""]
  params: mlp.Params


class Outcome(NamedTuple):
  """What a run came to."""

  params: mlp.Params  # of the best epoch under patience, else of the last
  epoch: int  # that they are of
  epochs: int  # trained in all
  ended: str  # "epochs", "patience" or "stopped" (asked to; it can go on)
  wall_seconds: float  # of all sessions of the run, data loading left out


class _Reached(NamedTuple):
  state: loop.TrainState
  best: Best | None  # None without patience
  epoch: int
  seconds: float

  @property
  def tree(self) -> dict[str, Any]:
    """What a checkpoint holds; None has no leaves in it."""
    return {"state": self.state, "best": self.best}

  def outcome(self, config: loop.TrainConfig, ended: str) -> Outcome:
    params, epoch = loop.evaluation_params(config, self.state), self.epoch
    if self.best is not None:
      params, epoch = self.best.params, int(self.best.epoch)
    return Outcome(params, epoch, self.epoch, ended, self.seconds)


def _best(epoch: int, dev_loss: float, params: mlp.Params) -> Best:
  """With a copy of the weights, which training may consume.

  By NumPy, as a copy by JAX would wait for the epoch that is begun ahead.
  """
  copied = jax.tree.map(np.array, params)
  return Best(np.array(epoch, np.int32), np.array(dev_loss, np.float32), copied)


def _record(
  row: Row, run: run_directory.RunDirectory, writer: events.EventWriter
) -> None:
  """Adds the row, and as TensorBoard groups it: train/loss, dev/loss."""
  run.append_row(row)
  scalars = {
    name.replace("_", "/", 1)
    if name.startswith(("train_", "dev_"))
    else name: value
    for name, value in row.items()
    if name not in ("step", "gradient_checks")
  }
  writer.scalars(row["step"], scalars)
  for check in row.get("gradient_checks", ()):
    distance = {"gradient_check/distance": check["distance"]}
    writer.scalars(check["step"], distance)


@dataclasses.dataclass(frozen=True)
class _Session:
  """A run while this process trains it."""

  settings: Settings
  learning_rates: loop.Rates
  options: Options
  directory: run_directory.RunDirectory
  saver: checkpoint.Checkpointer
  mesh: Mesh | None
  checks: list[Row] = dataclasses.field(default_factory=list)
  # How many rates are hashed, and their SHA-256: a save adds the new ones.
  hashed: list[Any] = dataclasses.field(
    default_factory=lambda: [0, hashlib.sha256()]
  )

  def new(self) -> _Reached:
    """Before the first update."""
    state = loop.init_state(self.settings.train_config(), self.settings.seed)
    best = _best(0, np.inf, state.params) if self.options.patience else None
    return _Reached(state, best, 0, 0.0)

  def restore(self, new: _Reached, on_resume: OnResume) -> _Reached | None:
    """Where the run stands, its later rows dropped; None for a new one."""
    restored = self.saver.restore_newest(new.tree)
    if restored is None:
      self.directory.truncate_rows(-1)
      return None
    path, step = self.directory.path, restored.step
    if restored.meta["rates_sha256"] != self.digest(step):
      raise InputError(
        f"{path}: its first {step} updates had other learning rates than these "
        f"settings give; with schedule={self.settings.schedule} the number of "
        "epochs cannot change"
      )
    epoch = restored.meta["epoch"]
    if epoch > self.options.epochs:
      raise InputError(
        f"epochs={self.options.epochs}: {path} has trained {epoch} epochs "
        f"already, expected at least {epoch}"
      )
    self.directory.truncate_rows(epoch)
    on_resume(epoch, restored.rejected)
    tree, seconds = restored.tree, restored.meta["wall_seconds"]
    return _Reached(**tree, epoch=epoch, seconds=seconds)

  def digest(self, step: int) -> str:
    """SHA-256 over the rates of the updates before `step`.

    That is no earlier one than in the last call.
    """
    seen, digest = self.hashed
    assert step >= seen
    digest.update(self.learning_rates[seen:step].tobytes())
    self.hashed[0] = step
    found: str = digest.hexdigest()
    return found

  def epochs(
    self, at: _Reached, dataset: data.Dataset, resumed: bool
  ) -> Iterator[tuple[Row, loop.TrainState]]:
    """The rest of the run, as `loop.epochs` yields it; consumes the state."""
    settings, train = self.settings, ahead.epochs
    if self.mesh is not None:
      train = functools.partial(devices.epochs, self.mesh)
    changing = settings.batch_schedule is not None
    checked = self.options.check_gradients_every is not None
    # Where it is given no epoch is begun ahead.
    before = {"before": self.check_gradients} if checked else {}
    return train(
      settings.train_config(),
      dataset,
      settings.hparams(),
      self.learning_rates,
      at.state,
      seed=settings.order,
      first=at.epoch if resumed else None,
      last=self.options.epochs,
      batch_size_at=settings.batches.size_at if changing else None,
      **before,
    )

  def check_gradients(self, *epoch: Any) -> None:
    """Notes the checks of the epoch that comes next, from the state before."""
    # Here, as few runs ask for it.
    from mnist_jax.training import gradient_checks

    every = self.options.check_gradients_every
    assert every
    check = functools.partial(gradient_checks.check_epoch, every=every)
    self.checks[:] = check(*epoch)

  def out_of_patience(self, at: _Reached) -> bool:
    """Whether the dev loss has not been better for too long."""
    patience = self.options.patience
    return (
      at.best is not None
      and patience is not None
      and at.epoch - int(at.best.epoch) >= patience
    )

  def save(self, at: _Reached, ended: str) -> None:
    """A checkpoint, if it is time for one."""
    last = at.epoch == self.options.epochs
    due = at.epoch % self.options.checkpoint_every == 0
    if ended != "epochs" or last or due:
      step = int(at.state.step)
      meta = {
        "epoch": at.epoch,
        "wall_seconds": at.seconds,
        "rates_sha256": self.digest(step),
      }
      self.saver.save(step, at.tree, meta)


def run(
  settings: Settings,
  learning_rates: loop.Rates,
  dataset: data.Dataset,
  directory: run_directory.RunDirectory,
  options: Options,
  *,
  mesh: Mesh | None = None,
  on_row: Callable[[Row], None] = lambda row: None,
  on_resume: OnResume = lambda epoch, rejected: None,
  should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
  """Trains to options.epochs, or goes on from the newest sound checkpoint.

  Args:
    learning_rates: The run's table, from `Settings.learning_rates`.
    dataset: The training set is cut to `settings.num_train` already.
    mesh: The devices over which each batch is split (`devices.mesh`), of all
      processes, which all call this; None for one device. A run goes on with
      another number of them.
    directory: Each row is on the disk before the checkpoint of its epoch.
    on_row: Called with the row of each epoch trained here.
    on_resume: Called once, where the run is gone on with.
    should_stop: Asked after every epoch; True saves and ends, and the epoch
      that is begun ahead is lost.

  Raises:
    InputError: Checkpoints all damaged, or of other rates or more epochs.
    loop.NonFiniteError: A loss that is not finite; nothing of the broken epoch
      is recorded or saved.
  """
  begun = time.monotonic()
  with checkpoint.Checkpointer(directory.checkpoints) as saver:
    session = _Session(
      settings, learning_rates, options, directory, saver, mesh
    )
    new = session.new()
    restored = session.restore(new, on_resume)
    resumed, at = restored is not None, restored or new
    config = settings.train_config()
    if resumed and session.out_of_patience(at):
      return at.outcome(config, "patience")
    before, ended = at.seconds, "epochs"
    dataset = loop.to_device(dataset)
    first = int(at.state.step) + 1
    with events.EventWriter(directory.events, first) as writer:
      for row, state in session.epochs(at, dataset, resumed):
        if options.check_gradients_every and row["epoch"]:
          row["gradient_checks"] = [*session.checks]
        _record(row, directory, writer)
        epoch, best = row["epoch"], at.best
        if best is not None and row["dev_loss"] < float(best.dev_loss):
          params = loop.evaluation_params(config, state)
          best = _best(epoch, row["dev_loss"], params)
        seconds = before + time.monotonic() - begun
        at = _Reached(state, best, epoch, seconds)
        if session.out_of_patience(at):
          ended = "patience"
        elif at.epoch < options.epochs and should_stop():
          ended = "stopped"
        session.save(at, ended)
        on_row(row)
        if ended != "epochs":
          break
  seconds = before + time.monotonic() - begun
  return at._replace(seconds=seconds).outcome(config, ended)


def probabilities(
  config: loop.TrainConfig,
  params: mlp.Params,
  images: UInt8[np.ndarray | Array, "N D"],
) -> Float[np.ndarray, "N C"]:
  """Softmax of the network's logits, without dropout."""
  return np.asarray(_probabilities(config.activations, params, images))


@functools.partial(jax.jit, static_argnames="activations")
def _probabilities(
  activations: tuple[mlp.Activation, ...],
  params: mlp.Params,
  images: UInt8[np.ndarray | Array, "N D"],
) -> Float[Array, "N C"]:
  """In one program: a dozen small ones take longer to load than to run."""
  logits = mlp.apply(params, activations, data.to_float(images))
  return jax.nn.softmax(logits, axis=1)


def load_model(
  run_dir: str | os.PathLike[str],
) -> Callable[[np.ndarray], np.ndarray]:
  """The network of a run: uint8 [N, 784] -> probabilities [N, 10].

  Raises:
    InputError: No run of experiments.train there, or no sound checkpoint.
  """
  run = run_directory.read_run(run_dir)
  values = run.config["flags"]
  config = from_values(values).train_config()
  part = "best" if values["patience"] else "state"
  state = loop.init_state(config, 0)
  names = ("params",) if part == "best" else ("params", "opt_state")
  target = {part: {name: getattr(state, name) for name in names}}
  directory = run.path / "checkpoints"
  with checkpoint.Checkpointer(directory) as saver:
    restored = saver.restore_newest(target, partial=True)
  if restored is None:
    raise InputError(f"{directory}: no checkpoint, expected one of the run")
  found = restored.tree[part]
  params = found["params"]
  if part == "state":
    params = loop.evaluation_params(config, state._replace(**found))
  return functools.partial(probabilities, config, params)
