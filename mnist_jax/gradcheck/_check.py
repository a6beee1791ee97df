"""A gradient check one can believe: a verdict, the place, the likely cause.

`check` compares a gradient with finite differences (section 12.3) for any
scalar JAX function of any pytree. In place of one step and one ratio it
estimates each derivative from several steps with an error bar, and looks at
every entry that does not fit with a whole ladder of steps on either side, so
that rounding and kinks are not taken for mistakes nor mistakes for rounding.

Shapes: P parameters.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from mnist_jax.gradcheck import _inputs as inputs
from mnist_jax.gradcheck._comparison import measure, refine
from mnist_jax.gradcheck._coverage import choose, pinpoint
from mnist_jax.gradcheck._layout import GradcheckError, flatten
from mnist_jax.gradcheck._numeric import differences, scales, traced
from mnist_jax.gradcheck._numeric.differences import (
  Losses,
  LossFn,
  Raised,
  require_method,
)
from mnist_jax.gradcheck._problem import Problem, Request
from mnist_jax.gradcheck._report import Report, Verdict, report_on

_MOVE = 1e-2  # in parts of the parameters' root mean square
_FUNCTION = "a function of params, as in {}(loss_fn, params, {})"


@functools.wraps(differences.numeric_gradient)
def numeric_gradient(
  loss_fn: LossFn, params: PyTree, step: float, **keywords: Any
) -> PyTree:
  """As the function of that name, with its input looked at."""
  wanted = _FUNCTION.format("numeric_gradient", "step")
  inputs.require_function("loss_fn", loss_fn, wanted)
  inputs.require_args(keywords.get("args", ()))
  inputs.require_counts(chunk_size=keywords.get("chunk_size"))
  inputs.require_step(step, params, keywords.get("dtype", np.float64))
  with inputs.told():
    return differences.numeric_gradient(loss_fn, params, step, **keywords)


@inputs.told()
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
  max_coordinates: int | None = None,
  directions: int = 8,
  seed: int = 0,
  chunk_size: int | None = None,
  worst: int = 8,
) -> Report:
  """Checks a gradient against finite differences and says what it found.

  All is computed in float64 in a scope of its own; the caller's arrays and
  settings stay as they are. What cannot be, since it holds arrays of other
  types or since a key gives other random numbers then, is computed in the
  precision that it has, which the report names. Each check traces the loss
  anew, which may read what has changed since the last (an attribute, a global),
  and compiles it unless that gives one of the most recent programs.

  Args:
    loss_fn: The loss, loss_fn(params, *args) -> real scalar. It may close over
      float32 data; that meets float64 parameters in float64.
    params: A pytree of real or complex floating arrays of any shapes; the real
      and the imaginary part of a complex one are judged apart.
    grads: A pytree like params, or a function (params, *args) -> such a
      pytree, which is called with float64 parameters. Values given in float32
      for float32 params are judged to float32's precision. What a function
      gives that looks wrong where a primitive of the loss stands on a kink is
      looked at again beside the point; a pytree's cannot be.
    args: Further arguments, passed as they are: arrays as traced arrays, all
      else (bools, words, sizes) as Python values.
    steps: The steps h, one or several, positive; by default they are chosen for
      the loss's precision.
    method: The chapter's formula, "two_sided" or "one_sided". Entries that do
      not fit are looked at from both sides in either case.
    penalty_fn: The L2 part of the loss, params -> scalar, already in loss_fn;
      it lets the diagnosis tell it from the data term.
    batch_size: The B of the loss's mean; it lets the diagnosis recognise 1/B.
    candidates: By name of a mistake, the gradient with that mistake, as a
      pytree or a function like `grads`; the diagnosis names those that match.
    numeric_fn: A faster way to the same numbers for a loss whose structure is
      known, (params, h) -> pytree of two-sided differences.
    max_coordinates: The number up to which every coordinate is checked; beyond
      it a sample is, by tensor and by random directions. By default 100,000, or
      as many as take about 20 seconds, if that is less.
    directions: The number of random directions over all parameters in a
      sampled check.
    seed: The seed of the sample and the directions, not negative.
    chunk_size: The number of moved copies of params held at once, which bounds
      the memory; by default one on a CPU, else as many as fit 16 MiB, at most
      128.
    worst: The number of entries listed in the report.

  Returns:
    The report. Values that are not finite, a loss that differs between two
    evaluations, and a wrong gradient are verdicts, not exceptions.

  Raises:
    GradcheckError: What was given cannot be checked: other structure or shape
      of grads, integer or empty leaves, a loss that is no scalar or raises, an
      option out of its range.
  """
  wanted = _FUNCTION.format("check", "grads")
  inputs.require_function("loss_fn", loss_fn, wanted)
  inputs.require_args(args)
  inputs.require_candidates({} if candidates is None else candidates)
  for name, function in (
    ("penalty_fn", penalty_fn),
    ("numeric_fn", numeric_fn),
  ):
    if function is not None:
      inputs.require_function(name, function, "a function of params")
  inputs.require_counts(
    batch_size=batch_size,
    chunk_size=chunk_size,
    directions=directions,
    max_coordinates=max_coordinates,
    seed=seed,
    worst=worst,
  )
  require_method(method)
  if numeric_fn is not None and method != "two_sided":
    raise GradcheckError("numeric_fn gives two-sided differences only")
  request = Request(
    grads=grads,
    steps=inputs.falling(steps),
    method=method,
    penalty_fn=penalty_fn,
    batch_size=batch_size,
    candidates=candidates or {},
    numeric_fn=numeric_fn,
    max_coordinates=max_coordinates,
    directions=directions,
    seed=seed,
    worst=worst,
  )
  layout, theta, dtypes = flatten(params, "params")
  wide = Losses(loss_fn, layout, theta, tuple(args), chunk_size)
  own = inputs.as_given(wide, dtypes)
  with own.scope():
    drawn = own is not wide and not callable(grads) and traced.draws(own)
  for losses in (own,) if drawn else (wide, own):
    with losses.scope():
      try:
        report = _check_at(losses, own, request, dtypes)
        wrong = report.verdict is Verdict.WRONG
        if wrong and callable(grads) and traced.on_a_kink(losses):
          there = dataclasses.replace(losses, theta=_moved(losses, seed))
          beside = _check_at(there, own, request, dtypes)
          report = _reconciled(report, beside)
        break
      except Raised:
        if losses is own:  # else it is tried once more, in its own precision
          raise
  return report


def _check_at(
  losses: Losses, own: Losses, request: Request, dtypes: tuple[Any, ...]
) -> Report:
  """The check at one point; in the losses' scope."""
  layout = losses.layout
  try:
    inputs.require_finite(layout, losses.theta, "params")
    dtype = inputs.require_scalar(losses)
    given, epsilons = inputs.given_gradient(request.grads, losses, dtypes)
    penalty = None
    if request.penalty_fn is not None:
      slope = jax.grad(request.penalty_fn)
      penalty = inputs.gradient_from("penalty_fn", slope, losses)
    candidates = {
      name: inputs.gradient_from(
        f"candidates[{name!r}]", candidate, losses, *losses.args
      )
      for name, candidate in request.candidates.items()
    }
    jaxpr = traced.trace(losses)
    loss = inputs.deterministic_loss(losses, dtype, jaxpr)
  except inputs.Ended as ended:
    verdict, reason = ended.args
    size = losses.theta.size
    return Report(verdict, reason, method=request.method, total=size)
  losses, dtype = inputs.effective_precision(losses, dtype, jaxpr, request.seed)
  noise, scale = scales.by_tensor(losses, loss, dtype, given, request.seed)
  if callable(request.grads):
    own = losses
  problem = Problem(
    request=request,
    losses=losses,
    given=given,
    tolerance=inputs.given_rounding(losses, own, given, epsilons, scale),
    penalty=penalty,
    candidates=candidates,
    loss=loss,
    noise=noise,
    scale=scale,
    precision=dtype,
    kinked=traced.has_kinks(jaxpr),
  )
  coverage = pinpoint(problem, choose(problem))
  comparison, by_step = measure(problem, coverage)
  return report_on(refine(comparison), by_step)


