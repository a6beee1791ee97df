"""Is a VJP, a JVP or a second derivative right? As `check` says of a gradient.

For numbers c of the outputs' shapes, Re sum(c f(x)) is a scalar loss. Its
gradient is what `jax.vjp` of f gives for the cotangent c (neither conjugates),
and entry by entry Re sum(c t) with the tangent t of f along that coordinate. A
second derivative is the first one of the function that gives the first.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from mnist_jax.gradcheck import _inputs as inputs
from mnist_jax.gradcheck._check import check
from mnist_jax.gradcheck._layout import GradcheckError, flatten, flatten_like
from mnist_jax.gradcheck._numeric.differences import blamed_on
from mnist_jax.gradcheck._report import Report, TensorReport, Verdict
from mnist_jax.gradcheck.functions.arguments import (
  Arguments,
  Named,
  Rest,
  take_apart,
)
from mnist_jax.gradcheck.functions.subject import (
  Pull,
  Push,
  Subject,
  projection,
  subject_of,
  with_derivative,
)
from mnist_jax.gradcheck.functions.values import (
  Values,
  other_values,
  unfit_values,
)

_APART = ("args", "candidates", "grads", "numeric_fn", "penalty_fn")
_MOST_COORDINATES = 100_000  # each costs a JVP


def _worst(reports: Sequence[Report]) -> Report:
  return min(reports, key=lambda report: list(Verdict).index(report.verdict))


def _judged(
  subject: Subject,
  gradient: Callable[..., Named],
  what: str,
  cotangents: int,
  seed: int,
  keywords: dict[str, Any],
  factor: str = "cotangent",
) -> Report:
  """The worst report over the cotangents, up to the first mistake."""

  def loss(params: Named, c: list[Any], rest: Rest) -> Any:
    with blamed_on(subject.name):
      return projection(c, subject.outputs(params, rest))

  reports: list[Report] = []
  for number in range(cotangents):
    report = check(
      loss,
      subject.params,
      gradient,
      args=(subject.cotangents(seed, number), subject.rest),
      seed=seed,
      **keywords,
    )
    which = f"{factor} {number + 1} of {cotangents}"
    if report.verdict is Verdict.CORRECT:
      which = f"{cotangents} random {factor}s"
    reports.append(
      dataclasses.replace(
        report,
        reason=f"{what}, {which}: {report.reason}",
        tensors=tuple(map(_without_penalty, report.tensors)),
      )
    )
    if report.verdict is Verdict.WRONG:
      break
  return _worst(reports)


def _without_penalty(tensor: TensorReport) -> TensorReport:
  """Without the guess at an L2 term, which is a loss's."""
  causes = tuple(
    dataclasses.replace(
      cause, text=cause.text.removesuffix(", as from an L2 term")
    )
    for cause in tensor.causes
  )
  return dataclasses.replace(tensor, causes=causes)


