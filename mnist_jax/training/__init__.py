"""Training runs: their settings, the loop, records and checkpoints.

Start with

  from mnist_jax import training
  book = training.Settings()  # the book's run
  state = training.init_state(book.train_config(), seed=0)
"""

from mnist_jax.training.loop import (
  HParams,
  NonFiniteError,
  TrainConfig,
  TrainState,
  epochs,
  evaluate,
  init_state,
  make_hparams,
  params_at,
  to_device,
  train_epoch,
  train_step,
)
from mnist_jax.training.run_directory import read_run
from mnist_jax.training.runner import load_model, run
from mnist_jax.training.settings import Settings

__all__ = [
  "HParams",
  "NonFiniteError",
  "Settings",
  "TrainConfig",
  "TrainState",
  "epochs",
  "evaluate",
  "init_state",
  "load_model",
  "make_hparams",
  "params_at",
  "read_run",
  "run",
  "to_device",
  "train_epoch",
  "train_step",
]
