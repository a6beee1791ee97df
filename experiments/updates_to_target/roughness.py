"""How rough a curve is, whatever its trend."""

import numpy as np
from jaxtyping import Float, Real

from mnist_jax.runtime.errors import InputError


def roughness(values: Real[np.ndarray, "... W"]) -> Float[np.ndarray, "..."]:
  """The sd of what is left of curves when a slow trend is taken out.

  The root of half the mean square successive difference (von Neumann et al.
  1941, "The mean square successive difference"): the sd itself for values that
  are independent about a constant; a trend adds the square of its step, over
  2, to the square.

  Args:
    values: [..., W] of W equal windows, at least 3, finite.

  Returns:
    [...] in the units of values.

  Raises:
    InputError: fewer windows, or a value that is not finite.
  """
  values = np.asarray(values, np.float64)
  if values.shape[-1] < 3 or not np.isfinite(values).all():
    raise InputError(
      f"found {values.shape[-1]} windows, {int((~np.isfinite(values)).sum())} "
      "values not finite; expected at least 3 windows, all finite"
    )
  return np.sqrt((np.diff(values, axis=-1) ** 2).mean(axis=-1) / 2)
