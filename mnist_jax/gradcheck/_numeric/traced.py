"""What a trace of a loss tells, that its values do not.

A trace is the program jax makes of Python code. It names the primitives in
use: those that draw random numbers, that have kinks, that shorten numbers.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.gradcheck._numeric.differences import Losses, Raised, blamed_on


def trace(losses: Losses) -> Any:
  """The loss as a closed jaxpr of params, made anew each time.

  Raises:
    GradcheckError: The loss raises.
  """
  # A new function each time: jax keeps traces by function.
  with blamed_on("loss_fn"):
    return jax.make_jaxpr(lambda params: losses.loss(params))(losses.params())


def _equations(jaxpr: Any) -> Iterator[Any]:
  """All equations, those of inner programs too (loops, jit, custom rules)."""
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    yield equation
    yield from _inside(equation)


def _inside(equation: Any) -> Iterator[Any]:
  """The equations of the programs that one has as parameters."""
  for inner in jax.tree.leaves(list(equation.params.values())):
    if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
      yield from _equations(inner)


def same(first: Any, second: Any) -> bool:
  """Whether two traces of a loss are the same program with the same data.

  A Python-side random mask is drawn while tracing and frozen by compilation,
  so only tracing (or running) a loss twice can reveal it.
  """
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


def draws(losses: Losses) -> bool:
  """Whether random numbers are drawn inside.

  With the same key those of 64 bits are others than those of 32.
  """
  try:
    names = [e.primitive.name for e in _equations(trace(losses))]
  except Raised:  # which then is found and said where the loss is computed
    return False
  return any(n.startswith(("random_bits", "threefry", "rng_")) for n in names)


def has_kinks(jaxpr: Any) -> bool:
  """Whether a primitive is used that is not smooth everywhere."""
  return any(map(_kinked, _equations(jaxpr)))


def _kinked(equation: Any) -> bool:
  if equation.primitive.name not in _KINKED:
    return False
  # Whole numbers, as a loop's counter, have no derivative to have kinks.
  kind = getattr(equation.invars[0].aval, "dtype", None)
  return kind is not None and jnp.issubdtype(kind, jnp.floating)


def on_a_kink(losses: Losses) -> bool:
  """Whether a primitive stands where it is not smooth, at the point.

  A maximum of equals, the sign of 0, a comparison of equals. Loops and
  branches are not looked into: those with such a primitive count as well.
  """
  return _tied(trace(losses), jax.tree.leaves(losses.params()))[0]


def _tied(closed: Any, values: list[Any]) -> tuple[bool, list[Any]]:
  """Whether a program meets a tie at such inputs, and its outputs."""
  jaxpr = getattr(closed, "jaxpr", closed)  # that of jax.checkpoint is open
  consts = getattr(closed, "consts", ())
  known = dict(zip(jaxpr.constvars, consts, strict=True))
  known |= dict(zip(jaxpr.invars, values, strict=True))

  def read(variables: Any) -> list[Any]:
    return [v.val if hasattr(v, "val") else known[v] for v in variables]

  tied = False
  for equation in jaxpr.eqns:
    given, primitive = read(equation.invars), equation.primitive
    called = [equation.params[k] for k in _CALLED if k in equation.params]
    if called and primitive.name not in _LOOPS:
      inside, found = _tied(called[0], given)
      tied |= inside
    else:
      tied |= _is_tie(equation, given)
      found = primitive.bind(*given, **equation.params)
      found = found if primitive.multiple_results else [found]
    known |= dict(zip(equation.outvars, found, strict=True))
  return tied, read(jaxpr.outvars)


_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_OPAQUE = ("callback", "ffi", "custom_call", "reduce_precision")
_LOOPS = ("scan", "while", "cond")
_COMPARED = frozenset(["eq", "ge", "gt", "le", "lt", "max", "min", "ne"])
_OF_ZERO = frozenset(("abs", "sign"))
_OF_MANY = frozenset(
  ["cummax", "cummin", "reduce_max", "reduce_min", "sort", "top_k"]
)
_OF_WHOLE = frozenset(["ceil", "floor", "round"])
_KINKED = _COMPARED | _OF_ZERO | _OF_MANY | _OF_WHOLE | {"clamp", "rem"}


def _is_tie(equation: Any, given: list[Any]) -> bool:
  name = equation.primitive.name
  if name in _LOOPS:
    return any(map(_kinked, _inside(equation)))
  if name not in _KINKED or not jnp.issubdtype(given[0].dtype, jnp.floating):
    return False
  first = np.asarray(given[0], np.float64)
  if name in _COMPARED:
    return bool(np.any(first == np.asarray(given[1], np.float64)))
  if name in _OF_ZERO:
    return bool(np.any(first == 0))
  if name in _OF_WHOLE:
    return bool(np.any(first == np.round(first)))
  if name in _OF_MANY:
    return np.unique(first).size < first.size
  return True


def shortened_to(jaxpr: Any) -> tuple[Any, ...]:
  """The floating types with fewer bits to which numbers are cut, by bits.

  What Python or foreign code computes may be float32 inside.
  """
  found = set()
  for equation in _equations(jaxpr):
    if any(word in equation.primitive.name for word in _OPAQUE):
      found.add(np.dtype(np.float32))
    if equation.primitive.name != "convert_element_type":
      continue
    old = getattr(equation.invars[0].aval, "dtype", None)
    types = (equation.params["new_dtype"], old)
    if all(jnp.issubdtype(t, jnp.floating) for t in types if t is not None):
      new, before = (jnp.finfo(t or types[0]).nmant for t in types)
      if new < before:
        found.add(np.dtype(types[0]))
  return tuple(sorted(found, key=lambda dtype: jnp.finfo(dtype).nmant))
