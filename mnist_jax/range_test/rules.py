"""Rules that read a rate off a range test's curve, and what seeds agree on.

K updates kept, S seeds. A rule is a function from a `curve.LossCurve` that
descends to a rate, or to why there is none; RULES has them by name. Before a
rule is asked, `refusal` looks whether there is a descent at all: a curve that
is flat but for noise has a steepest slope and a minimum too, and neither means
anything.

Over S seeds a rule's suggestion is the geometric mean of the seeds', with an
interval for it on the logarithm; or none, with the reason.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mnist_jax import stats
from mnist_jax.range_test import curve as range_curve
from mnist_jax.range_test.curve import LossCurve, Recording
from mnist_jax.runtime.errors import InputError

if TYPE_CHECKING:
  from mnist_jax.plotting import axes as plots

FEWEST_POINTS = 10
# A drop counts when it exceeds so many standard errors of the smoothed curve;
# the lowest of 1,000 points of noise lies 3 to 4 below their mean.
NOISE_FACTOR = 6.0
LARGEST_SPREAD = 10.0
MINIMUM_DIVISOR = 10.0

Rule = Callable[[LossCurve], float | str]


@dataclasses.dataclass(frozen=True)
class Suggestion:
  """One rule's rate from all seeds, or why it has none."""

  rule: str
  rate: float | None  # the geometric mean over the seeds that have one
  low: float | None  # its 95 % interval; None from a single seed
  high: float | None
  n: int  # how many have a rate, of `seeds`
  seeds: int
  spread: float | None  # their 90 % quantile over their 10 % quantile
  per_seed: tuple[float | None, ...]
  reason: str  # where the rate comes from, or why there is none; one line


def noise(losses: Float[np.ndarray, " K"]) -> float:
  """The standard deviation of what is no trend, from second differences.

  Those of independent noise have 6 times its variance, and those of a straight
  line none. The median of their absolute values (over 0.6745, a normal's)
  keeps a divergence at the end from counting as noise. 0 for K below 3.
  """
  if len(losses) < 3:
    return 0.0
  second = np.abs(np.diff(losses, 2))
  return float(np.median(second)) / (0.6745 * math.sqrt(6))


def _beginning(curve: LossCurve) -> Float[np.ndarray, " M"]:
  """The losses before anything is learned: the initial one and those after
  the first updates, within a factor of 10 of the lowest rate."""
  count = int((curve.rates <= 10 * curve.rates[0]).sum())
  count = min(count, len(curve.losses) // 10)
  return np.append(curve.losses[:count], curve.initial)


def _start(curve: LossCurve) -> float:
  return float(_beginning(curve).mean())


def refusal(curve: LossCurve) -> str | None:
  """Why no rule can read a rate off this curve; None if it descends.

  The start is the mean of the losses within a factor of 10 of the lowest rate,
  a tenth of the curve at most. A curve descends if a later smoothed loss lies
  below it by more than NOISE_FACTOR standard errors of their difference.
  """
  count = len(curve.losses)
  if count < FEWEST_POINTS:
    cause = f": {curve.stop.reason} at once" if curve.stop else ""
    return f"too few points: {count} of at least {FEWEST_POINTS}{cause}"
  beginning = _beginning(curve)
  later = slice(len(beginning) - 1, None)
  change = curve.smoothed[later] - float(beginning.mean())
  # The variance of a bias-corrected average of t + 1 losses, over theirs.
  beta = curve.smoothing
  powers = beta ** (np.arange(count)[later] + 1.0)
  share = (1 - beta) / (1 + beta) * (1 + powers) / (1 - powers)
  error = noise(curve.losses) * np.sqrt(share + 1 / len(beginning))
  least = NOISE_FACTOR * error + _rounding(curve)
  if (change < -least).any():
    return None
  if change[-1] > least[-1]:
    return "rising: the loss only grows, already at the ramp's low end"
  return "flat: the loss moves no more than its noise"


def _slopes(curve: LossCurve) -> Float[np.ndarray, " K"]:
  """Per log-rate, each a line through the losses within a factor e^(1/2).

  Between neighbours the noise would be divided by next to nothing.
  """
  x = np.log(curve.rates)
  near = np.abs(x[:, None] - x[None, :]) <= 0.5
  near |= np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x)))) <= 1
  share = near / near.sum(axis=1, keepdims=True)
  centred = np.where(near, x[None, :] - (share @ x)[:, None], 0.0)
  return (centred @ curve.smoothed) / (centred**2).sum(axis=1)


def steepest(curve: LossCurve) -> float:
  """Where the smoothed loss falls fastest per log-rate (Smith 2015; fastai).

  Per log-rate, whatever the ramp: the slope per rate is largest where rates
  are smallest. Looked for up to the minimum.
  """
  end = int(curve.smoothed.argmin()) + 1
  return float(curve.rates[int(_slopes(curve)[:end].argmin())])


def lowest(curve: LossCurve) -> float:
  """Where the smoothed loss is least: the largest rate still descending."""
  return float(curve.rates[int(curve.smoothed.argmin())])


