"""A training run in a directory: recorded, checkpointed, continued.

A run that was stopped at any moment and goes on here ends as the run that was
never stopped, bit for bit, with the same rows.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mnist_jax import data, schedules
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import (
  checkpoint,
  events,
  gradient_checks,
  loop,
  run_directory,
  settings,
)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """What a run is, beside its data."""

  config: loop.TrainConfig
  hparams: loop.HParams
  learning_rates: Float[np.ndarray, " T_run"]  # float32, one per update
  seed: int  # of the weights
  epochs: int
  patience: int | None = None  # epochs without a better dev loss, then stop
  checkpoint_every: int = 1  # epochs
  check_gradients_every: int | None = None  # updates
  order_seed: int | None = None  # of the order of examples; None for `seed`
  batches: schedules.BatchSchedule | None = None  # for the config's size

  @property
  def order(self) -> int:
    """The seed of the order of examples."""
    return self.seed if self.order_seed is None else self.order_seed

  def config_at(self, epoch: int) -> loop.TrainConfig:
    """With the batch size of that epoch (the first is 0)."""
    if self.batches is None:
      return self.config
    size = self.batches.size_at(epoch)
    return dataclasses.replace(self.config, batch_size=size)


class Best(NamedTuple):
  """The epoch of the lowest dev loss so far, and its weights."""

  epoch: Int[Array, ""]
  dev_loss: Float[Array, ""]
  params: mlp.Params


class Outcome(NamedTuple):
  """What a run came to.

  Attributes:
    params: of the best epoch under patience, else of the last.
    epoch: the one that they are of.
    epochs: trained in all.
    ended: "epochs", "patience" or "stopped" (asked to; it can go on).
    wall_seconds: over all sessions of the run, data loading left out.
  """

  params: mlp.Params
  epoch: int
  epochs: int
  ended: str
  wall_seconds: float


class _Progressed(NamedTuple):
  state: loop.TrainState
  best: Best | None
  epoch: int
  seconds: float


def _tree(state: loop.TrainState, best: Best | None) -> dict[str, Any]:
  return {"state": state} if best is None else {"state": state, "best": best}


def _first_best(state: loop.TrainState) -> Best:
  params = jax.tree.map(jnp.copy, state.params)
  return Best(jnp.int32(0), jnp.float32(np.inf), params)


def _rates_digest(rates: Float[np.ndarray, " T"]) -> str:
  return hashlib.sha256(np.ascontiguousarray(rates).tobytes()).hexdigest()


def _restore(
  spec: RunSpec, run: run_directory.RunDirectory, saver: checkpoint.Checkpointer
) -> tuple[_Progressed | None, tuple[tuple[int, str], ...]]:
  """Where the run stands, or None for a new one; and what was damaged."""
  state = loop.init_state(spec.config, spec.seed)
  best = _first_best(state) if spec.patience else None
  restored = saver.restore_newest(_tree(state, best))
  if restored is None:
    run.truncate_rows(-1)
    return None, ()
  step = restored.step
  if restored.meta["rates_sha256"] != _rates_digest(spec.learning_rates[:step]):
    raise InputError(
      f"{run.path}: its first {step} updates had other learning rates than "
      f"these flags give; with this --schedule, --epochs cannot change"
    )
  epoch = restored.meta["epoch"]
  if epoch > spec.epochs:
    raise InputError(
      f"--epochs={spec.epochs}: {run.path} has trained {epoch} epochs already, "
      f"expected at least {epoch}"
    )
  run.truncate_rows(epoch)
  tree = restored.tree
  progressed = _Progressed(
    tree["state"], tree.get("best"), epoch, restored.meta["wall_seconds"]
  )
  return progressed, restored.rejected


def _better(best: Best, row: Row, params: mlp.Params) -> Best:
  if not row["dev_loss"] < float(best.dev_loss):
    return best
  copied = jax.tree.map(jnp.copy, params)
  return Best(jnp.int32(row["epoch"]), jnp.float32(row["dev_loss"]), copied)


def _out_of_patience(spec: RunSpec, best: Best | None, epoch: int) -> bool:
  return (
    best is not None
    and spec.patience is not None
    and epoch - int(best.epoch) >= spec.patience
  )


def _scalars(row: Row) -> dict[str, Any]:
  """The row as TensorBoard groups it: train/loss, dev/loss, learning_rate."""
  return {
    name.replace("_", "/", 1)
    if name.startswith(("train_", "dev_"))
    else name: value
    for name, value in row.items()
    if name not in ("step", "gradient_checks")
  }


def _gradient_checks(
  spec: RunSpec, dataset: data.Dataset, state: loop.TrainState, epoch: int
) -> list[Row]:
  """Of the epoch that comes next, from the state before it."""
  if not spec.check_gradients_every or epoch == spec.epochs:
    return []
  config = spec.config_at(epoch)
  plan = loop.plan_epoch(
    config,
    spec.order,
    epoch,
    dataset.train.labels.shape[0],
    spec.learning_rates,
    int(state.step),
  )
  return gradient_checks.check_epoch(
    config,
    state,
    dataset.train,
    plan,
    spec.hparams,
    spec.check_gradients_every,
  )


def run(
  spec: RunSpec,
  dataset: data.Dataset,
  directory: run_directory.RunDirectory,
  *,
  on_row: Callable[[Row], None] = lambda row: None,
  on_resume: Callable[
    [int, tuple[tuple[int, str], ...]], None
  ] = lambda epoch, rejected: None,
  should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
  """Trains to spec.epochs, or goes on from the newest sound checkpoint.

  Args:
    directory: holds the run's rows, events and checkpoints; each row is on
      the disk before the checkpoint of its epoch.
    on_row: called with the row of each epoch trained here.
    on_resume: called once with the epoch gone on from and the checkpoints
      passed over, as (update, reason).
    should_stop: asked after every epoch; True saves and ends.

  Raises:
    InputError: checkpoints all damaged, or of other rates or more epochs.
    loop.NonFiniteError: nothing of the broken epoch is recorded or saved.
  """
  begun = time.monotonic()
  with checkpoint.Checkpointer(directory.checkpoints) as saver:
    resumed, rejected = _restore(spec, directory, saver)
    if resumed:
      on_resume(resumed.epoch, rejected)
      state, best, epoch, before = resumed
    else:
      state = loop.init_state(spec.config, spec.seed)
      best = _first_best(state) if spec.patience else None
      epoch, before = 0, 0.0
    ended = "epochs"
    if resumed and _out_of_patience(spec, best, epoch):
      return _outcome(state, best, epoch, "patience", before)
    dataset = loop.to_device(dataset)
    arrived = loop.epochs(
      spec.config,
      dataset,
      spec.hparams,
      spec.learning_rates,
      state,
      seed=spec.order,
      first=resumed and resumed.epoch,
      last=spec.epochs,
      batch_size_at=spec.batches.size_at if spec.batches else None,
    )
    with events.EventWriter(directory.events, int(state.step) + 1) as writer:
      checks: list[Row] = []
      if resumed:
        checks = _gradient_checks(spec, dataset, state, epoch)
      for row, state in arrived:
        epoch = row["epoch"]
        if spec.check_gradients_every and epoch:
          row["gradient_checks"] = checks
        directory.append_row(row)
        writer.scalars(row["step"], _scalars(row))
        for check in row.get("gradient_checks", ()):
          distance = {"gradient_check/distance": check["distance"]}
          writer.scalars(check["step"], distance)
        best = best and _better(best, row, state.params)
        if _out_of_patience(spec, best, epoch):
          ended = "patience"
        elif epoch < spec.epochs and should_stop():
          ended = "stopped"
        seconds = before + time.monotonic() - begun
        if (
          ended != "epochs"
          or epoch == spec.epochs
          or epoch % spec.checkpoint_every == 0
        ):
          digest = _rates_digest(spec.learning_rates[: row["step"]])
          saver.save(
            row["step"],
            _tree(state, best),
            {"epoch": epoch, "wall_seconds": seconds, "rates_sha256": digest},
          )
        on_row(row)
        if ended != "epochs":
          break
        checks = _gradient_checks(spec, dataset, state, epoch)
  seconds = before + time.monotonic() - begun
  return _outcome(state, best, epoch, ended, seconds)


def _outcome(
  state: loop.TrainState,
  best: Best | None,
  epochs: int,
  ended: str,
  seconds: float,
) -> Outcome:
  if best is None:
    return Outcome(state.params, epochs, epochs, ended, seconds)
  return Outcome(best.params, int(best.epoch), epochs, ended, seconds)


def load_params(
  run: run_directory.Run, config: loop.TrainConfig, patience: int | None
) -> mlp.Params:
  """The weights that the run came to, from its newest sound checkpoint.

  Raises:
    InputError: no checkpoint, or none that is sound and fits the config.
  """
  state = loop.init_state(config, 0)
  target: dict[str, Any] = {"state": {"params": state.params}}
  if patience:
    target = {"best": {"params": state.params}}
  directory = run.path / "checkpoints"
  with checkpoint.Checkpointer(directory) as saver:
    restored = saver.restore_newest(target, partial=True)
  if restored is None:
    raise InputError(f"{directory}: no checkpoint, expected one of the run")
  (part,) = restored.tree.values()
  return part["params"]


def load_model(run_dir: str) -> Callable[[np.ndarray], np.ndarray]:
  """The network of a run: uint8 [N, 784] -> probabilities [N, 10].

  Raises:
    InputError: no run of experiments.train there, or no sound checkpoint.
  """
  run = run_directory.read_run(Path(run_dir))
  values = run.config["flags"]
  config = settings.from_values(values).train_config()
  params = load_params(run, config, values["patience"])

  def predict(images: np.ndarray) -> np.ndarray:
    logits = mlp.apply(params, config.activations, data.to_float(images))
    return np.asarray(jax.nn.softmax(logits, axis=1))

  return predict