def _judged_forward(
  subject: Subject,
  push: Push,
  what: str,
  cotangents: int,
  seed: int,
  keywords: dict[str, Any],
) -> Report:
  """As `_judged`, of a JVP along each coordinate and a random direction."""
  most = keywords.get("max_coordinates") or _MOST_COORDINATES
  layout, theta, _ = flatten(subject.params, "args")
  if theta.size > most:
    raise GradcheckError(
      f"{what} is looked at along each of {theta.size} coordinates, more than "
      f"max_coordinates={most}; choose fewer arguments by argnums"
    )
  direction = np.random.default_rng(seed).standard_normal(theta.size)
  seen: list[_Sums] = []  # of all cotangents

  @jax.jit
  def forward(params: Named, c: list[Any]) -> Any:
    def along(direction: Any) -> Any:
      tangents = layout.unflatten(direction)
      return projection(c, push(params, subject.rest, tangents))

    def one(k: Any) -> Any:
      return along(jnp.zeros(theta.size).at[k].set(1.0))

    return jax.lax.map(one, jnp.arange(theta.size)), along(
      jnp.asarray(direction)
    )

  @jax.jit
  def backward(params: Named, c: list[Any]) -> Named:
    return subject.pull(params, subject.rest, c)

  def gradient(params: Named, c: list[Any], _: Rest) -> Named:
    slopes, straight = map(np.asarray, forward(params, c))
    turned = None
    try:
      found = backward(params, c)
    except Exception:  # not every JVP can be transposed
      pass
    else:
      turned = float(flatten_like(layout, found, "the vjp") @ direction)
    terms = (slopes * direction).astype(np.float64)
    seen.append(
      _Sums(terms.sum(), np.abs(terms).sum(), float(straight), turned)
    )
    return layout.gradient(slopes)

  how = (cotangents, seed, keywords)
  report = _judged(subject, gradient, what, *how, "product")
  if report.verdict is Verdict.CORRECT:
    # The root of the precision in which f is computed, in effect.
    part = float(jnp.finfo(report.precision).eps) ** 0.5
    for sums in seen:
      if text := sums.disagreement(part):
        return dataclasses.replace(
          report, verdict=Verdict.WRONG, reason=f"{what}: {text}"
        )
  return report


class _Sums(NamedTuple):
  """A derivative along one direction t, in three ways."""

  total: float  # the sum of those along each coordinate
  size: float  # of its terms
  straight: float  # <c, J t>
  turned: float | None  # <J^T c, t>, where there is a VJP

  def disagreement(self, part: float) -> str | None:
    """What speaks against a JVP that is right along each coordinate."""
    if abs(self.straight - self.total) > part * self.size:
      return (
        f"it is not linear in the tangents: {self.straight:.9g} along a "
        f"direction whose coordinates add up to {self.total:.9g}"
      )
    if self.turned is None or (
      abs(self.turned - self.total) <= part * self.size
    ):
      return None
    return (
      "jvp and vjp disagree in the dot-product test: <c, J t> is "
      f"{self.total:.9g}, <J^T c, t> is {self.turned:.9g}"
    )


def _require(
  f: Any, order: int, cotangents: int, seed: int, keywords: dict[str, Any]
) -> None:
  inputs.require_function("f", f, "a function of the arguments that follow")
  if not inputs.is_whole(order) or order not in (1, 2):
    raise GradcheckError(f"order is {order!r}, expected 1 or 2")
  inputs.require_counts(cotangents=cotangents, seed=seed)
  if "max_coordinates" in keywords:
    inputs.require_counts(max_coordinates=keywords["max_coordinates"])
  for name in _APART:
    if name in keywords:
      raise GradcheckError(f"{name} is for the check of a loss's gradient")