def minimum_tenth(curve: LossCurve) -> float:
  """The rate of the smoothed minimum over 10 (Gugger 2018; fastai)."""
  return lowest(curve) / MINIMUM_DIVISOR


def valley(curve: LossCurve) -> float:
  """The middle of the longest valley (fastai's `valley`, its default).

  The longest strictly falling subsequence of smoothed losses, in updates; its
  point halfway from where it begins to where it ends, as indices.
  """
  losses = curve.smoothed
  length = np.ones(len(losses), int)
  for i in range(1, len(losses)):
    longer = length[:i][losses[:i] > losses[i]]
    if longer.size:
      length[i] = longer.max() + 1
  end = int(length.argmax())
  start = end - int(length[end])
  third = (end - start) / 3
  return float(curve.rates[max(0, start) + int(third) + int(third / 2)])


def limit(curve: LossCurve) -> float | None:
  """The largest rate that is of any use: where the loss is back at its start.

  The first rate after the minimum whose smoothed loss is above the start, or
  at which the curve was cut; None if the ramp ended before either. On a
  quadratic of largest curvature L it lies a little above 2 / L, by as much as
  the ramp rises while the loss grows.
  """
  least = int(curve.smoothed.argmin())
  above = np.flatnonzero(curve.smoothed[least:] > _start(curve))
  if above.size:
    return float(curve.rates[least + above[0]])
  return curve.stop.rate if curve.stop else None


def has_risen(curve: LossCurve) -> bool:
  """Whether the loss grew again after its minimum, by more than its noise."""
  if curve.stop:
    return True
  beta = curve.smoothing
  error = noise(curve.losses) * math.sqrt((1 - beta) / (1 + beta))
  rise = curve.smoothed[-1] - curve.smoothed.min()
  return bool(rise > NOISE_FACTOR * error + _rounding(curve))


def _rounding(curve: LossCurve) -> float:
  """By which float32 alone makes a constant loss wander."""
  eps = float(np.finfo(np.float32).eps)
  return 16 * eps * float(np.abs(curve.losses).max())


