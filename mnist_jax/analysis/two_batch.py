"""The simple noise scale tr(Sigma) / |G|^2 from two batch sizes.

McCandlish et al. (2018), "An empirical model of large-batch training",
appendix A.1: E |g_B|^2 = |G|^2 + tr(Sigma) / B, so the squared gradient norms
of two batch sizes give both unknowns. R repetitions.
"""

import dataclasses
import math

import numpy as np
import scipy
from jaxtyping import Float, Real

from mnist_jax.analysis.gradient_noise import variance_share
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.effects import Effect, finite, student_interval


@dataclasses.dataclass(frozen=True)
class NoiseScale:
  """B_simple, in examples, or why it is undefined."""

  square_norm: Effect  # |G|^2, with Student's interval over the repetitions
  trace: Effect  # tr(Sigma), likewise
  scale: Effect | None  # their ratio, with Fieller's interval
  reason: str = ""  # why it is undefined


def terms(
  small: Real[np.ndarray, " R"],
  big: Real[np.ndarray, " _"],
  batch_sizes: tuple[int, int],
  num_examples: int | None = None,
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
  """|G|^2 and tr(Sigma) from squared gradient norms at two batch sizes.

  With f(B) = 1 / B this is McCandlish et al. (2018), appendix A.1:
    |G|^2 = (B_big |g_big|^2 - B_small |g_small|^2) / (B_big - B_small)
    tr(Sigma) = (|g_small|^2 - |g_big|^2) / (1 / B_small - 1 / B_big)
  and for batches drawn without replacement from N examples f(B) has the
  finite-population factor, without which a batch of a large part of the data
  would bias both.

  Args:
    small, big: The |g|^2 of R batches of each size.
    num_examples: N; None stands for infinitely many.

  Returns:
    Unbiased estimates, one per repetition; either may be below 0.

  Raises:
    InputError: sizes that do not rise or exceed N, or values not finite or
      not as many.
  """
  b_small, b_big = batch_sizes
  if not 1 <= b_small < b_big or b_big > (num_examples or math.inf):
    raise InputError(
      f"batch_sizes are {b_small} and {b_big}, expected the second larger, "
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
  return small - f_small * trace, trace


def _fieller(
  square_norm: Float[np.ndarray, " R"], trace: Float[np.ndarray, " R"]
) -> Effect:
  """mean(trace) / mean(square_norm), with Fieller's 95 % interval (1954).

  All ratios r that Student's t does not reject for mean(trace - r *
  square_norm) = 0: a bounded interval, since the caller has seen to it that
  0 is not in the interval of mean(square_norm).
  """
  n, confidence = len(trace), 0.95
  t = float(scipy.stats.t.isf((1.0 - confidence) / 2.0, n - 1))
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


def noise_scale(
  small: Real[np.ndarray, " R"],
  big: Real[np.ndarray, " _"],
  batch_sizes: tuple[int, int],
  num_examples: int | None = None,
) -> NoiseScale:
  """The ratio of the means of both `terms` over repetitions, with intervals.

  The mean of the ratios would be biased, or infinite: the paper averages
  both terms first, as is done here. Where the interval of |G|^2 holds 0 the
  data do not exclude an infinite noise scale, and none is given.

  Raises:
    InputError: as `terms`, or fewer than two repetitions.
  """
  square_norm, trace = terms(small, big, batch_sizes, num_examples)
  norm = student_interval(square_norm)
  trace_effect = student_interval(trace)
  if norm.low <= 0.0:
    return NoiseScale(
      norm,
      trace_effect,
      None,
      f"undefined: |G|^2 is {norm.estimate:.3g}, its interval from "
      f"{norm.low:.3g} to {norm.high:.3g}, after {norm.n} repetitions",
    )
  return NoiseScale(norm, trace_effect, _fieller(square_norm, trace))