@inputs.told()
def check_vjp(
  f: Callable[..., PyTree],
  *args: Any,
  vjp: Callable[..., Any] | None = None,
  argnums: int | Sequence[int] | None = None,
  order: int = 1,
  cotangents: int = 2,
  seed: int = 0,
  **keywords: Any,
) -> Report:
  """Checks the VJP of a function of any pytrees: a `jax.custom_vjp`, or yours.

  Every entry of the cotangents of the arguments is compared with differences
  of f, for random cotangents of its outputs. Of complex numbers by jax's
  convention. Leaves without a derivative (integers, bools, keys, words, what
  `nondiff_argnums` names) are passed to f as they are.

  Args:
    f: The function, f(*args) -> a pytree of arrays.
    args: Its arguments, pytrees; the report names their leaves by f's signature
      and path, as ".x['w']", those of a complex one as ".z.real" and ".z.imag".
    vjp: By default `jax.vjp` of f. Else vjp(cotangent, *args), with a cotangent
      like f's output, returns a tuple with a cotangent for each argument, and
      may return None for one that is zero or has none.
    argnums: The arguments to look at, by number; by default all.
    order: 2 to check the derivative of the VJP too, by reverse over reverse
      and, where jax has it, by forward over reverse (Hessian-vector products).
    cotangents: The number of random cotangents, at least 1.
    seed: The seed of the cotangents and of what `check` draws, not negative.
    **keywords: As of `check`: steps, method, max_coordinates, directions,
      chunk_size, worst, batch_size.

  Returns:
    The report as of `check`, the worst over cotangents and orders. A rule whose
    forward pass gives other values than f is a wrong one.

  Raises:
    GradcheckError: As `check`; f or its VJP raises; no argument or output has
      a derivative.
  """
  _require(f, order, cotangents, seed, keywords)
  arguments = take_apart(f, args, argnums)
  subject = subject_of(f, arguments)
  if unfit := unfit_values(subject):
    return unfit
  pull: Pull = subject.pull
  if vjp is not None:
    pull = _vjp_by_hand(f, vjp, arguments)
  elif other := other_values(_ruled_forward(subject), subject):
    return other
  how = (cotangents, seed, keywords)
  report = _judged(subject, _backward(pull), "vjp", *how)
  if order == 1 or report.verdict is not Verdict.CORRECT:
    return report
  c = subject.cotangents(seed, 0)
  first = subject.of(
    "the vjp of f", lambda params, rest: list(pull(params, rest, c).values)
  )
  reports = [
    report,
    _judged(first, _backward(first.pull), "reverse over reverse", *how),
  ]
  if _has_jvp(first):
    what = "forward over reverse"
    reports.append(_judged_forward(first, first.push, what, *how))
  ways = "both orders" if len(reports) > 2 else "both orders, in reverse only"
  return _worst_of_orders(reports, f"vjp, {ways}")


def _ruled_forward(subject: Subject) -> Values:
  """The values that the rule of a VJP gives."""

  def ruled(params: Named, rest: Rest) -> list[Array]:
    with blamed_on("the vjp of f"):
      return jax.vjp(lambda p: subject.outputs(p, rest), params)[0]

  return ruled


def _worst_of_orders(reports: Sequence[Report], what: str) -> Report:
  worst = _worst(reports)
  if worst.verdict is not Verdict.CORRECT:
    return worst
  text = f"{what}: all that was looked at agrees to within its error"
  return dataclasses.replace(worst, reason=text)


def _backward(pull: Pull) -> Callable[..., Named]:
  return lambda params, c, rest: pull(params, rest, c)


def _vjp_by_hand(
  f: Callable[..., PyTree], vjp: Callable[..., Any], arguments: Arguments
) -> Pull:
  """The VJP that a user wrote, vjp(cotangent, *args)."""

  def pull(params: Named, rest: Rest, cotangents: list[Any]) -> Named:
    args = arguments.merged(params, rest)
    with blamed_on("f"):
      leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda: f(*args)))
    given = iter(cotangents)
    full = [
      jnp.asarray(next(given)).astype(leaf.dtype)
      if jnp.issubdtype(leaf.dtype, jnp.inexact)
      else np.zeros(leaf.shape, jax.dtypes.float0)
      for leaf in leaves
    ]
    with blamed_on("vjp"):
      return arguments.cotangents(vjp(jax.tree.unflatten(treedef, full), *args))

  return pull


def _has_jvp(subject: Subject) -> bool:
  """Whether jax has the forward derivative, as not of a `jax.custom_vjp`."""
  params, rest = subject.here
  try:
    subject.push(params, rest, params)
  except GradcheckError:
    return False
  return True


