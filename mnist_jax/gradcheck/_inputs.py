"""What a gradient check was handed: validated, named when it is not valid."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from mnist_jax.gradcheck._differences import (
  GradcheckError,
  Layout,
  Losses,
  LossFn,
  flatten,
  noise_level,
  require_same_structure,
  same_trace,
)
from mnist_jax.gradcheck._report import Verdict


class Ended(Exception):
  """The check cannot go on to compare; carries the verdict and reason."""

  def __init__(self, verdict: Verdict, reason: str) -> None:
    super().__init__(reason)
    self.verdict, self.reason = verdict, reason


def called(what: str, function: Callable[..., Any], *args: Any) -> Any:
  """function(*args); its failure is the caller's, told in one line."""
  try:
    return function(*args)
  except (Ended, GradcheckError):
    raise
  except Exception as error:
    text = (str(error).strip() or "no message").splitlines()[0]
    raise GradcheckError(
      f"{what} raised {type(error).__name__}: {text}"
    ) from error


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


def given_gradient(
  grads: PyTree | Callable[..., PyTree],
  layout: Layout,
  params: PyTree,
  args: tuple[Any, ...],
  dtypes: tuple[Any, ...],
) -> tuple[np.ndarray, np.ndarray]:
  """The gradient to check [P], and its working precision's epsilon [P].

  The precision is that of the parameters from which it was computed: a
  function is handed float64, and returning float32 then is a loss.
  """
  meant = dtypes
  if callable(grads):
    meant = (np.dtype(np.float64),) * len(dtypes)
    found, given, _ = flatten(called("grads", grads, params, *args), "grads")
    require_same_structure(layout, found)
    again = flatten(called("grads", grads, params, *args), "grads")[1]
    off = np.abs(given - again).max() > 1e-12 * np.abs(given).max()
    if np.all(np.isfinite(given)) and off:
      raise Ended(
        Verdict.NONDETERMINISTIC, "two calls of grads gave different values"
      )
  else:
    found, given, _ = flatten(grads, "grads")
    require_same_structure(layout, found)
  epsilon = np.concatenate(
    [
      np.full(size, float(jnp.finfo(dtype).eps))
      for size, dtype in zip(layout.sizes, meant, strict=True)
    ]
  )
  return given, epsilon


def require_scalar(loss_fn: LossFn, params: PyTree, args: tuple) -> Any:
  """The dtype of the loss.

  Raises:
    GradcheckError: it raises, or is not a real floating scalar.
  """
  shape = called("loss_fn", jax.eval_shape, loss_fn, params, *args)
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


def require_deterministic(
  losses: Losses, params: PyTree, epsilon: float
) -> float:
  """The loss at params; ends the check where two evaluations differ."""
  args = losses.args
  values = [called("loss_fn", losses.at, losses.theta) for _ in range(2)]
  if not called("loss_fn", same_trace, losses.loss_fn, params, args):
    values += [
      float(called("loss_fn", losses.loss_fn, params, *args)) for _ in range(2)
    ]
  if not np.all(np.isfinite(values)):
    raise Ended(Verdict.NOT_FINITE, f"the loss is {values[0]} at params")
  spread = max(values) - min(values)
  if spread > 64 * epsilon * max(map(abs, values)):
    raise Ended(
      Verdict.NONDETERMINISTIC,
      f"evaluations at the same params differ by {spread:.3g}: "
      + ", ".join(f"{v:.9g}" for v in values),
    )
  return values[0]


def effective_precision(
  losses: Losses, loss: float, dtype: Any, given: np.ndarray, seed: int
) -> tuple[Any, float]:
  """The dtype in which the loss is computed in effect, and its noise.

  A loss may round its parameters to float32 inside and return float64: its
  noise is then that of float32, and moves far below float32's spacing go
  unnoticed.
  """
  for grid in dict.fromkeys((np.dtype(dtype), np.dtype(np.float32))):
    if grid != np.float64 and _rounds_params(losses, grid, seed):
      losses.grid = grid
      dtype = grid
      break
  epsilon = float(jnp.finfo(dtype).eps)
  return dtype, noise_level(losses, loss, epsilon, given, seed)


def _rounds_params(losses: Losses, grid: Any, seed: int) -> bool:
  """Whether rounding params to a shorter dtype never changes the loss."""
  rng = np.random.default_rng(seed)
  seen = set()
  for scale in (0.01, 0.03, 0.1, 0.3):
    theta = losses.theta + scale * rng.standard_normal(losses.theta.size)
    value = losses.at(theta)
    if value != losses.at(theta.astype(grid).astype(np.float64)):
      return False
    seen.add(value)
  return len(seen) > 1  # a loss that never changes tells nothing
