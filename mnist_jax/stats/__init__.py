"""Effects over seeds with intervals, tests of them, and verdicts.

Start with

  from mnist_jax import stats
  gain = stats.paired_difference(with_it, without, seed=0)  # both [S]
  print(gain.estimate, gain.low, gain.high, gain.n)
"""

from mnist_jax.stats.effects import (
  Effect,
  as_ratio,
  geometric_mean,
  mean_interval,
  median_interval,
  paired_difference,
  paired_log_ratio,
  wilson_interval,
)
from mnist_jax.stats.hypothesis_tests import holm, seeds_to_decide, tost
from mnist_jax.stats.slopes import loglog_slope
from mnist_jax.stats.verdicts import Part, Question, derived, judge

__all__ = [
  "Effect",
  "Part",
  "Question",
  "as_ratio",
  "derived",
  "geometric_mean",
  "holm",
  "judge",
  "loglog_slope",
  "mean_interval",
  "median_interval",
  "paired_difference",
  "paired_log_ratio",
  "seeds_to_decide",
  "tost",
  "wilson_interval",
]
