"""The values of a function: the same each time, finite, and its rule's too."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mnist_jax.gradcheck._report import Report, Verdict
from mnist_jax.gradcheck.functions.arguments import Named, Rest
from mnist_jax.gradcheck.functions.subject import Subject
from mnist_jax.runtime import precision

Values = Callable[[Named, Rest], list[Array]]

# How far a rule's values may be from the function's, in parts of the largest.
_FORWARD_ROUNDINGS = 256
_ROOT = 1.5e-8  # of float64's spacing
_SHORT = {
  "bf16": jnp.bfloat16,
  "f16": jnp.float16,
  "f32": jnp.float32,
  "c64": jnp.complex64,
}


def unfit_values(subject: Subject) -> Report | None:
  """The report where f gives no finite values, or others when asked again."""
  again = subject.of(subject.name, subject.outputs).values
  for k, pair in enumerate(zip(subject.values, again, strict=True)):
    a, b = map(np.asarray, pair)
    at = None
    if same := a.shape == b.shape:
      at = _first_apart(a, b, 64 * float(jnp.finfo(a.dtype).eps))
    if not same or at is not None:
      text = "in shape" if at is None else _both(a, b, at, "then")
      return Report(
        Verdict.NONDETERMINISTIC,
        f"two calls of f with the same arguments differ: output {k} {text}",
      )
  if not all(np.all(np.isfinite(leaf)) for leaf in subject.params.values):
    return None  # for `check` to tell
  for k, value in enumerate(map(np.asarray, subject.values)):
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
      index = tuple(map(int, bad[0]))
      return Report(
        Verdict.NOT_FINITE,
        f"f's output {k} is not finite: {value[index]} at {index}",
      )
  return None


def other_values(ruled: Values, subject: Subject) -> Report | None:
  """The report where a rule gives other values than the function itself.

  They are compared in float64 where f can be computed so.
  """
  try:
    with precision.float64():
      return _compared(ruled, subject, *subject.in_float64)
  except Exception:  # float32 arrays that do not fit, or the rule's mistakes
    return _compared(ruled, subject, *subject.here)


def _compared(
  ruled: Values, subject: Subject, params: Named, rest: Rest
) -> Report | None:
  """As `other_values`, at params in their own precision."""
  pairs = zip(ruled(params, rest), subject.outputs(params, rest), strict=True)
  for k, pair in enumerate(pairs):
    a, b = map(np.asarray, pair)
    if a.shape != b.shape:
      text = f"has shape {a.shape}, expected {b.shape}"
    else:
      epsilon = float(jnp.finfo(b.dtype).eps)
      for values in (ruled, subject.outputs):
        epsilon = max(epsilon, _coarsest(values, params, rest))
      # What cancels in one of two formulas is no mistake in the other.
      part = max(_ROOT, min(_FORWARD_ROUNDINGS * epsilon, epsilon**0.5))
      at = _first_apart(a, b, part)
      if at is None:
        continue
      text = _both(a, b, at, "f's")
    return Report(
      Verdict.WRONG,
      f"the forward pass of the rule is not {subject.name}: its output {k} "
      f"{text}",
    )
  return None


def _coarsest(values: Values, params: Named, rest: Rest) -> float:
  """The largest spacing among the types in which something is computed."""
  text = str(jax.make_jaxpr(lambda p: values(p, rest))(params))
  found = set(re.findall(r":(bf16|f16|f32|c64)\[", text))
  return max((float(jnp.finfo(_SHORT[t]).eps) for t in found), default=0.0)


def _first_apart(
  a: np.ndarray, b: np.ndarray, part: float
) -> tuple[int, ...] | None:
  """Where a is furthest from b, if that is more than a part of the largest."""
  wide = np.result_type(a.dtype if a.dtype.kind == "c" else float, np.float64)
  a, b = a.astype(wide), b.astype(wide)
  with np.errstate(invalid="ignore"):
    apart = np.where(np.isfinite(b), np.abs(a - b), 0.0)
  apart = np.where(np.isnan(apart), np.inf, apart)
  largest = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
  if not np.any(apart > part * largest):
    return None
  index = np.unravel_index(int(np.argmax(apart)), apart.shape)
  return tuple(int(i) for i in index)


def _both(a: np.ndarray, b: np.ndarray, at: tuple[int, ...], b_is: str) -> str:
  """Two values at an index, as "at (0, 1) is 0.5, f's 0.6"."""
  where = f"at {at} " if at else ""
  kind = complex if a.dtype.kind == "c" else float
  return f"{where}is {kind(a[at]):.9g}, {b_is} {kind(b[at]):.9g}"
