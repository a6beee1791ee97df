"""Batch sizes that change at epochs, and how updates are counted under them.

Growing the batch where one would decay the rate: Smith, Kindermans, Ying & Le
2018. A run with one batch size is the schedule of one entry.
"""

import bisect
import dataclasses
import functools
import itertools
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from jaxtyping import Int

from mnist_jax import data
from mnist_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Clock:
  """Where the epochs of a run begin, counted in updates."""

  starts: tuple[int, ...]  # epochs where counts come in force, rising, first 0
  counts: tuple[int, ...]  # updates in each epoch from there on, >= 1

  def count(self, epoch: int) -> int:
    """Updates of that epoch (the first is 0)."""
    return self.counts[bisect.bisect(self.starts, epoch) - 1]

  def before(self, epoch: int) -> int:
    """Updates made before the epoch begins."""
    ends = (*self.starts[1:], epoch)
    return sum(
      max(0, min(end, epoch) - start) * count
      for start, end, count in zip(self.starts, ends, self.counts, strict=True)
    )

  def updates(self, epochs: float | int) -> int:
    """Updates made after so many epochs, >= 0, to the nearest, halves up.

    Epochs are the decimal number they print as: 0.145 of 100 updates are 14.5,
    thus 15, though the float is a little less.
    """
    exact = Decimal(str(epochs))
    whole = int(exact)
    part = (exact - whole) * self.count(whole)
    return self.before(whole) + int(part.to_integral_value(ROUND_HALF_UP))

  def locate(self, step: int) -> tuple[int, int]:
    """The epoch that update `step` (the first is 0) is in, and its place."""
    begins = [self.before(start) for start in self.starts]
    k = bisect.bisect(begins, step) - 1
    epochs, place = divmod(step - begins[k], self.counts[k])
    return self.starts[k] + epochs, place

  def epochs(self, step: int) -> float:
    """Epochs gone by when `step` updates are made."""
    epoch, place = self.locate(step)
    count = self.count(epoch)
    return (epoch * count + place) / count

  def table_places(
    self, updates: int
  ) -> tuple[int, Int[np.ndarray, " T_run"], int]:
    """How a table of rates that is even in epochs serves the run's updates.

    Args:
      updates: The updates of the run, >= 1.

    Returns:
      The table's updates an epoch, which are the most that the run has in
      one; the place in the table of each update; and the table's length.
    """
    per_epoch = max(self.counts)
    last, ended = self.locate(updates)
    places = [
      epoch * per_epoch + np.arange(count) * per_epoch // count
      for epoch, count in enumerate(map(self.count, range(last + 1)))
    ]
    length = last * per_epoch - (-ended * per_epoch // self.count(last))
    return per_epoch, np.concatenate(places)[:updates], length


def steady(per_epoch: int) -> Clock:
  """The clock of a run with so many updates in every epoch."""
  return Clock((0,), (int(per_epoch),))


@dataclasses.dataclass(frozen=True)
class BatchSchedule:
  """Which batch size from which epoch on; as text 0:128,20:640.

  Raises:
    InputError: No entry, or values out of range or order.
  """

  starts: tuple[int, ...]  # as in `Clock`
  sizes: tuple[int, ...]  # examples per update from there on, >= 1

  def __post_init__(self) -> None:
    rising = all(a < b for a, b in itertools.pairwise(self.starts))
    sized = all(size >= 1 for size in self.sizes)
    same = len(self.starts) == len(self.sizes)
    if not (self.starts[:1] == (0,) and rising and sized and same):
      raise InputError(f"batch_schedule={self}: {_EXPECTED}")

  def __str__(self) -> str:
    pairs = zip(self.starts, self.sizes, strict=False)
    return ",".join(f"{start}:{size}" for start, size in pairs)

  def size_at(self, epoch: int) -> int:
    """Examples per update in that epoch (the first is 0)."""
    return self.sizes[bisect.bisect(self.starts, epoch) - 1]

  def clock(self, num_examples: int, drop_last: bool = False) -> Clock:
    """The clock of a run on so many examples, at least the largest batch.

    With `drop_last` an epoch's short last batch is left out.
    """
    counts = (
      data.updates_per_epoch(num_examples, size, drop_last)
      for size in self.sizes
    )
    return Clock(self.starts, tuple(counts))


_EXPECTED = (
  "expected EPOCH:SIZE pairs in whole numbers, as 0:128,20:640, with rising "
  "epochs, the first 0, and sizes >= 1"
)


@functools.lru_cache(maxsize=256)  # every cell of a sweep asks again
def parse(text: str) -> BatchSchedule:
  """The schedule that the flag's text says.

  Raises:
    InputError: Another text, or as `BatchSchedule`.
  """
  pairs = [pair.split(":") for pair in text.split(",")]
  if not all(
    len(pair) == 2 and all(n.isascii() and n.isdecimal() for n in pair)
    for pair in pairs
  ):
    raise InputError(f"batch_schedule={text}: {_EXPECTED}")
  return BatchSchedule(
    tuple(int(start) for start, _ in pairs), tuple(int(n) for _, n in pairs)
  )
