"""Effects over seeds with intervals, tests of them, and verdicts.

Start with

  from mnist_jax import stats
  gain = stats.paired_difference(with_it, without, seed=0)  # both [S]
  print(gain.estimate, gain.low, gain.high, gain.n)
"""

from mnist_jax.stats.effects import (
  Effect,
  as_ratio,
  far_off,
  geometric_mean,
  mean_interval,
  median_interval,
  paired_difference,
  paired_log_ratio,
  proportion,
  typical_interval,
  wilson_interval,
)
from mnist_jax.stats.grid_minimum import mean_minima
from mnist_jax.stats.hypothesis_tests import holm, seeds_to_decide, tost
from mnist_jax.stats.slopes import draws_slope, loglog_slope
from mnist_jax.stats.tuned import (
  TunedArm,
  chosen,
  likely_choices,
  tuned_contrast,
  tuned_difference,
)
from mnist_jax.stats.verdicts import (
  Claim,
  Judged,
  Part,
  Question,
  Verdict,
  derived,
  judge,
)
from mnist_jax.stats.wording import amount, factor, share

__all__ = [
  "Claim",
  "Effect",
  "Judged",
  "Part",
  "Question",
  "TunedArm",
  "Verdict",
  "amount",
  "as_ratio",
  "chosen",
  "derived",
  "draws_slope",
  "factor",
  "far_off",
  "geometric_mean",
  "holm",
  "judge",
  "likely_choices",
  "loglog_slope",
  "mean_interval",
  "mean_minima",
  "median_interval",
  "paired_difference",
  "paired_log_ratio",
  "proportion",
  "seeds_to_decide",
  "share",
  "tost",
  "tuned_contrast",
  "tuned_difference",
  "typical_interval",
  "wilson_interval",
]
