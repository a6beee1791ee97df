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
  "schedule_free": lambda rate, _: optax.contrib.schedule_free_sgd(rate),
  # Here the rate is a factor of the rate that it finds: 1 for none.
  "prodigy": lambda rate, _: optax.contrib.prodigy(rate),
}

OPTIMIZERS = tuple(_MAKERS)
USES_MOMENTUM = ("momentum", "nesterov")


def make(
  kind: str, learning_rate: Scalar, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
  """The transformation `kind` at this rate, else with optax's own defaults.

  Args:
    kind: The name, one of OPTIMIZERS.
    learning_rate: > 0; it may be traced.
    momentum: In [0, 1), read by USES_MOMENTUM alone; it may be traced.

  Raises:
    KeyError: An unknown kind.
  """
  return _MAKERS[kind](learning_rate, momentum)


def evaluation_params(kind: str, params: PyTree, opt_state: PyTree) -> PyTree:
  """The parameters that are the result, which need not be those trained.

  Those of "schedule_free" are an average of what was trained, which its state
  tells (Defazio et al. 2024); else they are the trained ones.
  """
  if kind == "schedule_free":
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
