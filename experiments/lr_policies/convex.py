"""A convex problem with a known optimum: softmax regression with L2.

The network without hidden layers under the chapter's objective, on N examples.
J is convex, its optimum is found to rounding, and so the excess loss J - J* of
stochastic gradient descent can be followed down to where its noise holds it
(the loss floor of a policy). All in float64: an excess is a small difference.

M policies, S seeds, T updates, B examples an update, K measurements.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, Real

from mnist_jax import data, stats
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes

L2 = 0.01
BATCH_SIZE = 16
GRADIENT_BAR = 1e-12
_NEWTON_STEPS = 20
_CG_STEPS = 500  # of one Newton step


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """The examples in [0, 1] and in float64, and the factor of the penalty.

  That, above 0, makes the optimum unique but for a shift of all biases.
  """

  images: Float[np.ndarray, "N D"]
  labels: Int[np.ndarray, " N"]
  l2: float = L2


class Optimum(NamedTuple):
  """The minimum of J: one layer in float64, J*, and the gradient's length."""

  params: mlp.Params
  loss: float
  gradient_norm: float


def make_problem(split: data.Split, num: int, l2: float = L2) -> Problem:
  """Softmax regression on a split's first `num` examples.

  Raises:
    InputError: num not in [1, all], or l2 not above 0.
  """
  count = len(split.labels)
  if not 1 <= num <= count:
    raise InputError(f"num={num}: expected 1 to {count}")
  if not 0 < l2 < np.inf:
    raise InputError(f"l2={l2}: expected a finite number above 0")
  images = np.asarray(split.images[:num], np.float64) / 255
  return Problem(images, np.asarray(split.labels[:num]), l2)


def _batch(problem: Problem) -> objective.Batch:
  images = jnp.asarray(problem.images)
  labels = jnp.asarray(problem.labels)
  return objective.Batch(images, labels, jnp.ones(len(labels), images.dtype))


def _zero_params(problem: Problem) -> mlp.Params:
  sizes = (problem.images.shape[1], 10)
  # The key draws nothing: every weight starts at 0.
  return mlp.init(jax.random.key(0), sizes, "zeros", jnp.float64)


def solve(problem: Problem) -> Optimum:
  """The optimum, by Newton's method from zero weights.

  Each step is by conjugate gradients on exact Hessian products, the more
  exact the smaller the gradient (Nocedal & Wright 2006, algorithm 7.1). It
  takes no differences of J: these drown in rounding at gradients near 1e-8,
  which is where L-BFGS and trust regions end.

  Raises:
    InputError: the gradient's norm does not come below GRADIENT_BAR: an l2 so
      small that the problem is hardly curved.
  """
  with precision.float64():
    start, unravel = ravel_pytree(_zero_params(problem))
    of_params = objective.make_objective(())
    batch, l2 = _batch(problem), jnp.float64(problem.l2)

    def loss(theta: Float[Array, " P"]) -> Float[Array, ""]:
      return of_params(unravel(theta), batch, l2, None)

    gradient_at = jax.jit(jax.grad(loss))
    product = jax.jit(lambda x, v: jax.jvp(gradient_at, (x,), (v,))[1])
    theta = np.asarray(start)
    for _ in range(_NEWTON_STEPS):
      gradient = np.asarray(gradient_at(theta))
      norm = float(np.linalg.norm(gradient))
      if norm < GRADIENT_BAR:
        found = jnp.asarray(theta)
        return Optimum(unravel(found), float(loss(found)), norm)
      hessian = scipy.sparse.linalg.LinearOperator(
        (len(theta), len(theta)),
        matvec=functools.partial(product, theta),
        dtype=np.float64,
      )
      move, _ = scipy.sparse.linalg.cg(
        hessian, -gradient, rtol=min(0.5, norm**0.5), maxiter=_CG_STEPS
      )
      theta = theta + move
  raise InputError(
    f"l2={problem.l2}: the optimum was found to a gradient of "
    f"{norm:.1e}, expected below {GRADIENT_BAR}; try a larger one"
  )


# --- stochastic gradient descent ---------------------------------------------


