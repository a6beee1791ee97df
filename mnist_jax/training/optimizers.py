"""optax transformations by name, from rates that may be traced.

Beside those that are named here, any function of optax or optax.contrib whose
first argument is the learning rate, with arguments of its own. These are
constants of the program: "adamw(weight_decay=0.01)" is the kind.

A transformation is built anew inside every training step from that step's
rate, so the rate is data: its state has the same structure at every step and
any schedule is a row of numbers.
"""

import ast
import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from mnist_jax.runtime.errors import InputError

Scalar = Float[Array, ""] | float

_MAKERS: dict[str, Callable[[Scalar, Scalar], optax.GradientTransformation]] = {
  "sgd": lambda rate, _: optax.sgd(rate),
  "momentum": lambda rate, m: optax.sgd(rate, momentum=m),
  "nesterov": lambda rate, m: optax.sgd(rate, momentum=m, nesterov=True),
  "adagrad": lambda rate, _: optax.adagrad(rate),
  "rmsprop": lambda rate, _: optax.rmsprop(rate),
  "adam": lambda rate, _: optax.adam(rate),
  "schedule_free": lambda rate, _: optax.contrib.schedule_free_sgd(rate),
  # Here the rate is a factor of the rate that it finds: 1 for none.
  "prodigy": lambda rate, _: optax.contrib.prodigy(rate),
}

OPTIMIZERS = tuple(_MAKERS)
USES_MOMENTUM = ("momentum", "nesterov")
# Whose parameters are not those that are evaluated.
_AVERAGED = ("schedule_free", "schedule_free_sgd", "schedule_free_adamw")
_UNDER_OTHER_NAMES = {"schedule_free": "schedule_free_sgd"}


def make(
  kind: str, learning_rate: Scalar, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
  """The transformation `kind` at this rate, else with optax's own defaults.

  Args:
    kind: A name, such as those of OPTIMIZERS, or what `kind_of` returns.
    learning_rate: > 0; it may be traced.
    momentum: In [0, 1), read by USES_MOMENTUM alone; it may be traced.

  Raises:
    InputError: An unknown kind.
  """
  if kind in _MAKERS:
    return _MAKERS[kind](learning_rate, momentum)
  name, _, rest = kind.partition("(")
  given = arguments(rest.removesuffix(")")) if rest else {}
  return _function(name)(learning_rate, **given)


def kind_of(name: str, text: str | None) -> str:
  """The kind of a name and its arguments, the same for the same ones.

  Args:
    text: As "weight_decay=0.01 nesterov=True", None for optax's defaults.
  """
  return name if text is None else f"{name}({canonical(text)})"


def canonical(text: str) -> str:
  """The arguments in the order of their names."""
  given = sorted(arguments(text).items())
  return ",".join(f"{name}={value!r}" for name, value in given)


def arguments(text: str) -> dict[str, Any]:
  """The arguments of a text, commas or spaces between them.

  Raises:
    InputError: It is not of that form, or a value is no number, True, False,
      None or quoted text.
  """
  found = {}
  for part in re.split(r"[,\s]+", text.strip(", ")):
    name, _, value = part.partition("=")
    try:
      found[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      raise InputError(
        f"optimizer_args={text}: found {part!r}, expected NAME=VALUE, as "
        "weight_decay=0.01"
      ) from None
  return found


def _function(name: str) -> Callable[..., optax.GradientTransformation]:
  """That of optax or optax.contrib which takes a learning rate first.

  Raises:
    InputError: There is none.
  """
  for module in (optax.contrib, optax):  # optax warns of those that moved
    found = getattr(module, _UNDER_OTHER_NAMES.get(name, name), None)
    if not inspect.isfunction(found) or name.startswith("scale"):
      continue
    if next(iter(inspect.signature(found).parameters), "") == "learning_rate":
      return found
  raise InputError(
    f"optimizer={name}: expected one of {', '.join(OPTIMIZERS)}, or another of "
    "optax or optax.contrib"
  )


@functools.lru_cache(maxsize=256)
def check(name: str, text: str | None) -> None:
  """Raises InputError unless training can use it, with these arguments."""
  if name in OPTIMIZERS and text is None:
    return
  if name in USES_MOMENTUM:
    raise InputError(
      f"optimizer_args={text}: optimizer={name} takes none but its momentum; "
      "optimizer=sgd takes those of optax.sgd"
    )
  function = _function(name)
  known = list(inspect.signature(function).parameters)[1:]
  for given in () if text is None else arguments(text):
    if given not in known:
      near = difflib.get_close_matches(given, known, n=1)
      expected = repr(near[0]) if near else f"one of {', '.join(known)}"
      raise InputError(
        f"optimizer_args={text}: optax's {function.__name__} has no {given!r}, "
        f"expected {expected}"
      )
  _try(name, kind_of(name, text))


def _try(name: str, kind: str) -> None:
  """Raises InputError for one that needs more than gradients and parameters."""
  # Shapes alone, so that no device is asked for yet.
  rate, w, b = (
    jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), (3, 2), (2,))
  )
  params = {"w": w, "b": b}

  def update(rate: Scalar, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    before = make(kind, rate).init(params)
    updates, after = make(kind, rate).update(params, before, params)
    return before, after, updates

  def shapes(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

  try:
    found = jax.eval_shape(update, rate, params)
    before, after, updates = map(shapes, found)
  except Exception as error:
    reason = " ".join(str(error).split())
    raise InputError(
      f"optimizer={name}: cannot train from gradients at a rate alone "
      f"({type(error).__name__}: {reason:.200})"
    ) from None
  if before != after or updates != shapes(params):
    raise InputError(
      f"optimizer={name}: its state or its updates change their shapes, "
      "expected the same at each update"
    )


def evaluation_params(kind: str, params: PyTree, opt_state: PyTree) -> PyTree:
  """The parameters that are the result, which need not be those trained.

  Those of "schedule_free" are an average of what was trained, which its state
  tells (Defazio et al. 2024); else they are the trained ones.
  """
  if kind.partition("(")[0] in _AVERAGED:
    return optax.contrib.schedule_free_eval_params(opt_state, params)
  return params


def clip(grads: PyTree, max_norm: Scalar) -> PyTree:
  """The gradient, scaled down to `max_norm` where it is longer.

  Its direction stays: the norm is the Euclidean of all parameters together
  (Pascanu, Mikolov & Bengio 2013, algorithm 1). `max_norm` is > 0 and may be
  traced.
  """
  # Beside the optimizer and not chained to it, which would change the
  # structure of its state and so what a checkpoint holds.
  clipped, _ = optax.clip_by_global_norm(max_norm).update(
    grads, optax.EmptyState()
  )
  return clipped