def _moved(losses: Losses, seed: int) -> Float[np.ndarray, " P"]:
  """A point beside theta, where a kink at it is left and a mistake is not.

  At the start biases are 0 and inputs often are, so that units stand exactly on
  the kink of relu, several at once. A derivative by the chain rule, with any
  convention for relu'(0), need not lie between the one-sided derivatives there
  (relu(x) - relu(-x) is x, and the chain rule with relu'(0) = 0 gives 0): the
  gradient is no derivative, though the code that computes it is right. A small
  random move takes all parameters off their kinks.
  """
  theta = losses.theta.astype(np.float64)
  whole = float(np.sqrt(np.mean(theta**2))) or 1.0
  sizes = np.empty_like(theta)
  for part in losses.layout.slices():
    sizes[part] = float(np.sqrt(np.mean(theta[part] ** 2))) or whole
  rng = np.random.default_rng(seed)
  moved = theta + _MOVE * sizes * rng.standard_normal(theta.size)
  return moved.astype(losses.theta.dtype)


def _reconciled(report: Report, beside: Report) -> Report:
  """The report of a wrong gradient, corrected by what was found beside it.

  Tensors that are wrong at the point and right beside it are at a kink, not
  those that rounding hides there: nothing speaks for them. If that clears all
  of them, so is the gradient, which is said in the reason.
  """
  if not beside.tensors:
    return report
  freed = {
    tensor.path
    for tensor, other in zip(report.tensors, beside.tensors, strict=True)
    if tensor.verdict is Verdict.WRONG and other.verdict is Verdict.CORRECT
  }
  if not freed and beside.verdict is Verdict.WRONG:
    return report
  tensors = tuple(
    dataclasses.replace(
      tensor,
      verdict=Verdict.KINK,
      wrong=0,
      kinks=tensor.kinks + tensor.wrong,
      causes=(),
    )
    if tensor.path in freed
    else tensor
    for tensor in report.tensors
  )
  entries = tuple(
    dataclasses.replace(entry, state="kink")
    if entry.path in freed and entry.state == "wrong"
    else entry
    for entry in report.worst
  )
  report = dataclasses.replace(report, tensors=tensors, worst=entries)
  if report.wrong_tensors or beside.verdict is Verdict.WRONG:
    return report
  return dataclasses.replace(
    report,
    verdict=Verdict.KINK,
    reason=(
      "no derivative at the point in "
      f"{', '.join(sorted(freed)) or 'theta'}, where the "
      "gradient agrees beside it: every parameter moved a little, it is right"
    ),
  )


def assert_gradients(
  loss_fn: LossFn,
  params: PyTree,
  grads: PyTree | Callable[..., PyTree],
  **keywords: Any,
) -> None:
  """Passes if `check` of these arguments says correct.

  Raises:
    AssertionError: The verdict is any other; the message is the report.
    GradcheckError: As `check`.
  """
  __tracebackhide__ = True  # for pytest to end at the caller's line
  report = check(loss_fn, params, grads, **keywords)
  if report.verdict is not Verdict.CORRECT:
    raise AssertionError(str(report))
