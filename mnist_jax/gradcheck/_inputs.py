"""What a gradient check was handed: validated, named when it is not valid.

Shapes: P all parameters, N points asked for.
"""

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from mnist_jax.gradcheck._comparison import GIVEN_SIGMAS
from mnist_jax.gradcheck._layout import (
  GradcheckError,
  Layout,
  flatten,
  flatten_like,
)
from mnist_jax.gradcheck._numeric import scales, traced
from mnist_jax.gradcheck._numeric.differences import (
  Losses,
  Raised,
  blamed_on,
  compiled,
  split,
)
from mnist_jax.gradcheck._report import Verdict

# Rounding errors a correct gradient may carry, in units of its largest entry.
_GIVEN_ROUNDINGS = 256
_FLOAT64 = 1e-15  # above its spacing, below that of all shorter types
_ROUNDED = 5  # points at which the rounding of a gradient is looked at
_LEAST = {  # of the options that are whole numbers
  "batch_size": 1,
  "chunk_size": 1,
  "cotangents": 1,
  "directions": 0,
  "max_coordinates": 1,
  "seed": 0,
  "worst": 0,
}
_MAY_BE_NONE = ("batch_size", "chunk_size", "max_coordinates")


class Ended(Exception):
  """The check cannot go on to compare; its args are verdict and reason."""


@contextlib.contextmanager
def told() -> Iterator[None]:
  """What a caller's function raised becomes a GradcheckError, with advice."""
  try:
    yield
  except Raised as error:
    advice = ""
    if isinstance(
      error.__cause__,
      jax.errors.ConcretizationTypeError
      | jax.errors.TracerArrayConversionError,
    ):
      advice = "; jax traces it: use jax.numpy, and jnp.where for if"
    raise GradcheckError(f"{error}{advice}") from error.__cause__


def kind(value: Any) -> str:
  """What a value is, as "a list"."""
  name = type(value).__name__
  if isinstance(value, np.ndarray | jax.Array):
    name = "array"
  return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def require_function(name: str, value: Any, expected: str) -> None:
  """Refuses what cannot be called."""
  if not callable(value):
    raise GradcheckError(f"{name} is {kind(value)}, expected {expected}")


def require_args(args: Any) -> None:
  """Refuses further arguments that are no tuple of them."""
  if not isinstance(args, tuple | list):
    raise GradcheckError(f"args is {kind(args)}, expected a tuple: args=(x,)")


def require_candidates(candidates: Any) -> None:
  """Refuses candidates without names."""
  if not isinstance(candidates, Mapping):
    raise GradcheckError(
      f"candidates is {kind(candidates)}, expected a dict of gradients by name"
    )


def require_counts(**options: Any) -> None:
  """Refuses options that are not whole numbers, or too small; by name."""
  for name, value in options.items():
    least = _LEAST[name]
    if value is None and name in _MAY_BE_NONE:
      continue
    if not is_whole(value) or operator.index(value) < least:
      plain = value is None or isinstance(value, float | int | str)
      text = repr(value) if plain else kind(value)
      raise GradcheckError(
        f"{name} is {text}, expected a whole number, {least} or more"
      )


def is_whole(value: Any) -> bool:
  """Whether it is an integer of any type, no bool."""
  try:
    operator.index(value)
  except TypeError:
    return False
  return not isinstance(value, bool)


def require_step(step: Any, params: PyTree, dtype: Any) -> None:
  """Refuses a step that is not positive or does not move the parameters."""
  if np.ndim(step) or not _positive(step):
    raise GradcheckError(f"step is {step!r}, expected a positive number")
  _, theta, _ = flatten(params, "params")
  size = np.abs(theta).astype(dtype)
  still = np.flatnonzero(size + np.asarray(step, dtype) == size)
  if still.size:
    x = theta[still[0]]
    raise GradcheckError(
      f"step is {step!r}, expected one that moves the parameters: {x:g} + step "
      f"is {x:g} in {np.dtype(dtype)}"
    )


def _positive(values: Any) -> bool:
  """Whether it is one finite positive number or several."""
  try:
    listed = np.asarray(values).astype(np.float64, casting="same_kind")
  except (TypeError, ValueError):  # words, containers
    return False
  return bool(listed.size) and bool(np.all((listed > 0) & np.isfinite(listed)))


def falling(steps: Sequence[float] | float | None) -> tuple[float, ...] | None:
  """The different steps, the largest first; None as it is."""
  if steps is None:
    return None
  if not _positive(steps):
    raise GradcheckError(f"steps is {steps!r}, expected positive numbers")
  listed = np.unique(np.asarray(steps, np.float64))[::-1]
  return tuple(float(h) for h in listed)


def require_finite(layout: Layout, vector: np.ndarray, what: str) -> None:
  """Ends the check at a value that is not finite, named by leaf and index."""
  bad = np.flatnonzero(~np.isfinite(vector))
  if bad.size:
    leaf, index = layout.locate(int(bad[0]))
    part = layout.slices()[leaf]
    count = int(np.sum(~np.isfinite(vector[part])))
    verb = "is" if count == 1 else "are"
    raise Ended(
      Verdict.NOT_FINITE,
      f"{what}{layout.paths[leaf]}: {count} of {layout.sizes[leaf]} values "
      f"{verb} not finite, {vector[bad[0]]} at {index}",
    )


