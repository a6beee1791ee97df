"""The learning-rate range test (section 12.4) and what is read off it.

Start with

  from mnist_jax import data, training
  from mnist_jax import range_test
  book = training.Settings()  # the book's run
  recording = range_test.network(
    book.train_config(), book.hparams(), data.load(), seeds=range(4)
  )
  for found in range_test.judge(recording).suggestions:
    print(f"{found.rule}: {found.rate}, {found.reason}")
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
