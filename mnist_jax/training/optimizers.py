"""optax transformations by name, from rates that may be traced.

A transformation is built anew inside every training step from that step's
rate, so the rate is data: its state has the same structure at every step and
any schedule is a row of numbers.
"""

from collections.abc import Callable

import optax
from jaxtyping import Array, Float

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
    kind: one of OPTIMIZERS.
    learning_rate: of this step, > 0; may be traced.
    momentum: in [0, 1), read by the kinds in USES_MOMENTUM alone; may be
      traced.

  Raises:
    KeyError: unknown kind.
  """
  return _MAKERS[kind](learning_rate, momentum)