def as_given(losses: Losses, dtypes: tuple[Any, ...]) -> Losses:
  """The same losses of parameters in the types in which they were given.

  To be made under the caller's settings, which may have no 64 bits; the
  losses themselves where that is no difference.
  """
  x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
  own = tuple(
    np.dtype(np.float32) if dtype == np.float64 and not x64 else dtype
    for dtype in dtypes
  )
  if x64 and set(own) == {np.dtype(np.float64)}:
    return losses
  wide = np.float64 if np.dtype(np.float64) in own else np.float32
  theta = losses.theta.astype(wide)
  return Losses(
    losses.loss_fn,
    losses.layout,
    theta,
    losses.args,
    losses.chunk_size,
    dtypes=own,
    x64=x64,
    progress=losses.progress,
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
  if not callable(grads):  # values may have fewer bits than params
    found, _, kinds = flatten(grads, "grads", gradient=True)
    each = dict(zip(found.paths, kinds, strict=True))
    dtypes = tuple(
      min(dtype, each[path], key=lambda kind: jnp.finfo(kind).nmant)
      for path, dtype in zip(losses.layout.paths, dtypes, strict=True)
    )
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


def deterministic_loss(losses: Losses, dtype: Any, jaxpr: Any) -> float:
  """The loss at the point, the same and finite in all evaluations.

  The jaxpr is a trace of it, to be told from another.
  """
  values = [float(losses.at(losses.theta)[0]) for _ in range(2)]
  with blamed_on("loss_fn"):
    if not traced.same(jaxpr, traced.trace(losses)):
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
  losses: Losses, dtype: Any, jaxpr: Any, seed: int
) -> tuple[Losses, Any]:
  """The type in which the loss is computed, and the losses with steps to fit.

  Its noise is that of the shortest type to which all parameters are cut.
  """
  types = {*traced.shortened_to(jaxpr), np.dtype(dtype)}
  by_bits = sorted(types, key=lambda t: jnp.finfo(t).nmant)
  grids = scales.grids(losses, tuple(by_bits), seed)
  losses = dataclasses.replace(losses, grids=grids)
  finest = max(losses.grids, key=lambda grid: jnp.finfo(grid).nmant)
  return losses, min(finest, np.dtype(dtype), key=lambda t: jnp.finfo(t).nmant)


def given_rounding(
  losses: Losses,
  own: Losses,
  given: Float[np.ndarray, " P"],
  epsilons: Float[np.ndarray, " P"],
  scale: Float[np.ndarray, " P"],
) -> Float[np.ndarray, " P"]:
  """The rounding error that a right gradient may carry, entry by entry.

  In float64 a multiple of its spacing at the tensor's largest entry, each in
  the unit of its scale. In fewer bits, where terms that cancel leave errors
  larger than that, it is measured on `jax.grad`: by how much its values in the
  precision of `own` differ from those in `losses`, and by how much either
  changes with a parameter's rounding.
  """
  layout, effect = losses.layout, np.abs(given) * scale
  largest = [effect[part].max() for part in layout.slices()]
  most = np.repeat(largest, layout.sizes) / scale
  epsilons = np.maximum(epsilons, losses.epsilons)
  if np.all(epsilons < _FLOAT64):
    return _GIVEN_ROUNDINGS * epsilons * most
  try:
    spread = _spread(losses, own, epsilons)
  except Exception:  # no derivative by jax, as of a callback
    return _GIVEN_ROUNDINGS * epsilons * most
  return GIVEN_SIGMAS * spread + epsilons * (16 * np.abs(given) + 4 * most)


def _spread(
  losses: Losses, own: Losses, epsilons: Float[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
  """A standard deviation of the rounding in `jax.grad` of the loss, [P]."""
  rng = np.random.default_rng(0)
  signs = rng.choice([-1.0, 1.0], (_ROUNDED, losses.theta.size))
  signs[0] = 0
  points = [losses.round(losses.theta * (1 + s * epsilons)) for s in signs]
  values = _autodiff(losses, points)
  apart = values - values[0]
  if own is not losses:
    with own.scope():
      apart = _autodiff(own, points) - values
  return np.sqrt(np.mean(apart**2, axis=0))


def _autodiff(
  losses: Losses, points: Sequence[Float[np.ndarray, " P"]]
) -> Float[np.ndarray, "K P"]:
  """The gradients at some points by `jax.grad`."""
  arrays, joined = split(losses.args)
  # Of NumPy's 64 bits the compiled program takes 32 for 64, and jax 0.10 fails.
  arrays = [jnp.asarray(array) for array in arrays]
  short = [point.astype(losses.theta.dtype) for point in points]
  each = [dataclasses.replace(losses, theta=p).params() for p in short]
  slope = jax.jit(
    jax.grad(lambda p, given: losses.loss_fn(p, *joined(given))),
    keep_unused=True,
  )
  run = compiled(slope.lower(each[0], arrays), (each[0], arrays))
  found = [flatten_like(losses.layout, run(p, arrays)) for p in each]
  return np.stack(found)
