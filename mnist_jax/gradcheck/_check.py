"""A gradient check one can believe: a verdict, the place, the likely cause.

`check` compares a gradient with finite differences (section 12.3) for any
scalar JAX function of any pytree. In place of one step and one ratio it
estimates each derivative from several steps with an error bar, and looks at
every entry that does not fit with a whole ladder of steps on either side, so
that rounding and kinks are not taken for mistakes nor mistakes for rounding.

Shapes: P parameters, N of them covered, K steps.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from mnist_jax.gradcheck import _coverage as gradcheck_coverage
from mnist_jax.gradcheck._beside import moved, reconcile
from mnist_jax.gradcheck._comparison import Comparison, coarse, refine
from mnist_jax.gradcheck._differences import (
  GradcheckError,
  Layout,
  Losses,
  LossFn,
  flatten,
  require_method,
  require_same_structure,
)
from mnist_jax.gradcheck._inputs import (
  Ended,
  called,
  effective_precision,
  given_gradient,
  require_deterministic,
  require_finite,
  require_scalar,
)
from mnist_jax.gradcheck._report import (
  RECHECK,
  VERY_SATISFYING,
  Cause,
  Entry,
  Report,
  TensorReport,
  Verdict,
  band,
)
from mnist_jax.gradcheck._verdict import report_on
from mnist_jax.runtime import precision

__all__ = [
  "RECHECK",
  "VERY_SATISFYING",
  "Cause",
  "Entry",
  "GradcheckError",
  "Report",
  "TensorReport",
  "Verdict",
  "assert_gradients",
  "band",
  "check",
  "distance",
]

# The first step by the loss's precision, near the best of the extrapolated
# differences: epsilon^(1/5) two-sided, epsilon^(1/3) one-sided.
_FIRST_STEP = {
  "two_sided": {52: 1e-3, 23: 5e-2, 10: 0.25, 7: 0.5},
  "one_sided": {52: 1e-5, 23: 5e-3, 10: 0.1, 7: 0.2},
}
# Rounding errors a correct gradient may carry, in units of its largest entry.
_GIVEN_ROUNDINGS = 256
_LARGEST_STEP = 0.2


def distance(a: PyTree, b: PyTree) -> float:
  """The chapter's diff ||a - b|| / (||a|| + ||b||), and 0 for 0 / 0 (12.3).

  Args:
    a, b: pytrees of floating arrays of the same structure.

  Returns:
    A number in [0, 1].

  Raises:
    GradcheckError: the structures or shapes differ.
  """
  layout, left, _ = flatten(a, "a")
  other, right, _ = flatten(b, "b")
  require_same_structure(layout, other, "b")
  size = float(np.linalg.norm(left) + np.linalg.norm(right))
  return float(np.linalg.norm(left - right)) / size if size else 0.0


def _differences(
  losses: Losses,
  params: PyTree,
  positions: np.ndarray,
  steps: Sequence[float],
  method: str,
  numeric_fn: Callable[[PyTree, float], PyTree] | None,
) -> np.ndarray:
  """The plain differences, [K, N]."""
  rows = []
  for step in steps:
    if numeric_fn is None:
      rows.append(
        called("loss_fn", losses.differences, positions, step, method)
      )
      continue
    result = called("numeric_fn", numeric_fn, params, step)
    found, numeric, _ = flatten(result, "numeric_fn's result")
    require_same_structure(losses.layout, found, "numeric_fn's result")
    rows.append(numeric[positions])
  return np.stack(rows)


def _steps(
  steps: Sequence[float] | float | None, method: str, dtype: Any
) -> tuple[float, ...]:
  """At least two steps, falling; one step is joined by its half."""
  if steps is None:
    steps = (_FIRST_STEP[method][jnp.finfo(dtype).nmant],)
  listed = np.unique(np.atleast_1d(np.asarray(steps, np.float64)))[::-1]
  if not listed.size or not np.all(np.isfinite(listed) & (listed > 0)):
    raise GradcheckError(f"steps is {steps}; positive numbers are needed")
  if listed.size == 1:
    listed = np.array([listed[0], listed[0] / 2])
  return tuple(float(h) for h in listed)


@dataclasses.dataclass(frozen=True)
class _Options:
  """What `check` was asked for, beyond the functions themselves."""

  steps: Sequence[float] | float | None
  method: str
  numeric_fn: Callable[[PyTree, float], PyTree] | None
  max_coordinates: int
  directions: int
  seed: int
  batch_size: int | None
  worst: int


def check(
  loss_fn: LossFn,
  params: PyTree,
  grads: PyTree | Callable[..., PyTree],
  *,
  args: Sequence[Any] = (),
  steps: Sequence[float] | float | None = None,
  method: str = "two_sided",
  penalty_fn: Callable[[PyTree], Any] | None = None,
  batch_size: int | None = None,
  candidates: Mapping[str, PyTree | Callable[..., PyTree]] | None = None,
  numeric_fn: Callable[[PyTree, float], PyTree] | None = None,
  max_coordinates: int = 100_000,
  directions: int = 8,
  seed: int = 0,
  chunk_size: int | None = None,
  worst: int = 8,
) -> Report:
  """Checks a gradient against finite differences and says what it found.

  All is computed in float64 in a scope of its own; the caller's arrays and
  settings stay as they are. The compiled loss is kept for the most recent
  functions: check the same function object again, with other params or args,
  and nothing is compiled.

  Args:
    loss_fn: loss_fn(params, *args) -> real scalar. It may close over float32
      data; that meets float64 parameters in float64.
    params: a pytree of real floating arrays.
    grads: a pytree like params, or a function (params, *args) -> such a
      pytree, which is called with float64 parameters. Values given in float32
      for float32 params are judged to float32's precision. What a function
      gives that looks wrong is looked at again beside the point, so that a
      kink at it is not taken for a mistake; a pytree's cannot be.
    args: further arguments, passed as they are.
    steps: h, one or several; by default chosen for the loss's precision.
    method: "two_sided" or "one_sided", the chapter's formulas. Entries that do
      not fit are looked at from both sides in either case.
    penalty_fn: the L2 part of the loss, params -> scalar, already in loss_fn;
      lets the diagnosis tell it from the data term.
    batch_size: B, lets the diagnosis recognise 1/B.
    candidates: by name of a mistake, the gradient with that mistake, as a
      pytree or a function like `grads`; the diagnosis names those that match.
    numeric_fn: (params, h) -> pytree of two-sided differences, a faster way to
      the same numbers for a loss whose structure is known.
    max_coordinates: up to here every coordinate is checked; beyond, a sample
      by tensor and random directions.
    directions: random directions over all parameters, of a sampled check.
    seed: of the sample and the directions; not negative.
    chunk_size: moved copies of params held at once, which bounds the memory;
      by default one on a CPU, else as many as fit 16 MiB.
    worst: entries listed in the report.

  Returns:
    The report. Values that are not finite, a loss that differs between two
    evaluations, and a wrong gradient are verdicts, not exceptions.

  Raises:
    GradcheckError: what was given cannot be checked: other structure or shape
      of grads, integer or empty leaves, a loss that is no scalar or raises.
  """
  require_method(method)
  if numeric_fn is not None and method != "two_sided":
    raise GradcheckError("numeric_fn gives two-sided differences only")
  options = _Options(
    steps,
    method,
    numeric_fn,
    max_coordinates,
    directions,
    seed,
    batch_size,
    worst,
  )
  layout, theta, dtypes = flatten(params, "params")

  def at(theta: np.ndarray) -> Report:
    with precision.float64():
      losses = Losses(loss_fn, layout, theta, tuple(args), chunk_size)
      return _check_at(losses, grads, dtypes, penalty_fn, candidates, options)

  report = at(theta)
  if report.verdict is Verdict.WRONG and callable(grads):
    report = reconcile(report, at(moved(theta, seed)))
  return report


def _check_at(
  losses: Losses,
  grads: PyTree | Callable[..., PyTree],
  dtypes: tuple[Any, ...],
  penalty_fn: Callable[[PyTree], Any] | None,
  candidates: Mapping[str, Any] | None,
  options: _Options,
) -> Report:
  """`check` at one point; in a float64 scope."""
  layout, theta, args = losses.layout, losses.theta, losses.args
  wide = layout.unflatten(jnp.asarray(theta))
  try:
    require_finite(layout, theta, "params")
    loss_dtype = require_scalar(losses.loss_fn, wide, args)
    given, epsilon = given_gradient(grads, layout, wide, args, dtypes)
    require_finite(layout, given, "grads")
    extra = _extra_gradients(penalty_fn, candidates, layout, wide, args)
    return _compare(losses, wide, loss_dtype, given, epsilon, extra, options)
  except Ended as ended:
    return Report(
      ended.verdict, ended.reason, method=options.method, total=theta.size
    )


def _extra_gradients(
  penalty_fn: Callable[[PyTree], Any] | None,
  candidates: Mapping[str, Any] | None,
  layout: Layout,
  params: PyTree,
  args: tuple[Any, ...],
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
  """The penalty's gradient and the candidates, each as one vector [P]."""
  penalty = None
  if penalty_fn is not None:
    tree = called("penalty_fn", jax.grad(penalty_fn), params)
    penalty = flatten(tree, "penalty_fn's gradient")[1]
  vectors = {}
  for name, candidate in (candidates or {}).items():
    what = f"candidates[{name!r}]"
    if callable(candidate):
      candidate = called(what, candidate, params, *args)
    found, vectors[name], _ = flatten(candidate, what)
    require_same_structure(layout, found, what)
  return penalty, vectors


