"""What a gradient check is asked, and what it knows before it compares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from mnist_jax.gradcheck._numeric.differences import Losses

# The first step by the loss's precision, near the best of the extrapolated
# differences: epsilon^(1/5) two-sided, epsilon^(1/3) one-sided.
_FIRST_STEP = {
  "two_sided": {52: 1e-3, 23: 5e-2, 10: 0.25, 7: 0.5},
  "one_sided": {52: 1e-5, 23: 5e-3, 10: 0.1, 7: 0.2},
}


def first_step(precision: Any, method: str = "two_sided") -> float:
  """The first step for a loss of that type that bends on a scale of one."""
  steps = _FIRST_STEP[method]
  return steps.get(jnp.finfo(precision).nmant, steps[min(steps)])


@dataclasses.dataclass(frozen=True)
class Request:
  """Arguments of `check`, by their names there."""

  grads: PyTree | Callable[..., PyTree]
  steps: tuple[float, ...] | None  # falling
  method: str
  penalty_fn: Callable[[PyTree], Any] | None
  batch_size: int | None
  candidates: Mapping[str, PyTree | Callable[..., PyTree]]
  numeric_fn: Callable[[PyTree, float], PyTree] | None
  max_coordinates: int | None
  directions: int
  seed: int
  worst: int


@dataclasses.dataclass(frozen=True)
class Problem:
  """A loss and a gradient at one point, all of them finite."""

  request: Request
  losses: Losses  # around the point
  given: Float[np.ndarray, " P"]
  tolerance: Float[np.ndarray, " P"]  # the rounding error allowed in `given`
  penalty: Float[np.ndarray, " P"] | None  # the gradient of the L2 part
  candidates: Mapping[str, Float[np.ndarray, " P"]]
  loss: float  # at the point
  # A standard deviation of the rounding in one loss, as moves of each show it.
  noise: Float[np.ndarray, " P"]
  scale: Float[np.ndarray, " P"]  # the unit of each entry's steps
  precision: Any  # the type in which the loss is computed, in effect
  kinked: bool  # whether it may have kinks somewhere

  @property
  def epsilon(self) -> float:
    """The spacing of the loss's numbers at 1 (2.2e-16 for float64)."""
    return float(jnp.finfo(self.precision).eps)

  @property
  def least_noise(self) -> float:
    """The noise of a loss that does not move at all, and so shows none.

    All that is known then is that numbers of the order of one cancelled in it.
    """
    return self.epsilon / 2 * max(1.0, abs(self.loss))

  @property
  def back(self) -> int:
    """How far below the last step that agrees a derivative is read."""
    return 2 if self.kinked else 1

  @property
  def steps(self) -> tuple[float, ...]:
    """The steps asked for or the best, falling; one is joined by its half.

    The best are in units of the scale, those asked for are as they are.
    """
    asked = self.request.steps
    steps = asked or (first_step(self.precision, self.request.method),)
    return steps if len(steps) > 1 else (steps[0], steps[0] / 2)

  @property
  def unit(self) -> Float[np.ndarray, " P"]:
    """The unit of `steps`."""
    mine = self.request.steps is None and self.request.numeric_fn is None
    return self.scale if mine else np.ones_like(self.scale)

  @property
  def ladder(self) -> tuple[float, ...]:
    """The steps of a closer look, in units of the scale, by sqrt(10)."""
    top = max(13.5 * self.epsilon**0.2, first_step(self.precision))
    bottom = min(0.7 * self.epsilon**0.5, top / 100)
    count = int(np.ceil(2 * np.log10(top / bottom))) + 1
    return tuple(float(h) for h in top * 10.0 ** (-0.5 * np.arange(count)))
