"""Examples per second of the compiled epoch against a per-batch jitted loop.

  python -m benchmarks.training_speed

The same network, data, order and update (784-64-16-10, SGD, 55,000 examples).
The peer is the loop of the JAX and optax tutorials: one jitted update per
batch, batches cut from a float32 array on the host. The two run in turn, one
epoch each, round after round, so that whatever else the machine does hits both
alike; the first round, which compiles, is not counted. Prints the medians and
the ratio of medians, with a bootstrap interval over the rounds.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from absl import flags

from experiments._shared import app
from mnist_jax import data
from mnist_jax.model import losses, mlp
from mnist_jax.runtime import environment
from mnist_jax.training import loop

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 128, "examples per update", lower_bound=1)
flags.DEFINE_integer("rounds", 15, "epochs timed of each", lower_bound=3)

RATE = 0.2
Epoch = Callable[[int], None]


def ours(dataset: data.Dataset, batch_size: int) -> Epoch:
  """One call of `loop.train_epoch` per epoch, as `experiments.train` does."""
  config = loop.TrainConfig(batch_size=batch_size)
  on_device = loop.to_device(dataset).train
  state = loop.init_state(config, 0)
  count = len(dataset.train.labels)
  rates = np.full(data.updates_per_epoch(count, batch_size), RATE, np.float32)
  hparams = loop.make_hparams(0)

  def epoch(number: int) -> None:
    nonlocal state
    plan = loop.plan_epoch(config, 0, number, count, rates, 0)
    state, objectives = loop.train_epoch(
      config, state, on_device, plan, hparams
    )
    jax.block_until_ready((state, objectives))

  return epoch


def per_batch_loop(dataset: data.Dataset, batch_size: int) -> Epoch:
  """A jitted optax update for each batch, from Python."""
  config = loop.TrainConfig()
  tx = optax.sgd(RATE)
  params = mlp.init(jax.random.key(0), config.sizes)
  opt_state = tx.init(params)
  images = np.asarray(dataset.train.images, np.float32) / 255
  labels = np.asarray(dataset.train.labels)

  def loss_fn(params: mlp.Params, x: jax.Array, y: jax.Array) -> jax.Array:
    logits = mlp.apply(params, config.activations, x)
    return losses.softmax_cross_entropy(logits, y).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, opt_state, x, y):  # type: ignore[no-untyped-def]
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  def epoch(number: int) -> None:
    nonlocal params, opt_state
    order = data.epoch_order(0, number, len(labels))
    for start in range(0, len(order), batch_size):
      rows = order[start : start + batch_size]
      params, opt_state, loss = update(
        params, opt_state, images[rows], labels[rows]
      )
    jax.block_until_ready((params, loss))

  return epoch


def ratio_interval(
  peer: list[float], own: list[float]
) -> tuple[float, float, float]:
  """median(peer) / median(own) and its 95 % interval, rounds resampled."""
  rng = np.random.default_rng(0)
  draws = rng.integers(0, len(own), (2000, len(own)))
  ratios = np.median(np.array(peer)[draws], axis=1) / np.median(
    np.array(own)[draws], axis=1
  )
  low, high = np.quantile(ratios, [0.025, 0.975])
  return statistics.median(peer) / statistics.median(own), low, high


def main(_: list[str]) -> None:
  dataset = data.load()
  contestants = {
    "ours, epoch as one scan": ours,
    "per-batch jitted optax loop": per_batch_loop,
  }
  epochs = {
    name: make(dataset, FLAGS.batch_size) for name, make in contestants.items()
  }
  seconds: dict[str, list[float]] = {name: [] for name in epochs}
  for number in range(FLAGS.rounds + 1):
    for name, epoch in epochs.items():
      begun = time.perf_counter()
      epoch(number)
      if number:
        seconds[name].append(time.perf_counter() - begun)
  device = environment.describe()["device"]
  count = len(dataset.train.labels)
  print(
    f"{device['count']} x {device['kind']}, jax {jax.__version__}, batch "
    f"{FLAGS.batch_size}, {FLAGS.rounds} rounds of one epoch each"
  )
  own = seconds["ours, epoch as one scan"]
  print(f"{'':<31}{'ms/epoch':>9}{'examples/s':>12}  ratio to ours (95 %)")
  for name, times in seconds.items():
    median = statistics.median(times)
    ratio, low, high = ratio_interval(times, own)
    print(
      f"{name:<31}{1000 * median:>9.1f}{count / median:>12,.0f}"
      f"  {ratio:.2f} ({low:.2f} to {high:.2f})"
    )


if __name__ == "__main__":
  app.run(main, __doc__)
