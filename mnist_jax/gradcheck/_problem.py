"""What a gradient check is asked, and what it knows before it compares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from mnist_jax.gradcheck._differences import Losses, LossFn

# The first step by the loss's precision, near the best of the extrapolated
# differences: epsilon^(1/5) two-sided, epsilon^(1/3) one-sided.
_FIRST_STEP = {
  "two_sided": {52: 1e-3, 23: 5e-2, 10: 0.25, 7: 0.5},
  "one_sided": {52: 1e-5, 23: 5e-3, 10: 0.1, 7: 0.2},
}


@dataclasses.dataclass(frozen=True)
class Request:
  """The arguments of `check`, by their names there."""

  loss_fn: LossFn
  grads: PyTree | Callable[..., PyTree]
  args: tuple[Any, ...]
  steps: tuple[float, ...] | None  # falling
  method: str
  penalty_fn: Callable[[PyTree], Any] | None
  batch_size: int | None
  candidates: Mapping[str, PyTree | Callable[..., PyTree]]
  numeric_fn: Callable[[PyTree, float], PyTree] | None
  max_coordinates: int
  directions: int
  seed: int
  chunk_size: int | None
  worst: int


@dataclasses.dataclass(frozen=True)
class Problem:
  """A loss and a gradient at one point, all of them finite.

  Attributes:
    request: What was asked.
    losses: The loss around theta, the point [P].
    given: The gradient to check.
    tolerance: The rounding error allowed in `given`.
    penalty: The gradient of the L2 part, or None.
    candidates: What the gradient would be with each known mistake, by name.
    loss: The loss at theta.
    noise: The standard deviation of the rounding noise in one loss.
    precision: The type in which the loss is computed, in effect.
  """

  request: Request
  losses: Losses
  given: Float[np.ndarray, " P"]
  tolerance: Float[np.ndarray, " P"]
  penalty: Float[np.ndarray, " P"] | None
  candidates: Mapping[str, Float[np.ndarray, " P"]]
  loss: float
  noise: float
  precision: Any

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
  def steps(self) -> tuple[float, ...]:
    """The steps asked for or the best, falling; one is joined by its half."""
    steps = self.request.steps
    if steps is None:
      mantissa = jnp.finfo(self.precision).nmant
      steps = (_FIRST_STEP[self.request.method][mantissa],)
    return steps if len(steps) > 1 else (steps[0], steps[0] / 2)

  @property
  def ladder(self) -> tuple[float, ...]:
    """The steps for a closer look at an entry, falling by sqrt(10)."""
    top = max(13.5 * self.epsilon**0.2, self.steps[0])
    bottom = min(0.7 * self.epsilon**0.5, top / 100)
    count = int(np.ceil(2 * np.log10(top / bottom))) + 1
    return tuple(float(h) for h in top * 10.0 ** (-0.5 * np.arange(count)))
