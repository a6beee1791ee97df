"""Updates against batch size: least updates, least examples, critical batch."""

import math
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Real

from mnist_jax.runtime.errors import InputError


class Tradeoff(NamedTuple):
  """updates = S_min + E_min / B: the least updates, the least examples."""

  least_updates: float
  least_examples: float

  @property
  def critical_batch(self) -> float:
    """E_min / S_min: twice S_min updates and twice E_min examples there."""
    return self.least_examples / self.least_updates

  def updates(self, batches: Real[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """S(B) > 0."""
    return self.least_updates + self.least_examples / batches


def tradeoff(
  batches: Real[np.ndarray, " K"], updates: Real[np.ndarray, " _"]
) -> Tradeoff:
  """The fit of (S / S_min - 1)(E / E_min - 1) = 1, with E = S B.

  McCandlish et al. (2018), "An empirical model of large-batch training",
  section 2.3: that is S = S_min + E_min / B. Least squares on log S.

  Args:
    batches: at least 3, above 0.
    updates: of one seed, or a geometric mean over seeds; above 0.

  Raises:
    InputError: fewer batches, other shapes, or a value not above 0.
  """
  if len(batches) < 3 or len(batches) != len(updates) or min(updates) <= 0:
    raise InputError(
      f"{len(batches)} batches and {len(updates)} numbers of updates, "
      "expected at least 3 of each, above 0"
    )
  log_updates = np.log(np.asarray(updates, np.float64))
  first = np.log([min(updates), updates[0] * batches[0]])
  # MINPACK's, with slopes, is 12 times as fast as the default; a study fits
  # thousands.
  fit = scipy.optimize.least_squares(
    _residuals, first, _slopes, method="lm", args=(batches, log_updates)
  )
  least, examples = fit.x
  return Tradeoff(math.exp(least), math.exp(examples))


def _residuals(
  logs: Float[np.ndarray, " 2"],
  batches: Real[np.ndarray, " K"],
  log_updates: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " K"]:
  """Of log S; `logs` are those of S_min and E_min."""
  return np.logaddexp(logs[0], logs[1] - np.log(batches)) - log_updates


def _slopes(
  logs: Float[np.ndarray, " 2"],
  batches: Real[np.ndarray, " K"],
  _: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "K 2"]:
  share = scipy.special.expit(logs[1] - np.log(batches) - logs[0])
  return np.stack([1 - share, share], axis=1)
