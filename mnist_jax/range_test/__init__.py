"""The learning-rate range test (section 12.4) and what is read off it.

Start with

  from mnist_jax import range_test
  recording = range_test.network(config, hparams, dataset, seeds=range(4))
  print(range_test.judge(recording).suggestions)
"""

from mnist_jax.range_test.curve import Ramp, Recording
from mnist_jax.range_test.recording import choose, network, run
from mnist_jax.range_test.rules import RULES, judge

__all__ = [
  "RULES",
  "Ramp",
  "Recording",
  "choose",
  "judge",
  "network",
  "run",
]
