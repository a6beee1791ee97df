"""Given and numeric derivatives side by side, looked at closer where needed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mnist_jax.gradcheck import _error_bars as error_bars
from mnist_jax.gradcheck._coverage import Coverage
from mnist_jax.gradcheck._differences import GradcheckError, Layout, Losses

STATES = ("agrees", "wrong", "kink", "not finite")
AGREES, WRONG, KINK, NOT_FINITE = range(4)
# A tensor is resolved when rounding may cause a distance of at most the
# chapter's re-check mark in it; whole theta, at most epsilon^(1/3): any well
# chosen step does better than that (epsilon^(2/3) two-sided, ^(1/2) one-sided).
_TENSOR_RESOLUTION = 1e-2
# A tensor this many roundings below the largest derivative is zero in effect
# (a key's bias in attention, a bias before normalisation).
_ZERO_ROUNDINGS = 1e5
_LARGEST_ZERO = 1e-4
# Numeric values are made good to this part of the tensor's largest entry.
_ENOUGH = 1e-8
_BATCH = 128  # entries refined at a time
_MOST_WHEN_WRONG = 2048  # per tensor, when it is known to be wrong
_PROBED = 32  # of the worst, the mildest and the poor, before the rest


@dataclasses.dataclass
class Comparison:
  """Given and numeric derivatives of the covered coordinates, [N] each."""

  layout: Layout
  coverage: Coverage
  parts: list[slice]  # where each leaf lies among the covered
  given: Float[np.ndarray, " N"]
  tolerance: Float[np.ndarray, " N"]
  value: Float[np.ndarray, " N"]
  noise_bar: Float[np.ndarray, " N"]
  truncation: Float[np.ndarray, " N"]
  still: Bool[np.ndarray, " N"]  # the loss has not moved so far
  state: Int[np.ndarray, " N"]
  crossed: Bool[np.ndarray, " N"]
  sides: Float[np.ndarray, "2 N"]  # backward and forward, where refined
  loss: float
  noise: float
  epsilon: float
  chosen_steps: bool  # by the caller

  @classmethod
  def start(
    cls,
    layout: Layout,
    coverage: Coverage,
    given: np.ndarray,
    tolerance: np.ndarray,
    loss: float,
    noise: float,
    epsilon: float,
    chosen_steps: bool,
  ) -> "Comparison":
    """Nothing measured yet; `given` and `tolerance` are of theta's length."""
    positions = coverage.positions
    count = positions.size
    parts = [
      slice(*map(int, np.searchsorted(positions, (p.start, p.stop))))
      for p in layout.slices()
    ]
    return cls(
      layout,
      coverage,
      parts,
      given[positions],
      tolerance[positions],
      np.full(count, np.nan),
      np.full(count, np.inf),
      np.zeros(count),
      np.ones(count, bool),
      np.zeros(count, int),
      np.zeros(count, bool),
      np.full((2, count), np.nan),
      loss,
      noise,
      epsilon,
      chosen_steps,
    )

  @property
  def bar(self) -> Float[np.ndarray, " N"]:
    return self.noise_bar + self.truncation

  @property
  def disagrees(self) -> Bool[np.ndarray, " N"]:
    # Written so that a NaN disagrees.
    return ~(np.abs(self.given - self.value) <= self.bar + self.tolerance)

  def add(
    self, table: Float[np.ndarray, "K N"], steps: Sequence[float], method: str
  ) -> None:
    """Takes differences at more steps in where they are the better."""
    estimate = error_bars.best_pair(table, tuple(steps), self.noise, method)
    self.still &= np.all(table == 0, axis=0)
    # A loss that does not move at all shows no noise either: all that is
    # known is that numbers of the order of one cancelled in it.
    order = max(1.0, abs(self.loss))
    least = error_bars.difference_noise(
      self.epsilon / 2 * order, steps[0], method
    )
    noise_bar = np.where(
      self.still, np.maximum(least, estimate.noise), estimate.noise
    )
    better = noise_bar + estimate.truncation < self.bar
    self.value = np.where(better, estimate.value, self.value)
    self.noise_bar = np.where(better, noise_bar, self.noise_bar)
    self.truncation = np.where(better, estimate.truncation, self.truncation)

  def distance_to(self, numeric: Float[np.ndarray, " N"]) -> float:
    """The chapter's diff between the given and some numeric derivatives."""
    return distance_of(self.given, numeric)


def distance_of(given: np.ndarray, numeric: np.ndarray) -> float:
  """|given - numeric| / (|given| + |numeric|), of section 12.3; in [0, 1].

  Of equal shapes; 0 where both are 0.
  """
  size = float(np.linalg.norm(given) + np.linalg.norm(numeric))
  return float(np.linalg.norm(given - numeric)) / size if size else 0.0


def resolution(comparison: Comparison, part: slice) -> float:
  """The distance (one standard deviation) that the bars allow."""
  size = float(
    np.linalg.norm(comparison.given[part])
    + np.linalg.norm(comparison.value[part])
  )
  bars = float(np.linalg.norm(comparison.bar[part])) / error_bars.SIGMAS
  return bars / size if size else 0.0


def unresolved_leaves(comparison: Comparison) -> list[int]:
  """The numbers of the tensors that are not 0 and whose bars are too wide."""
  scale = np.abs(comparison.given).max()
  zero = min(_ZERO_ROUNDINGS * comparison.epsilon, _LARGEST_ZERO) * scale
  return [
    leaf
    for leaf, part in enumerate(comparison.parts)
    if np.abs(comparison.given[part]).max() > zero
    and not resolution(comparison, part) <= _TENSOR_RESOLUTION
  ]