@functools.partial(jax.jit, static_argnames=("batch_size",))
def _advance(
  params: mlp.Params,
  keys: Key[Array, " S"],
  rates: Float[Array, "M T"],
  first: Int[Array, ""],
  batch: objective.Batch,
  l2: Float[Array, ""],
  batch_size: int,
) -> mlp.Params:
  """T updates of all M x S members; params have leading axes M, S.

  The members of a seed see the same examples, so policies are paired.
  """
  value_and_grad = objective.hand_value_and_grad(())

  def one(
    params: mlp.Params, drawn: objective.Batch, rate: Float[Array, ""]
  ) -> mlp.Params:
    grads = value_and_grad(params, drawn, l2, None)[1]
    return jax.tree.map(lambda w, g: w - rate * g, params, grads)

  over_seeds = jax.vmap(one, in_axes=(0, 0, None))
  over_policies = jax.vmap(over_seeds, in_axes=(0, None, 0))

  def body(params: mlp.Params, row: Any) -> tuple[mlp.Params, None]:
    step, now = row  # now: the rates, [M]

    def draw(key: Key[Array, ""]) -> objective.Batch:
      chosen = jax.random.randint(
        jax.random.fold_in(key, step), (batch_size,), 0, len(batch.labels)
      )
      return jax.tree.map(lambda leaf: leaf[chosen], batch)

    return over_policies(params, jax.vmap(draw)(keys), now), None

  steps = first + jnp.arange(rates.shape[1])
  return jax.lax.scan(body, params, (steps, rates.T))[0]


@jax.jit
def _losses(
  params: mlp.Params, batch: objective.Batch, l2: Float[Array, ""]
) -> Float[Array, "M S"]:
  of_params = objective.make_objective(())
  return jax.lax.map(
    jax.vmap(lambda member: of_params(member, batch, l2, None)), params
  )


def excess_losses(
  problem: Problem,
  optimum: Optimum,
  rates: Real[np.ndarray, "M T"],
  seeds: tuple[int, ...],
  *,
  batch_size: int = BATCH_SIZE,
  measurements: int = 20,
  blocks: int = 200,
) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, "M S K"]]:
  """J - J* of SGD from zero weights, at about log-spaced updates.

  Examples are drawn with replacement, so that gradients are unbiased and
  independent, as Robbins and Monro assume; update t of seed s draws from
  fold_in(key(s), t) under every policy.

  Args:
    rates: The rate of each policy's updates, T a multiple of `blocks`.
    measurements: How often to measure, K at most, at multiples of T / blocks,
      the last at T.

  Returns:
    The updates made at each measurement, and the excess losses: not finite
    where a policy diverged.

  Raises:
    InputError: T is no multiple of `blocks`, or no seed.
  """
  total = rates.shape[1]
  if total % blocks or not seeds:
    raise InputError(
      f"{total} updates and {len(seeds)} seeds, expected a multiple of "
      f"{blocks} updates and at least one seed"
    )
  length = total // blocks
  wanted = {int(b) for b in np.geomspace(1, blocks, measurements).round()}
  with precision.float64():
    batch, l2 = _batch(problem), jnp.float64(problem.l2)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    shape = (len(rates), len(seeds))
    params = jax.tree.map(
      lambda leaf: jnp.zeros(shape + leaf.shape), _zero_params(problem)
    )
    found = []
    for block in range(blocks):
      part = slice(block * length, (block + 1) * length)
      now = jnp.asarray(rates[:, part], jnp.float64)
      first = jnp.asarray(part.start)
      params = _advance(params, keys, now, first, batch, l2, batch_size)
      if block + 1 in wanted:
        found.append(np.asarray(_losses(params, batch, l2)) - optimum.loss)
  return length * np.array(sorted(wanted)), np.stack(found, axis=2)


def late_slope(
  updates: Int[np.ndarray, " K"], excess: Float[np.ndarray, "S K"]
) -> stats.Effect:
  """The exponent of excess ~ t^p over the last factor of 10 in updates.

  About 0 on a floor; -1 is the best possible for a strongly convex J.

  Raises:
    InputError: as `slopes.loglog_slope`: a run that diverged, one seed.
  """
  late = updates * 10 >= updates[-1]
  return slopes.loglog_slope(updates[late], excess[:, late], seed=0)


def floor(
  updates: Int[np.ndarray, " K"], excess: Float[np.ndarray, "S K"]
) -> stats.Effect:
  """Each seed's mean excess over the last half of the updates, over seeds.

  Raises:
    InputError: as `stats.mean_interval`: a run that diverged, one seed.
  """
  late = excess[:, updates * 2 >= updates[-1]]
  return stats.mean_interval(late.mean(axis=1), seed=0)
