"""optax transformations by name, from rates that may be traced.

A transformation is built anew inside every training step from that step's
rate, so the rate is data: its state has the same structure at every step and
any schedule is a row of numbers.
"""

from collections.abc import Callable

import optax
from jaxtyping import Array, Float, PyTree

Scalar = Float[Array, ""] | float

_MAKERS: dict[str, Callable[[Scalar, Scalar], optax.GradientTransformation]] = {
  "sgd": lambda rate, _: optax.sgd(rate),
  "momentum": lambda rate, m: optax.sgd(rate, momentum=m),
  "nesterov": lambda rate, m: optax.sgd(rate, momentum=m, nesterov=True),
  "adagrad": lambda rate, _: optax.adagrad(rate),
  "rmsprop": lambda rate, _: optax.rmsprop(rate),
  "adam": lambda rate, _: optax.adam(rate),
}

OPTIMIZERS = tuple(_MAKERS)
USES_MOMENTUM = ("momentum", "nesterov")


def make(
  kind: str, learning_rate: Scalar, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
  """The transformation `kind` at this rate, else with optax's own defaults.

  Args:
    kind: The name, one of OPTIMIZERS.
    learning_rate: The rate of this step, > 0; it may be traced.
    momentum: The momentum, in [0, 1), which the kinds in USES_MOMENTUM alone
      read; it may be traced.

  Raises:
    KeyError: An unknown kind.
  """
  return _MAKERS[kind](learning_rate, momentum)


def clip(grads: PyTree, max_norm: Scalar) -> PyTree:
  """The gradient, scaled down to `max_norm` where it is longer.

  Its direction stays: the norm is that of all parameters together (Pascanu,
  Mikolov & Bengio 2013, algorithm 1).

  Args:
    grads: The gradient, a pytree of arrays.
    max_norm: The largest Euclidean norm, > 0; it may be traced.
  """
  # Beside the optimizer and not chained to it, which would change the
  # structure of its state and so what a checkpoint holds.
  clipped, _ = optax.clip_by_global_norm(max_norm).update(
    grads, optax.EmptyState()
  )
  return clipped