def _compare(
  losses: Losses,
  params: PyTree,
  loss_dtype: Any,
  given: np.ndarray,
  given_epsilon: np.ndarray,
  extra: tuple[np.ndarray | None, dict[str, np.ndarray]],
  options: _Options,
) -> Report:
  """The comparison itself, of finite values in a float64 scope."""
  epsilon = float(jnp.finfo(loss_dtype).eps)
  loss = require_deterministic(losses, params, epsilon)
  dtype, noise = effective_precision(
    losses, loss, loss_dtype, given, options.seed
  )
  epsilon = float(jnp.finfo(dtype).eps)
  steps = _steps(options.steps, options.method, dtype)
  tolerance = gradcheck_coverage.per_tensor_max(losses.layout, given)
  tolerance *= _GIVEN_ROUNDINGS * np.maximum(given_epsilon, epsilon)
  ladder = _ladder(steps, epsilon)
  coverage = gradcheck_coverage.choose(
    losses,
    given,
    tolerance,
    noise,
    ladder,
    options.max_coordinates,
    options.directions,
    options.seed,
    whole=options.numeric_fn is not None,
  )

  comparison = Comparison.start(
    losses.layout,
    coverage,
    given,
    tolerance,
    loss,
    noise,
    epsilon,
    options.steps is not None,
  )
  table = _measure(comparison, losses, params, steps, options)
  refine(comparison, losses, ladder)
  by_step = tuple(
    (h, comparison.distance_to(row))
    for h, row in zip(steps, table, strict=True)
  )
  return report_on(
    comparison,
    theta=losses.theta,
    penalty=extra[0],
    candidates=extra[1],
    batch_size=options.batch_size,
    by_step=by_step,
    method=options.method,
    precision=str(dtype),
    worst=options.worst,
  )


