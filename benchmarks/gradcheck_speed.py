"""Seconds for the numeric gradient of all 51,450 parameters, against a loop.

  python -m benchmarks.gradcheck_speed

The chapter's network (784-64-16-10), a batch of MNIST, float64, two-sided. The
peer is the plain loop: for each parameter, one after the other, two calls from
Python of the jitted loss, with that entry of theta moved up and down. Between
them stands `gradcheck.numeric_gradient`, which moves any function's
parameters in compiled chunks. The contestants run in turn, round after round;
a first call of each, which compiles, is not counted. Prints the medians, the
ratio of medians with a bootstrap interval over the rounds, and each one's
distance to the hand-derived gradient. With --coordinates the loop runs over so
many coordinates, evenly spaced, and its time is scaled to all: the output says
so.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.bench.turns import ratio_interval
from experiments._shared import app
from mnist_jax import data, gradcheck
from mnist_jax.gradcheck._layout import flatten
from mnist_jax.gradcheck.network.differences import rank_one_numeric_gradient
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import environment, precision

FLAGS = flags.FLAGS

SIZES = (784, 64, 16, 10)
ACTIVATIONS = ("sigmoid", "tanh")
STEP = 2e-5
# Theta, or the part of it that was looked at, in the order of theta.
Contestant = Callable[[], np.ndarray]


def define_flags() -> None:
  flags.DEFINE_integer("check_batch", 32, "examples", lower_bound=1)
  flags.DEFINE_integer("sweeps", 3, "rounds of each", lower_bound=3)
  flags.DEFINE_integer(
    "coordinates", 0, "of the plain loop; 0 for all", lower_bound=0
  )


def flat(params: mlp.Params) -> np.ndarray:
  """All entries in the order of theta."""
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def plain_loop(
  params: mlp.Params, batch: objective.Batch, positions: np.ndarray
) -> Contestant:
  """A jitted pair of losses for each coordinate, from Python."""
  layout, theta, _ = flatten(params, "params")
  loss_fn = objective.make_objective(ACTIVATIONS)

  @jax.jit
  def loss_at(theta: jax.Array) -> jax.Array:
    return loss_fn(layout.unflatten(theta), batch, None, None)

  def sweep() -> np.ndarray:
    moved = theta.copy()
    numeric = np.empty(positions.size)
    for n, i in enumerate(positions.tolist()):
      moved[i] = theta[i] + STEP
      above = float(loss_at(moved))
      moved[i] = theta[i] - STEP
      below = float(loss_at(moved))
      moved[i] = theta[i]
      numeric[n] = (above - below) / (2 * STEP)
    return numeric

  return sweep


def contestants(
  params: mlp.Params, batch: objective.Batch, positions: np.ndarray
) -> dict[str, Contestant]:
  loss_fn = objective.make_objective(ACTIVATIONS)
  return {
    "rank-one (of this network)": lambda: flat(
      rank_one_numeric_gradient(params, ACTIVATIONS, batch, None, None, STEP)
    ),
    "any function (numeric_gradient)": lambda: flat(
      gradcheck.numeric_gradient(
        loss_fn, params, STEP, args=(batch, None, None)
      )
    ),
    "plain loop of jitted losses": plain_loop(params, batch, positions),
  }


def main(_: list[str]) -> None:
  split = data.load().train
  with precision.float64():
    params = mlp.init(jax.random.key(0), SIZES, dtype=jnp.float64)
    batch = objective.Batch(
      jnp.asarray(split.images[: FLAGS.check_batch], jnp.float64) / 255,
      jnp.asarray(split.labels[: FLAGS.check_batch]),
      jnp.ones(FLAGS.check_batch, jnp.float64),
    )
    hand_derived = objective.hand_value_and_grad(ACTIVATIONS)
    hand = flat(hand_derived(params, batch, None, None)[1])
    count = FLAGS.coordinates or hand.size
    positions = np.unique(np.linspace(0, hand.size - 1, count).astype(int))
    runs = contestants(params, batch, positions)
    seconds, distances = measure(runs, hand, positions)
  report(seconds, distances, hand.size, positions.size)


def measure(
  runs: dict[str, Contestant], hand: np.ndarray, positions: np.ndarray
) -> tuple[dict[str, list[float]], dict[str, float]]:
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  distances = {}
  for number in range(FLAGS.sweeps + 1):
    for name, run in runs.items():
      begun = time.perf_counter()
      numeric = run()
      taken = time.perf_counter() - begun
      scale = hand.size / numeric.size
      if number:
        seconds[name].append(taken * scale)
      given = hand if numeric.size == hand.size else hand[positions]
      distances[name] = gradcheck.distance(given, numeric)
  return seconds, distances


def report(
  seconds: dict[str, list[float]],
  distances: dict[str, float],
  total: int,
  looped: int,
) -> None:
  device = environment.describe()["device"]
  print(
    f"{device['count']} x {device['kind']}, jax {jax.__version__}, {total:,} "
    f"parameters, batch {FLAGS.check_batch}, float64, h = {STEP:g}, "
    f"{FLAGS.sweeps} rounds"
  )
  if looped < total:
    print(
      f"the plain loop's time is that of {looped:,} coordinates, times "
      f"{total / looped:.1f}"
    )
  own = next(iter(seconds.values()))
  print(f"{'':<35}{'seconds':>9}{'distance':>11}  ratio to ours (95 %)")
  for name, times in seconds.items():
    ratio, low, high = ratio_interval(times, own)
    print(
      f"{name:<35}{statistics.median(times):>9.3f}{distances[name]:>11.1e}"
      f"  {ratio:.1f} ({low:.1f} to {high:.1f})"
    )


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
