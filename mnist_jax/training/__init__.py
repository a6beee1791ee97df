"""Training runs: their settings, the loop, records and checkpoints.

Start with

  from mnist_jax import training
  book = training.Settings()  # the book's run
  state = training.init_state(book.train_config(), seed=0)
"""

from mnist_jax.training.loop import (
  HParams,
  TrainConfig,
  TrainState,
  epochs,
  evaluate,
  init_state,
  train_epoch,
  train_step,
)
from mnist_jax.training.run_directory import read_run
from mnist_jax.training.runner import run
from mnist_jax.training.settings import Settings

__all__ = [
  "HParams",
  "Settings",
  "TrainConfig",
  "TrainState",
  "epochs",
  "evaluate",
  "init_state",
  "read_run",
  "run",
  "train_epoch",
  "train_step",
]