def _measure(
  comparison: Comparison,
  losses: Losses,
  params: PyTree,
  steps: tuple[float, ...],
  options: _Options,
) -> np.ndarray:
  """Takes in the differences at the steps, and returns them [K, N].

  Larger steps are tried as well while rounding hides too much, unless the
  caller chose the steps.
  """

  def add(some: tuple[float, ...]) -> np.ndarray:
    table = _differences(
      losses,
      params,
      comparison.coverage.positions,
      some,
      options.method,
      options.numeric_fn,
    )
    comparison.add(table, some, options.method)
    return table

  table = add(steps)
  larger = steps[0] * 10
  while (
    options.steps is None and larger <= _LARGEST_STEP and coarse(comparison)
  ):
    add((larger, larger / 2))
    larger *= 10
  return table


def _ladder(steps: Sequence[float], epsilon: float) -> tuple[float, ...]:
  """The steps with which single entries are looked at, falling by sqrt(10)."""
  top = max(13.5 * epsilon**0.2, steps[0])
  bottom = min(0.7 * epsilon**0.5, top / 100)
  count = int(np.ceil(2 * np.log10(top / bottom))) + 1
  return tuple(float(h) for h in top * 10.0 ** (-0.5 * np.arange(count)))


def assert_gradients(
  loss_fn: LossFn,
  params: PyTree,
  grads: PyTree | Callable[..., PyTree],
  **keywords: Any,
) -> None:
  """Passes if `check` says correct; else fails with its report as message.

  Args:
    loss_fn, params, grads, keywords: as for `check`.

  Raises:
    AssertionError: any other verdict.
    GradcheckError: as `check`.
  """
  report = check(loss_fn, params, grads, **keywords)
  if report.verdict is not Verdict.CORRECT:
    raise AssertionError(str(report))
