"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

import tqdm

if TYPE_CHECKING:  # a single run need not wait for the engine of sweeps
  from mnist_jax import sweep

T = TypeVar("T")


def _bar(total: float, **look: Any) -> tqdm.tqdm:
  """A bar on stderr, which is disabled and says nothing off a terminal."""
  return tqdm.tqdm(total=total, dynamic_ncols=True, disable=None, **look)


class EpochProgress:
  """Shows the row of each epoch, with speed and the time that is left.

  Both are counted from this session's second row on: before it programs are
  compiled, and the first epoch is trained beside that (`training.ahead`). On a
  terminal one bar is redrawn; elsewhere each epoch is a line. All goes to
  stderr, so that stdout holds results alone.
  """

  def __init__(self, epochs: int, examples_per_epoch: int):
    self._epochs = epochs
    self._examples = examples_per_epoch
    self._shown = 0
    self._from = (0.0, 0)  # when the second row was shown, and its epoch
    self._bar = _bar(
      epochs,
      unit="epoch",
      bar_format="{n_fmt}/{total_fmt} epochs |{bar}| {postfix}, "
      "{remaining} left",
    )

  def resume(self, epoch: int) -> None:
    """Counts earlier epochs as done; they took no time here."""
    self._bar.initial = self._bar.n = epoch

  def show(self, row: dict[str, Any]) -> None:
    """Shows the metrics row of one epoch."""
    now, epoch = time.monotonic(), row["epoch"]
    self._shown += 1
    if self._shown == 2:
      self._from = now, epoch
    each = None
    if self._shown > 2:
      each = max(now - self._from[0], 1e-9) / (epoch - self._from[1])
    figures = (
      f"loss {row['train_loss']:.4f} train {row['dev_loss']:.4f} dev, "
      f"accuracy {row['train_accuracy']:.4f} train {row['dev_accuracy']:.4f} "
      f"dev, rate {row['learning_rate']:.3g}"
    )
    if each:
      figures += f", {self._examples / each:,.0f} examples/s"
    if not self._bar.disable:
      self._bar.n = epoch
      self._bar.set_postfix_str(figures)
      return
    line = f"epoch {epoch}/{self._epochs}: {figures}"
    if each:
      line += f", {(self._epochs - epoch) * each:.0f} s left"
    print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()


class SweepProgress:
  """Shows how far a sweep is, with the time left. A context manager.

  On a terminal one bar is redrawn; elsewhere a line every ten seconds or so.
  All goes to stderr.
  """

  SECONDS_BETWEEN_LINES = 10.0

  def __init__(self) -> None:
    self._begun = self._said = time.monotonic()
    self._bar = _bar(1.0, bar_format="{percentage:3.0f}% |{bar}| {postfix}")

  def __enter__(self) -> "SweepProgress":
    return self

  def __exit__(self, *exc_info: object) -> None:
    self._bar.close()

  def show(self, progress: "sweep.Progress") -> None:
    """Shows the state of the sweep, if it is time to."""
    now = time.monotonic()
    share = progress.done / progress.total if progress.total else 1.0
    left = "unknown"
    if share:
      seconds = (now - self._begun) * (1 / share - 1)
      left = "{}:{:02d}".format(*divmod(round(seconds), 60))
    done = f"{progress.cells_done}/{progress.cells} runs"
    text = f"{done}, {progress.doing}, {left} left"
    if not self._bar.disable:
      self._bar.n = share
      self._bar.set_postfix_str(text)
      return
    if now - self._said >= self.SECONDS_BETWEEN_LINES or (
      progress.cells_done == progress.cells and now - self._begun > 1
    ):
      self._said = now
      print(f"{100 * share:.0f} %: {text}", file=sys.stderr, flush=True)


def each(
  runs: Iterable[T], doing: str, total: int | None = None
) -> Iterator[T]:
  """The runs; how many are done is shown on stderr, with the time left.

  Args:
    runs: Any number of them.
    doing: What they are.
    total: How many, for `runs` without a length.
  """
  from mnist_jax import sweep

  if total is None:
    assert isinstance(runs, Sized)
    total = len(runs)
  with SweepProgress() as shown:
    for done, run in enumerate(runs, 1):
      yield run
      shown.show(sweep.Progress(float(done), float(total), done, total, doing))
