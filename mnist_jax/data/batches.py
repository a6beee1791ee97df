"""The order of examples, and how it is cut into batches.

Shapes: N examples, B batch, T updates of an epoch.
"""

import numpy as np
from jaxtyping import Float32, Int32

from mnist_jax.runtime.errors import InputError

# What a permutation is for; keeps equal seeds of two purposes independent.
SPLIT, TAKE, EPOCH = range(3)


def epoch_order(
  seed: int, epoch: int, num_examples: int
) -> Int32[np.ndarray, " N"]:
  """The order in which an epoch visits the training examples.

  A permutation of 0 to N - 1 and a pure function of its arguments; those of
  different (seed, epoch) are independent. NumPy may change how it permutes
  from one of its versions to another (NEP 19), and then a run changes too; the
  split does not, it is drawn otherwise.

  Args:
    seed, epoch: In [0, 2**63).
    num_examples: N, at least 1.

  Raises:
    InputError: an argument out of range.
  """
  check_range("seed", seed, 0, 2**63 - 1)
  check_range("epoch", epoch, 0, 2**63 - 1)
  check_range("num_examples", num_examples, 1, 2**31 - 1)
  bits = np.random.PCG64(seed_sequence(seed, EPOCH, epoch))
  # Several times faster than ranking, and needed once per epoch and member.
  return np.random.Generator(bits).permutation(
    np.arange(num_examples, dtype=np.int32)
  )


def batch_indices(
  order: Int32[np.ndarray, " N"], batch_size: int, drop_last: bool = False
) -> tuple[Int32[np.ndarray, "T B"], Float32[np.ndarray, "T B"]]:
  """Cuts an order into batches, one row each.

  Args:
    batch_size: B, in [1, N].
    drop_last: Whether the last batch is left out if it is short. Otherwise it
      is filled with index 0.

  Returns:
    The indices, and their weights: 1, or 0 for a filling.

  Raises:
    InputError: batch_size out of range.
  """
  count = len(order)
  check_range("batch_size", batch_size, 1, count)
  updates = updates_per_epoch(count, batch_size, drop_last)
  size = updates * batch_size
  indices = np.pad(
    np.asarray(order, np.int32)[:size], (0, max(0, size - count))
  )
  weights = (np.arange(size) < count).astype(np.float32)
  return indices.reshape(-1, batch_size), weights.reshape(-1, batch_size)


def updates_per_epoch(
  num_examples: int, batch_size: int, drop_last: bool = False
) -> int:
  """T, with the short last batch counted unless it is dropped."""
  full, rest = divmod(num_examples, batch_size)
  return int(full) + (1 if rest and not drop_last else 0)


def seed_sequence(seed: int, *purpose: int) -> np.random.SeedSequence:
  """Independent for each seed and purpose.

  The purpose is the spawn key: in a list of seeds [0, 1] and [2**32] are alike.
  """
  return np.random.SeedSequence(seed, spawn_key=purpose)


def check_range(name: str, value: int, low: int, high: int) -> None:
  """Raises InputError unless low <= value <= high, naming the argument."""
  if not low <= value <= high:
    raise InputError(f"{name}={value}: expected {low} to {high}")
