"""What a gradient check was handed: validated, named when it is not valid.

Shapes: P all parameters, N points asked for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from mnist_jax.gradcheck._differences import Losses, blamed_on
from mnist_jax.gradcheck._layout import GradcheckError, Layout, flatten_like
from mnist_jax.gradcheck._report import Verdict

_NOISE_DRAWN = 24  # coordinates of a tensor tried, and used, for the noise
_NOISE_LINES = 8


class Ended(Exception):
  """The check cannot go on to compare; its args are verdict and reason."""


def falling(steps: Sequence[float] | float | None) -> tuple[float, ...] | None:
  """The different steps, the largest first; None as it is."""
  if steps is None:
    return None
  listed = np.unique(np.atleast_1d(np.asarray(steps, np.float64)))[::-1]
  if not listed.size or not np.all(np.isfinite(listed) & (listed > 0)):
    raise GradcheckError(f"steps is {steps}; positive numbers are needed")
  return tuple(float(h) for h in listed)


def require_finite(layout: Layout, vector: np.ndarray, what: str) -> None:
  """Ends the check at a value that is not finite, named by leaf and index."""
  bad = np.flatnonzero(~np.isfinite(vector))
  if bad.size:
    leaf, index = layout.locate(int(bad[0]))
    raise Ended(
      Verdict.NOT_FINITE,
      f"{what}{layout.paths[leaf]} has {bad.size} values that are not finite "
      f"in all its leaves, the first ({vector[bad[0]]}) at {index}",
    )


def gradient_from(
  what: str, source: PyTree | Callable[..., PyTree], losses: Losses, *args: Any
) -> Float[np.ndarray, " P"]:
  """A gradient at the point, from a pytree or a function (params, *args)."""
  if callable(source):
    with blamed_on(what):
      source = source(losses.params(), *args)
  return flatten_like(losses.layout, source, what)


def given_gradient(
  grads: PyTree | Callable[..., PyTree], losses: Losses, dtypes: tuple[Any, ...]
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
  """The finite gradient to check, and its working precision's epsilon.

  The precision is that of the parameters from which it was computed: a
  function is handed float64, and returning float32 then is a loss.
  """
  given = gradient_from("grads", grads, losses, *losses.args)
  if callable(grads):
    dtypes = (np.dtype(np.float64),) * len(dtypes)
    again = gradient_from("grads", grads, losses, *losses.args)
    require_finite(losses.layout, given, "grads")
    off = ~(np.abs(given - again) <= 1e-12 * np.abs(given).max())
    if np.any(off):
      raise Ended(
        Verdict.NONDETERMINISTIC, "two calls of grads gave different values"
      )
  require_finite(losses.layout, given, "grads")
  epsilons = [float(jnp.finfo(dtype).eps) for dtype in dtypes]
  return given, np.repeat(epsilons, losses.layout.sizes)


def require_scalar(losses: Losses) -> Any:
  """The dtype of the loss, a real floating one."""
  with blamed_on("loss_fn"):
    shape = jax.eval_shape(losses.loss, losses.params())
  if not hasattr(shape, "shape"):
    raise GradcheckError(
      f"loss_fn returns a {type(shape).__name__}; a scalar is needed"
    )
  if shape.shape != ():
    raise GradcheckError(
      f"loss_fn returns shape {shape.shape}; a scalar, shape (), is needed"
    )
  if not jnp.issubdtype(shape.dtype, jnp.floating):
    raise GradcheckError(
      f"loss_fn returns {shape.dtype}; a real floating dtype is needed"
    )
  return shape.dtype


def same_trace(losses: Losses) -> bool:
  """Whether two traces of the loss are the same program with the same data.

  A Python-side random mask is drawn while tracing and frozen by compilation,
  so only tracing (or running) a loss twice can reveal it.
  """

  def traced() -> Any:  # a new function each time: JAX keeps traces by function
    return jax.make_jaxpr(lambda params: losses.loss(params))(losses.params())

  first, second = traced(), traced()
  if str(first) != str(second):
    return False
  pairs = zip(first.consts, second.consts, strict=True)
  try:
    return all(
      a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
      for a, b in pairs
    )
  except (TypeError, ValueError):  # what cannot be compared, as keys
    return False


def deterministic_loss(losses: Losses, dtype: Any) -> float:
  """The loss at the point, the same and finite in all evaluations."""
  values = [float(losses.at(losses.theta)[0]) for _ in range(2)]
  with blamed_on("loss_fn"):
    if not same_trace(losses):
      values += [float(losses.loss(losses.params())) for _ in range(2)]
  if not np.all(np.isfinite(values)):
    raise Ended(Verdict.NOT_FINITE, f"the loss is {values[0]} at params")
  spread = max(values) - min(values)
  epsilon = float(jnp.finfo(dtype).eps)
  if spread > 64 * epsilon * max(map(abs, values)):
    raise Ended(
      Verdict.NONDETERMINISTIC,
      f"evaluations at the same params differ by {spread:.3g}: "
      + ", ".join(f"{v:.9g}" for v in values),
    )
  return values[0]


def effective_precision(
  losses: Losses, dtype: Any, seed: int
) -> tuple[Losses, Any]:
  """The type in which the loss is computed, and the losses with steps to fit.

  A loss may round its parameters to float32 inside and return float64: its
  noise is then that of float32, and moves far below float32's spacing go
  unnoticed. It is one that rounding params beforehand never changes.
  """
  for grid in dict.fromkeys((np.dtype(dtype), np.dtype(np.float32))):
    if grid == np.float64:
      continue
    rng = np.random.default_rng(seed)
    seen = set()
    for scale in (0.01, 0.03, 0.1, 0.3):
      theta = losses.theta + scale * rng.standard_normal(losses.theta.size)
      value = losses.at(theta)[0]
      if value != losses.at(theta.astype(grid).astype(np.float64))[0]:
        break
      seen.add(value)
    else:
      if len(seen) > 1:  # a loss that never changes tells nothing
        return dataclasses.replace(losses, grid=grid), grid
  return losses, dtype


def noise_level(
  losses: Losses,
  loss: float,
  epsilon: float,
  weights: Float[np.ndarray, " P"],
  seed: int,
) -> float:
  """The size of the rounding noise in the loss near theta.

  In every tensor some coordinates that move the loss are moved to nine equally
  spaced points; sixth differences take any smooth part away and leave the noise
  (More & Wild 2011, "Estimating computational noise", eq. 2.6). Too small a
  spacing may see less than there is, as neighbouring points round alike, and a
  large one may cross a kink: so of four spacings, and of a tensor's
  coordinates, the second largest answer counts; of the tensors the largest. A
  standard deviation, at least half the spacing of floats at `loss`; half of
  the coordinates are those of the largest weights.
  """
  rng = np.random.default_rng(seed)
  base = losses.round(losses.theta)
  measured = [epsilon / 2 * abs(loss)]
  for part in losses.layout.slices():
    order = np.argsort(-np.abs(weights[part]), kind="stable")
    drawn = part.start + np.concatenate(
      [order[: _NOISE_LINES // 2], rng.permutation(order)[:_NOISE_DRAWN]]
    )
    drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    moved = losses.at(base, drawn, losses.round(base[drawn] + 0.01))
    spreads = _spreads(losses, drawn[moved != loss][:_NOISE_LINES], epsilon)
    if spreads.size:
      measured.append(float(np.sort(spreads)[-2:][0]))
  return max(measured)


def _spreads(
  losses: Losses, positions: np.ndarray, epsilon: float
) -> np.ndarray:
  """Noise along each coordinate, for those where it is finite."""
  order, points = 6, np.arange(1, 10)  # theta itself may lie on a kink
  base = losses.round(losses.theta)
  where = np.repeat(positions, points.size)
  rows = []
  for power in (0.5, 0.42, 0.36, 0.3):
    shifts = epsilon**power * np.tile(points, positions.size)
    values = losses.at(base, where, losses.round(base[where] + shifts))
    with np.errstate(invalid="ignore"):
      sixth = np.diff(values.reshape(-1, points.size), order, axis=1)
    rows.append(
      np.sqrt(np.mean(sixth**2, axis=1) / math.comb(2 * order, order))
    )
  spreads = np.sort(np.stack(rows), axis=0)[-2]
  return spreads[np.isfinite(spreads)]
