"""The learning-rate range test (section 12.4), and a batch-size finder.

Start with

  import jax.numpy as jnp
  import optax
  from mnist_jax import range_test
  found = range_test.find(
    lambda params, batch: jnp.mean((params - batch) ** 2),  # your loss
    jnp.zeros(5),  # your params, any pytree of floats
    [jnp.ones((32, 5)), jnp.ones((7, 5))],  # your loader, iterator, function
    make_optimizer=optax.adam,
  )
  print(found)  # what each rule says; found.rate, found.reason, found.plot()

  # The batch at which examples per second stop growing, and what fits:
  sizes = range_test.find_batch_size(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    jnp.zeros(5),
    jnp.ones((32, 5)),  # one batch, whose rows are repeated
    make_optimizer=optax.adam,
    seconds=30,  # compiling takes about a second a size
  )
  print(sizes)  # a table; sizes.fastest, sizes.largest, sizes.reason

  # The chapter's network, over seeds:
  from mnist_jax import data, training
  book = training.Settings()  # the book's run
  recording = range_test.network(
    book.train_config(), book.hparams(), data.load(), seeds=range(4)
  )
  print(range_test.judge(recording))
"""

from typing import TYPE_CHECKING

from mnist_jax.range_test.curve import Ramp, Recording
from mnist_jax.range_test.rules import RULES, RangeTest, judge
from mnist_jax.range_test.throughput import BatchSizes
from mnist_jax.runtime import extras

if TYPE_CHECKING:
  from mnist_jax.range_test.batch_size import find_batch_size
  from mnist_jax.range_test.finding import find
  from mnist_jax.range_test.recording import choose, network

__all__ = [
  "RULES",
  "BatchSizes",
  "Ramp",
  "RangeTest",
  "Recording",
  "choose",
  "find",
  "find_batch_size",
  "judge",
  "network",
]
_NEED_JAX = {
  "choose": "recording",
  "find": "finding",
  "find_batch_size": "batch_size",
  "network": "recording",
}
__getattr__, __dir__ = extras.late(__name__, __all__, _NEED_JAX)
