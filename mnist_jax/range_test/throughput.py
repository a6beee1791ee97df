"""Times and memory of an update by batch size, and what is read off them.

K batch sizes, R rounds. This module knows no model and no jax.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
  from mnist_jax.plotting import axes as plots

WITHIN = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class BatchSizes:
  """What was measured of each batch size, and its judgement."""

  sizes: Int[np.ndarray, " K"]  # ascending
  seconds: Float[np.ndarray, "R K"]  # per update; NaN where it was not run
  memory: Int[np.ndarray, " K"]  # bytes that an update holds at its peak
  fits: Bool[np.ndarray, " K"]
  end: str  # why nothing larger was tried; a clause without a full stop
  within: float = WITHIN  # of the best examples/s counts as the best
  # The seconds given, where they kept a size from being tried or run.
  time_limit: float | None = None

  @property
  def largest(self) -> int | None:
    """The largest batch that fits, of those tried; None if none does."""
    return int(self.sizes[self.fits].max()) if self.fits.any() else None

  @property
  def milliseconds(self) -> Float[np.ndarray, " K"]:
    """Per update, the median over the rounds; NaN where there are none."""
    none = np.full((1, len(self.sizes)), np.nan)  # for what has no round
    rows = np.sort(np.concatenate([self.seconds, none]), axis=0)  # NaN last
    count = np.isfinite(rows).sum(axis=0)
    at = np.maximum(np.stack([count - 1, count]) // 2, 0)
    return 1e3 * np.take_along_axis(rows, at, axis=0).mean(axis=0)

  @property
  def speed(self) -> Float[np.ndarray, " K"]:
    """Examples per second; NaN where it was not run or does not fit."""
    return np.where(self.fits, 1e3 * self.sizes / self.milliseconds, np.nan)

  @property
  def fastest(self) -> int | None:
    """Where examples per second stop growing; None if none that fits was run.

    The smallest batch within `within` of the best examples/s.
    """
    if not np.isfinite(self.speed).any():
      return None
    best = np.nanmax(self.speed)
    return int(self.sizes[self.speed >= (1 - self.within) * best].min())

  @property
  def reason(self) -> str:
    """Where both come from, or why there is none; one line."""
    end = f"nothing larger was tried: {self.end}"
    if np.isnan(self.seconds).all():
      return f"no size was run: {self.end}"
    if self.fastest is None:
      return f"no batch that fits was run; {end}"
    timed = np.isfinite(self.speed)
    best = int(self.sizes[np.nanargmax(self.speed)])
    speed = f"{np.nanmax(self.speed):.3g} examples/s"
    if timed.sum() == 1:
      if self.time_limit is not None:
        given = f"seconds={self.time_limit:g}"
        return f"only batch {best} was run in {given}; give more"
      where = f"{best}: {speed}, the only size run"
    elif self.fastest == self.sizes[timed].max():
      where = f"{self.fastest}: {speed}, still growing at the largest run"
    else:
      where = (
        f"{self.fastest}: the smallest within {100 * self.within:g} % of the "
        f"best, {speed} at {best}"
      )
    assert self.largest is not None
    run = self.largest in self.sizes[timed]
    fits = "fits" if run else "fits by the compiler's account, not run"
    return f"{where}; {self.largest} {fits}, {end}"

  @property
  def marks(self) -> dict[str, int | None]:
    """The fastest and the largest batch, by what they are called."""
    cut = self.time_limit is not None and self.fits.all()
    name = "largest tried" if cut else "largest that fits"
    return {"fastest": self.fastest, name: self.largest}

  def __str__(self) -> str:
    """A line for each batch size, and the reason."""
    lines = [
      f"{'batch':>9} {'ms per update':>14} {'examples/s':>11} {'memory':>10}"
    ]
    columns = (self.sizes, self.milliseconds, self.speed, self.memory)
    for size, taken, speed, memory in zip(*columns, strict=True):
      numbers = f"{taken:14.4g} {speed:11.3g}"
      if np.isnan(speed):
        why = "not run" if np.isnan(taken) else "does not fit"
        numbers = f"{why:>14} {'':>11}"
      mark = ", ".join(name for name, at in self.marks.items() if at == size)
      line = f"{size:9d} {numbers} {shown(int(memory)):>10}"
      lines.append(f"{line}  < {mark}" if mark else line)
    return "\n".join([*lines, self.reason])

  def plot(self, title: str = "") -> "plots.Figure":
    """Examples/s and memory by batch size, as `figures.batch_sizes` draws."""
    from mnist_jax.range_test import figures  # matplotlib only where it draws

    return figures.batch_sizes(self, title)


def shown(memory: int) -> str:
  """Bytes as people read them, such as "1.5 GiB"."""
  units = ("B", "KiB", "MiB", "GiB", "TiB")
  power = next((k for k in range(4) if memory < 1000 * 1024**k), 4)
  return f"{memory / 1024**power:.3g} {units[power]}"
