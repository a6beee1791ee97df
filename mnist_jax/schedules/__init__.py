"""Learning rates and batch sizes along a run (section 12.4).

Start with

  from mnist_jax import schedules
  rates = schedules.tabulate(schedules.step(0.2, 0.5, 500), 2000)  # [T]
"""

from mnist_jax.schedules.batch_sizes import BatchSchedule
from mnist_jax.schedules.catalogue import POLICIES, Policy
from mnist_jax.schedules.config import ScheduleConfig, learning_rates
from mnist_jax.schedules.policies import (
  Schedule,
  cosine,
  exp,
  exponential_decay,
  fixed,
  inv,
  join,
  multistep,
  poly,
  step,
  tabulate,
  with_warmup,
  wsd,
)

__all__ = [
  "POLICIES",
  "BatchSchedule",
  "Policy",
  "Schedule",
  "ScheduleConfig",
  "cosine",
  "exp",
  "exponential_decay",
  "fixed",
  "inv",
  "join",
  "learning_rates",
  "multistep",
  "poly",
  "step",
  "tabulate",
  "with_warmup",
  "wsd",
]