def noise_ratio(curve: LossCurve) -> float:
  """B_simple / B of McCandlish et al. (2018), from the way down; >= 0 or NaN.

  From the updates that lead up to half of the descent, the second half of
  them: late enough for the network to have left its start, where gradients
  agree more than ever after, and at rates still too small for the loss to
  oscillate. Sums are divided, not ratios averaged. NaN if not measured, or
  if the gradient is lost in the noise. The window is the steadiest of five
  tried on batches of 32, 128 and 512 and seeds 0 to 9.
  """
  smoothed, start = curve.smoothed, _start(curve)
  middle = (start + float(smoothed.min())) / 2
  end = int(np.flatnonzero(smoothed <= middle)[0]) + 1
  if curve.noise is None:
    return math.nan
  signal, noise = curve.noise[:, end // 2 : end].sum(axis=1)
  return max(0.0, float(noise / signal)) if signal > 0 else math.nan


def noise_limited(curve: LossCurve) -> float | str:
  """limit / 2 / (1 + B_simple / B): the best step under gradient noise.

  McCandlish et al. (2018), section 2.2: a noisy gradient's best rate is
  eps_max / (1 + B_noise / B), where eps_max is the best without noise. On a
  quadratic that is 1 / L, half the stability limit 2 / L. So the half is
  theory's; it was checked, not fitted, against runs of 5 and 10 epochs at
  batches of 32, 128 and 512, seeds 0 to 9 (results/range_rule/tuning.json).
  It is a rule for plain SGD: with momentum or Adam the best rate is another
  fraction of the limit.
  """
  largest = limit(curve)
  if largest is None:
    return "the ramp ended before the loss was back at its start"
  ratio = noise_ratio(curve)
  if math.isnan(ratio):
    missing = curve.noise is None
    return f"gradient noise {'not measured' if missing else 'hides its mean'}"
  return largest / 2 / (1 + ratio)


RULES: dict[str, Rule] = {
  "steepest": steepest,
  "minimum/10": minimum_tenth,
  "valley": valley,
  "descending": lowest,
  "noise": noise_limited,
}
MEANINGS = {
  "steepest": "where the loss falls fastest",
  "minimum/10": "a tenth of the rate at the loss's minimum",
  "valley": "the middle of the longest descent",
  "descending": "the largest rate that still descends",
  "noise": "half the largest rate of use, less for the gradient's noise",
}
DEFAULT_RULE = "noise"


def check_rule(rule: str) -> None:
  """Raises InputError unless the rule is one of RULES."""
  if rule not in RULES:
    raise InputError(f"rule={rule}: expected one of {', '.join(RULES)}")


def suggest(curves: Sequence[LossCurve], rule: str) -> Suggestion:
  """What a rule says over all seeds.

  It refuses if not more than half of the seeds have a descent, or if they
  disagree: 90 % quantile of the rates over 10 % quantile above LARGEST_SPREAD.

  Raises:
    InputError: The rule is not in RULES, or there is no curve.
  """
  check_rule(rule)
  if not curves:
    raise InputError("no curve to read a rate off, expected at least one seed")
  answers = [refusal(curve) or RULES[rule](curve) for curve in curves]
  rates = [None if isinstance(a, str) else a for a in answers]
  found = np.array([rate for rate in rates if rate is not None])
  spread = _spread(found)
  rate = low = high = None
  if 2 * len(found) <= len(curves):
    counts = collections.Counter(a for a in answers if isinstance(a, str))
    why, count = counts.most_common(1)[0]
    of = f" ({count} of {len(curves)} seeds)" if len(curves) > 1 else ""
    reason = f"no suggestion, {why}{of}"
  elif spread is not None and spread > LARGEST_SPREAD:
    reason = (
      f"no suggestion, seeds disagree: rates from {found.min():.3g} to "
      f"{found.max():.3g}, spread {spread:.3g} above {LARGEST_SPREAD:g}"
    )
  else:
    if len(found) > 1:
      rate, low, high = stats.geometric_mean(found)
    else:
      rate = float(found[0])
    reason = f"{rule}, geometric mean over {len(found)} of {len(curves)} seeds"
    if len(curves) == 1:
      reason = f"{rule}: {MEANINGS[rule]}, on one seed's curve"
  return Suggestion(
    rule, rate, low, high, len(found), len(curves), spread, tuple(rates), reason
  )


def _spread(rates: Float[np.ndarray, " S"]) -> float | None:
  if not len(rates):
    return None
  low, high = np.quantile(np.log(rates), [0.1, 0.9])
  return float(np.exp(high - low))


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
  """A recording, judged."""

  recording: Recording
  curves: tuple[LossCurve, ...]  # one for each seed
  suggestions: tuple[Suggestion, ...]  # one for each rule, in RULES' order
  warning: str | None  # why the curve may not show what rate is too large
  rule: str = DEFAULT_RULE  # the one to follow

  def suggestion(self, rule: str) -> Suggestion:
    """That rule's; KeyError if there is none of the name."""
    return {found.rule: found for found in self.suggestions}[rule]

  @property
  def rate(self) -> float | None:
    """What the rule that is followed suggests; None if it refuses."""
    return self.suggestion(self.rule).rate

  @property
  def reason(self) -> str:
    """Where the rate comes from, or why there is none; one line."""
    reason = self.suggestion(self.rule).reason
    still = sum(not has_risen(curve) for curve in self.curves)
    if self.rate is None or not still:
      return reason
    where = f" in {still} of {len(self.curves)} seeds"
    return (
      f"{reason}; the loss had not risen again at the ramp's end"
      f"{where if len(self.curves) > 1 else ''}, so the rate may be too large"
    )

  def __str__(self) -> str:
    """A line for each rule, the warning if any, and what is followed."""
    lines = [f"{'rule':<11} {'rate':>9}  {'95 % interval':<19} seeds"]
    for found in self.suggestions:
      rate = "none" if found.rate is None else f"{found.rate:.3g}"
      interval = ""
      if found.low is not None:
        interval = f"{found.low:.3g} to {found.high:.3g}"
      seeds = f"{found.n}/{found.seeds}"
      last = "<" if found.rule == self.rule else ""
      if found.rate is None:
        last = f"{last} {found.reason}".strip()
      line = f"{found.rule:<11} {rate:>9}  {interval:<19} {seeds:>5}  {last}"
      lines.append(line.rstrip())
    if self.warning:
      lines.append(f"warning: {self.warning}")
    if self.rate is None:
      lines.append(self.reason)
    else:
      lines.append(f"learning rate {self.rate:.2g}, by the rule {self.rule}")
    return "\n".join(lines)

  def plot(self, title: str = "") -> "plots.Figure":
    """The ramp and the curves as a figure, as `figures.range_test` draws it."""
    from mnist_jax.range_test import figures  # matplotlib only where it draws

    return figures.range_test(self, title)

  def to_dict(self) -> dict[str, Any]:
    """All but the curves' points as plain numbers and strings, for JSON."""
    return {
      "seeds": list(self.recording.seeds),
      "measured_on": self.recording.measured_on,
      "low": float(self.recording.rates[0]),
      "high": float(self.recording.rates[-1]),
      "steps": len(self.recording.rates),
      "smoothing": self.curves[0].smoothing,
      "warning": self.warning,
      "stops": [
        None if curve.stop is None else dataclasses.asdict(curve.stop)
        for curve in self.curves
      ],
      "suggestions": list(map(dataclasses.asdict, self.suggestions)),
    }


def judge(
  recording: Recording,
  *,
  rule: str = DEFAULT_RULE,
  smoothing: float = range_curve.SMOOTHING,
  divergence_factor: float = range_curve.DIVERGENCE_FACTOR,
) -> RangeTest:
  """Smooths and cuts the curves and asks every rule; `rule` is to be followed.

  Raises:
    InputError: The rule is not in RULES, or the smoothing or the factor is out
      of its range.
  """
  check_rule(rule)
  curves = range_curve.loss_curves(
    recording, smoothing=smoothing, divergence_factor=divergence_factor
  )
  suggestions = tuple(suggest(curves, rule) for rule in RULES)
  warning = recording.note or range_curve.warning(curves)
  return RangeTest(recording, curves, suggestions, warning, rule)