def coarse(comparison: Comparison) -> bool:
  """Whether larger steps might resolve more."""
  total = resolution(comparison, slice(None))
  fine = total <= comparison.epsilon ** (1 / 3)
  return not fine or len(unresolved_leaves(comparison)) > 0


def unresolved(comparison: Comparison) -> bool:
  """Whether rounding hides too much of theta as a whole.

  Steps that the caller chose must be as good as well chosen ones are; with
  ours, what is left is the loss's own and need only be told.
  """
  limit = _TENSOR_RESOLUTION
  if comparison.chosen_steps:
    limit = comparison.epsilon ** (1 / 3)
  return not resolution(comparison, slice(None)) <= limit


def _look(
  comparison: Comparison,
  losses: Losses,
  ladder: tuple[float, ...],
  chosen: Int[np.ndarray, " n"],
) -> None:
  """Judges the chosen covered coordinates with the whole ladder."""
  positions = comparison.coverage.positions[chosen]
  rows = [losses.sides(positions, step) for step in ladder]
  above, below, up, down = (
    np.stack(column) for column in zip(*rows, strict=True)
  )
  middle = losses.at(losses.round(losses.theta))
  lines = error_bars.Lines(ladder, above, below, up, down, middle)
  noise = comparison.noise
  verdict = error_bars.judge(
    lines, comparison.given[chosen], comparison.tolerance[chosen], noise
  )
  still = np.all((above == middle) & (below == middle), axis=0)
  least = error_bars.difference_noise(
    comparison.epsilon / 2 * max(1.0, abs(comparison.loss)),
    ladder[0],
    "two_sided",
  )
  quiet = still & (
    np.abs(comparison.given[chosen]) <= least + comparison.tolerance[chosen]
  )
  state = np.where(verdict.wrong & ~quiet, WRONG, AGREES)
  state = np.where(verdict.kink, KINK, state)
  state = np.where(verdict.not_finite, NOT_FINITE, state)
  before = comparison.value[chosen]
  after = np.where(verdict.not_finite, np.nan, verdict.value)
  with np.errstate(invalid="ignore"):
    moved = ~(
      np.abs(before - after)
      <= 2 * (comparison.noise_bar[chosen] + verdict.bar) + 1e-6 * np.abs(after)
    )
  comparison.crossed[chosen] = moved | verdict.kink
  comparison.state[chosen] = state
  comparison.value[chosen] = after
  comparison.noise_bar[chosen] = np.where(
    still, np.maximum(verdict.bar, least), verdict.bar
  )
  comparison.truncation[chosen] = 0.0
  comparison.sides[:, chosen] = verdict.backward, verdict.forward


def _clearly_wrong(
  comparison: Comparison, chosen: Int[np.ndarray, " n"]
) -> bool:
  """Whether looking closer at all of them brought nothing new."""
  wrong = comparison.state[chosen] == WRONG
  return bool(np.all(wrong & ~comparison.crossed[chosen]))


def _judge_suspects(
  comparison: Comparison,
  losses: Losses,
  ladder: tuple[float, ...],
  suspects: Int[np.ndarray, " n"],
  poor: Bool[np.ndarray, " n"],
) -> None:
  """Looks at one tensor's suspects (positions, the worst first).

  Not at all of a great many where that tells nothing new: the worst, the
  mildest and those with a `poor` value are looked at first.
  """
  if suspects.size > 3 * _PROBED:
    ends = np.r_[0:_PROBED, suspects.size - _PROBED : suspects.size]
    first = np.union1d(ends, np.flatnonzero(poor)[:_PROBED])
    for start in range(0, first.size, _BATCH):
      some = suspects[first[start : start + _BATCH]]
      _look(comparison, losses, ladder, some)
    if _clearly_wrong(comparison, suspects[ends]):
      return
    suspects = np.delete(suspects, first)
  many = suspects.size > _MOST_WHEN_WRONG
  for start in range(0, suspects.size, _BATCH):
    chosen = suspects[start : start + _BATCH]
    _look(comparison, losses, ladder, chosen)
    if many and np.any(comparison.state[chosen] == WRONG):
      return


def refine(
  comparison: Comparison, losses: Losses, ladder: tuple[float, ...]
) -> None:
  """Looks closer at entries that do not fit or that kinks have spoiled.

  Entries that disagree are judged, the worst first, until all are or until
  their tensor is known to be wrong and there are too many; then those whose
  numeric value is poor though they agree.

  Raises:
    GradcheckError: the loss raises.
  """
  disagrees = comparison.disagrees
  comparison.state[disagrees] = WRONG
  rng = np.random.default_rng(0)
  for part in comparison.parts:
    bar = comparison.bar[part] + comparison.tolerance[part]
    miss = np.abs(comparison.given[part] - comparison.value[part]) / bar
    miss = np.where(np.isfinite(miss), miss, np.inf)
    suspects = np.flatnonzero(disagrees[part])
    suspects = suspects[np.argsort(-miss[suspects], kind="stable")]
    size = np.nanmax(np.abs(comparison.value[part]), initial=0.0)
    poor = comparison.truncation[part] > np.maximum(
      comparison.noise_bar[part], _ENOUGH * size
    )
    others = np.flatnonzero(poor & ~disagrees[part])
    others = rng.permutation(others)[:_MOST_WHEN_WRONG]
    try:
      _judge_suspects(
        comparison, losses, ladder, part.start + suspects, poor[suspects]
      )
      for start in range(0, others.size, _BATCH):
        chosen = part.start + others[start : start + _BATCH]
        _look(comparison, losses, ladder, chosen)
    except Exception as error:
      raise GradcheckError(f"loss_fn raised {type(error).__name__}") from error
