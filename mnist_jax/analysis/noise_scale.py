"""The simple noise scale tr(Sigma) / |G|^2 from two batch sizes.

McCandlish et al. (2018), "An empirical model of large-batch training",
appendix A.1: E |g_B|^2 = |G|^2 + tr(Sigma) / B, so the squared gradient norms
of two batch sizes give both unknowns. R repetitions.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real
from scipy import stats

from mnist_jax.analysis.gradient_noise import variance_share
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import Effect, finite, in_unit, student_interval


class TwoBatch(NamedTuple):
  """Unbiased estimates, one per repetition; either may be below 0.

  Attributes:
    square_norm: of |G|^2.
    trace: of tr(Sigma).
  """

  square_norm: Float[np.ndarray, " R"]
  trace: Float[np.ndarray, " R"]


@dataclasses.dataclass(frozen=True)
class NoiseScale:
  """B_simple, in examples, or why it is undefined.

  Attributes:
    square_norm, trace: |G|^2 and tr(Sigma) with Student intervals over the
      repetitions.
    scale: their ratio with Fieller's interval; None where undefined.
    reason: why it is; "" where it is not.
  """

  square_norm: Effect
  trace: Effect
  scale: Effect | None
  reason: str = ""

  def to_dict(self) -> dict[str, Any]:
    """The fields as plain numbers and strings, for JSON."""
    return dataclasses.asdict(self)


def two_batch(
  small: Real[np.ndarray, " R"],
  big: Real[np.ndarray, " _"],
  batch_sizes: tuple[int, int],
  num_examples: int | None = None,
) -> TwoBatch:
  """|G|^2 and tr(Sigma) from squared gradient norms at two batch sizes.

  With f(B) = 1 / B this is McCandlish et al. (2018), appendix A.1:
    |G|^2 = (B_big |g_big|^2 - B_small |g_small|^2) / (B_big - B_small)
    tr(Sigma) = (|g_small|^2 - |g_big|^2) / (1 / B_small - 1 / B_big)
  and for batches drawn without replacement from N examples f(B) has the
  finite-population factor, without which a batch of a large part of the data
  would bias both.

  Args:
    small, big: |g|^2 of R batches of each size.
    batch_sizes: (B_small, B_big).
    num_examples: N; None for infinitely many.

  Raises:
    InputError: sizes that do not rise or exceed N, or values not finite or
      not as many.
  """
  b_small, b_big = batch_sizes
  if not 1 <= b_small < b_big or b_big > (num_examples or math.inf):
    raise InputError(
      f"batch sizes are {b_small} and {b_big}, expected the second larger, "
      f"and both from 1 to {num_examples or 'any number'}"
    )
  small, big = finite("small", small), finite("big", big)
  if small.shape != big.shape:
    raise InputError(
      f"big has {len(big)} values, expected as many as small: {len(small)}"
    )
  f_small = variance_share(b_small, num_examples)
  f_big = variance_share(b_big, num_examples)
  trace = (small - big) / (f_small - f_big)
  return TwoBatch(small - f_small * trace, trace)


def _fieller(
  square_norm: Float[np.ndarray, " R"],
  trace: Float[np.ndarray, " R"],
  confidence: float,
) -> Effect:
  """mean(trace) / mean(square_norm), with Fieller's interval (1954).

  All ratios r that Student's t does not reject for mean(trace - r *
  square_norm) = 0: a bounded interval, since the caller has seen to it that
  0 is not in the interval of mean(square_norm).
  """
  n = len(trace)
  t = float(stats.t.isf((1.0 - confidence) / 2.0, n - 1))
  norm, top = float(square_norm.mean()), float(trace.mean())
  (v_norm, cov), (_, v_top) = np.cov(square_norm, trace) / n
  a = norm**2 - t**2 * v_norm
  b = norm * top - t**2 * cov
  c = top**2 - t**2 * v_top
  reach = math.sqrt(max(b**2 - a * c, 0.0))
  ratio = top / norm
  spread = float(np.std(trace - ratio * square_norm, ddof=1))
  return Effect(
    estimate=ratio,
    low=min((b - reach) / a, ratio),
    high=max((b + reach) / a, ratio),
    n=n,
    confidence=confidence,
    interval="Fieller interval",
    standard_error=spread / math.sqrt(n) / abs(norm),
  )


def noise_scale(estimates: TwoBatch, *, confidence: float = 0.95) -> NoiseScale:
  """The ratio of the two means over repetitions, with its interval.

  The mean of the ratios would be biased, or infinite: the paper averages
  both terms first, as is done here. Where the interval of |G|^2 holds 0 the
  data do not exclude an infinite noise scale, and none is given.

  Args:
    estimates: at least two repetitions.
    confidence: of all three intervals, in (0, 1).

  Raises:
    InputError: values not finite, fewer than two, confidence out of range.
  """
  in_unit("confidence", confidence)
  square_norm = finite("square_norm", estimates.square_norm)
  trace = finite("trace", estimates.trace)
  norm_effect = student_interval(square_norm, confidence)
  trace_effect = student_interval(trace, confidence)
  if norm_effect.low <= 0.0:
    return NoiseScale(
      norm_effect,
      trace_effect,
      None,
      f"undefined: |G|^2 is {norm_effect.estimate:.3g}, its interval from "
      f"{norm_effect.low:.3g} to {norm_effect.high:.3g}, after "
      f"{norm_effect.n} repetitions",
    )
  scale = _fieller(square_norm, trace, confidence)
  return NoiseScale(norm_effect, trace_effect, scale)
