"""A saddle between two minima, and how long descent takes to leave it.

  f(x, y) = x^2 / 2 + curvature (y^4 / 4 - y^2 / 2)

The saddle is (0, 0): x rises with curvature 1, y falls away with -curvature;
the smaller it is, the flatter the saddle. The quartic, the smallest even power
that can, bounds f from below: minima at (0, -1) and (0, 1), both of value
-curvature / 4 and curvature 2 curvature in y, at the same places for every
curvature. The stable manifold, from which plain descent runs into the saddle,
is the line y = 0. R runs, T steps.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mnist_jax.training import optimizers

LEFT_AT = 0.5  # |y|, half the way to a minimum
ARRIVED_AT = 0.95


class Escape(NamedTuple):
  """When each run left the saddle and came to a minimum.

  Attributes:
    left: the first step after which |y| >= LEFT_AT; `most` where none was.
    arrived: likewise ARRIVED_AT.
  """

  left: Int[Array, " R"]
  arrived: Int[Array, " R"]


class _Run(NamedTuple):
  point: Float[Array, "2"]
  opt_state: Any
  step: Int[Array, ""]
  reached: Int[Array, "2"]  # the two of `Escape`


def value(
  point: Float[Array, "*R 2"], curvature: float | Float[Array, "*R"]
) -> Float[Array, "*R"]:
  """f at a point (x, y)."""
  x, y = point[..., 0], point[..., 1]
  return x**2 / 2 + curvature * (y**4 / 4 - y**2 / 2)


def gradient(
  point: Float[Array, "2"], curvature: float | Float[Array, ""]
) -> Float[Array, "2"]:
  """(x, curvature (y^3 - y))."""
  x, y = point
  return jnp.stack([x, curvature * (y**3 - y)])


def growth(
  curvature: float, learning_rate: float, momentum: float = 0
) -> float:
  """By which |y| grows at each step near the saddle, plain or with momentum.

  The larger root r of r^2 - (1 + momentum + learning_rate curvature) r +
  momentum = 0, from y_{t+1} - y_t = momentum (y_t - y_{t-1}) + learning_rate
  curvature y_t; without momentum 1 + learning_rate curvature.
  """
  half = (1 + momentum + learning_rate * curvature) / 2
  return half + (half**2 - momentum) ** 0.5


def _update(
  kind: str,
  learning_rate: float,
  curvature: float | Float[Array, ""],
  noise: float | Float[Array, ""],
  key: Key[Array, ""],
  point: Float[Array, "2"],
  opt_state: Any,
  step: Int[Array, ""],
) -> tuple[Float[Array, "2"], Any]:
  """One update by the gradient with normal noise of sd `noise` in x and y."""
  draw = jax.random.normal(jax.random.fold_in(key, step), (2,), point.dtype)
  noisy = gradient(point, curvature) + noise * draw
  tx = optimizers.make(kind, learning_rate)
  updates, opt_state = tx.update(noisy, opt_state, point)
  return point + updates, opt_state


@functools.partial(jax.jit, static_argnames=("kind", "learning_rate", "most"))
def escape(
  kind: str,
  learning_rate: float,
  starts: Float[Array, "R 2"],
  curvatures: Float[Array, " R"],
  noises: Float[Array, " R"],
  keys: Key[Array, " R"],
  *,
  most: int,
) -> Escape:
  """Descends from each start until it has arrived, or for `most` steps.

  Args:
    kind: one of `optimizers.OPTIMIZERS`, with optax's defaults.
    noises: sd of the normal noise on each entry of the gradient, >= 0.
    keys: consumed, one per run.
    most: T, at least 1.

  Raises:
    KeyError: unknown kind.
  """
  places = jnp.array([LEFT_AT, ARRIVED_AT])

  def one(
    start: Float[Array, "2"],
    curvature: Float[Array, ""],
    noise: Float[Array, ""],
    key: Key[Array, ""],
  ) -> Escape:
    def unfinished(run: _Run) -> Bool[Array, ""]:
      return (run.reached[1] == most) & (run.step < most)

    def body(run: _Run) -> _Run:
      point, opt_state = _update(
        kind, learning_rate, curvature, noise, key, *run[:3]
      )
      step = run.step + 1
      first = (jnp.abs(point[1]) >= places) & (run.reached == most)
      reached = jnp.where(first, step, run.reached)
      return _Run(point, opt_state, step, reached)

    tx = optimizers.make(kind, learning_rate)
    never = jnp.full(2, most, jnp.int32)
    run = _Run(start, tx.init(start), jnp.zeros((), jnp.int32), never)
    return Escape(*jax.lax.while_loop(unfinished, body, run).reached)

  return jax.vmap(one)(starts, curvatures, noises, keys)


@functools.partial(jax.jit, static_argnames=("kind", "learning_rate", "steps"))
def path(
  kind: str,
  learning_rate: float,
  start: Float[Array, "2"],
  curvature: float | Float[Array, ""],
  noise: float | Float[Array, ""],
  key: Key[Array, ""],
  *,
  steps: int,
) -> Float[Array, "T1 2"]:
  """The T + 1 points that `escape` goes through, the start first."""
  tx = optimizers.make(kind, learning_rate)

  def body(
    carry: tuple[Float[Array, "2"], Any], step: Int[Array, ""]
  ) -> tuple[tuple[Float[Array, "2"], Any], Float[Array, "2"]]:
    carry = _update(kind, learning_rate, curvature, noise, key, *carry, step)
    return carry, carry[0]

  _, points = jax.lax.scan(body, (start, tx.init(start)), jnp.arange(steps))
  return jnp.concatenate([start[None], points])


def stationary_points(
  curvature: float,
) -> tuple[tuple[float, float, tuple[float, float]], ...]:
  """All points where the gradient is 0: (y, f, eigenvalues of the Hessian).

  x is 0 at all of them, and y a root of y^3 - y: three real roots of a cubic,
  so there is no other. The Hessian is diag(1, curvature (3 y^2 - 1)).
  """
  return tuple(
    (y, curvature * (y**4 / 4 - y**2 / 2), (1.0, curvature * (3 * y**2 - 1)))
    for y in (-1.0, 0.0, 1.0)
  )