@inputs.told()
def check_jvp(
  f: Callable[..., PyTree],
  *args: Any,
  jvp: Callable[..., Any] | None = None,
  argnums: int | Sequence[int] | None = None,
  order: int = 1,
  cotangents: int = 2,
  seed: int = 0,
  **keywords: Any,
) -> Report:
  """Checks the JVP of a function of any pytrees: a `jax.custom_jvp`, or yours.

  The derivative of f along every coordinate of the arguments, in its product
  with random numbers of the outputs' shapes, is compared with differences; that
  along a random direction must be their sum, and agree with the VJP where jax
  has one.

  Args:
    f: The function, as for `check_vjp`.
    args: Its arguments; at most `max_coordinates` entries (100,000 by default),
      as each costs a JVP.
    jvp: By default `jax.jvp` of f. Else jvp(primals, tangents), tuples like
      args, returns f's output and its tangent, as for `defjvp`. Tangents of
      leaves without a derivative are zeros of dtype float0, or None.
    argnums: The arguments to look at, by number; by default all.
    order: 2 to check the derivative of the JVP too, by forward over forward.
    cotangents: The number of random products, at least 1.
    seed: As for `check_vjp`.
    **keywords: As for `check_vjp`.

  Returns:
    The report as of `check`, the worst over products and orders.

  Raises:
    GradcheckError: As `check_vjp`; f is a `jax.custom_vjp`, which has no JVP.
  """
  _require(f, order, cotangents, seed, keywords)
  if isinstance(f, jax.custom_vjp) and jvp is None:
    raise GradcheckError(
      "f is a jax.custom_vjp, which has no jvp; check_vjp is its check"
    )
  arguments = take_apart(f, args, argnums)
  subject = subject_of(f, arguments)
  if unfit := unfit_values(subject):
    return unfit
  rule = _jvp_rule(subject, arguments, jvp)
  along = subject.tangents(seed)
  if other := other_values(lambda p, rest: rule(p, rest, along)[0], subject):
    return other

  def push(params: Named, rest: Rest, tangents: Named) -> list[Array]:
    return rule(params, rest, tangents)[1]

  how = (cotangents, seed, keywords)
  report = _judged_forward(subject, push, "jvp", *how)
  if order == 1 or report.verdict is not Verdict.CORRECT:
    return report
  t = subject.tangents(seed)
  first = subject.of("the jvp of f", lambda params, rest: push(params, rest, t))
  second = _judged_forward(first, first.push, "forward over forward", *how)
  return _worst_of_orders([report, second], "jvp, both orders")


def _jvp_rule(
  subject: Subject, arguments: Arguments, jvp: Callable[..., Any] | None
) -> Callable[[Named, Rest, Named], tuple[list[Array], list[Array]]]:
  """(values, tangents) of f's outputs, by jax or by the user's function."""

  def rule(
    params: Named, rest: Rest, tangents: Named
  ) -> tuple[list[Array], list[Array]]:
    cast = jax.tree.map(
      lambda t, p: jnp.asarray(t).astype(p.dtype), tangents, params
    )
    if jvp is None:
      with blamed_on("the jvp of f"):
        return jax.jvp(lambda p: subject.outputs(p, rest), (params,), (cast,))
    along = arguments.merged(cast, [_no_tangent(leaf) for leaf in rest])
    with blamed_on("jvp"):
      value, tangent = jvp(arguments.merged(params, rest), along)
      return with_derivative(value), with_derivative(tangent)

  return rule


def _no_tangent(leaf: Any) -> Any:
  shape = getattr(leaf, "shape", None)
  return None if shape is None else np.zeros(shape, jax.dtypes.float0)


def assert_vjp(f: Callable[..., PyTree], *args: Any, **keywords: Any) -> None:
  """Passes if `check_vjp` of these arguments says correct.

  Raises:
    AssertionError: The verdict is any other; the message is the report.
    GradcheckError: As `check_vjp`.
  """
  __tracebackhide__ = True
  report = check_vjp(f, *args, **keywords)
  if report.verdict is not Verdict.CORRECT:
    raise AssertionError(str(report))


def assert_jvp(f: Callable[..., PyTree], *args: Any, **keywords: Any) -> None:
  """Passes if `check_jvp` of these arguments says correct.

  Raises:
    AssertionError: The verdict is any other; the message is the report.
    GradcheckError: As `check_jvp`.
  """
  __tracebackhide__ = True
  report = check_jvp(f, *args, **keywords)
  if report.verdict is not Verdict.CORRECT:
    raise AssertionError(str(report))
