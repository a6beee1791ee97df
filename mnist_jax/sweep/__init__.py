"""Hundreds of training runs as few compiled programs, in one table.

Start with

  from mnist_jax import sweep
  grid = sweep.product(learning_rate=[0.1, 0.2, 0.5], seed=range(10))
  table = sweep.run(grid, sweep.Budget(epochs=5, evaluate_every=1))
  again = sweep.replay(table.iloc[0])  # the rows of that cell, run alone
"""

from mnist_jax.sweep._run import Progress, run
from mnist_jax.sweep.functions import run_function
from mnist_jax.sweep.plan import Budget, Target, cell_key, product
from mnist_jax.sweep.replaying import differences, replay
from mnist_jax.sweep.tables import (
  best_arm,
  curves,
  last_rows,
  require_whole_batches,
)
from mnist_jax.training.settings import Settings

__all__ = [
  "Budget",
  "Progress",
  "Settings",
  "Target",
  "best_arm",
  "cell_key",
  "curves",
  "differences",
  "last_rows",
  "product",
  "replay",
  "require_whole_batches",
  "run",
  "run_function",
]
