"""Examples per second of the compiled epoch against a per-batch jitted loop.

  python -m benchmarks.training_speed

The same network, data, order and update (784-64-16-10, SGD, 55,000 examples).
The peer is the loop of the JAX and optax tutorials: one jitted update per
batch, batches cut from a float32 array on the host. A NumPy version of the
chapter's own formulas is timed beside them. The contestants run in turn, one
epoch each, round after round, so that whatever else the machine does hits all
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

from experiments import common
from mnist_jax import data, environment, losses, mlp, train

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 128, "examples per update", lower_bound=1)
flags.DEFINE_integer("rounds", 15, "epochs timed of each", lower_bound=3)

RATE = 0.2
Epoch = Callable[[int], None]


def ours(dataset: data.Dataset, batch_size: int) -> Epoch:
  """One call of `train.train_epoch` per epoch, as `experiments.train` does."""
  config = train.TrainConfig(batch_size=batch_size)
  on_device = train.to_device(dataset).train
  state = train.init_state(config, 0)
  count = len(dataset.train.labels)
  rates = np.full(train.updates_per_epoch(count, batch_size), RATE, np.float32)
  hparams = train.make_hparams(0)

  def epoch(number: int) -> None:
    nonlocal state
    plan = train.plan_epoch(config, 0, number, count, rates, 0)
    state, objectives = train.train_epoch(
      config, state, on_device, plan, hparams
    )
    jax.block_until_ready((state, objectives))

  return epoch


def per_batch_loop(dataset: data.Dataset, batch_size: int) -> Epoch:
  """A jitted optax update for each batch, from Python."""
  config = train.TrainConfig()
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


def chapter_in_numpy(dataset: data.Dataset, batch_size: int) -> Epoch:
  """The formulas of section 12.2, batched, on NumPy's BLAS."""
  params = mlp.init(jax.random.key(0), (784, 64, 16, 10))
  w1, b1, w2, b2, w3, b3 = (np.array(x) for x in jax.tree.leaves(params))
  images = np.asarray(dataset.train.images, np.float32) / 255
  targets = np.eye(10, dtype=np.float32)[np.asarray(dataset.train.labels)]

  def epoch(number: int) -> None:
    order = data.epoch_order(0, number, len(targets))
    for start in range(0, len(order), batch_size):
      rows = order[start : start + batch_size]
      x, y = images[rows], targets[rows]
      a1 = 1 / (1 + np.exp(-(x @ w1 + b1)))
      a2 = np.tanh(a1 @ w2 + b2)
      z3 = a2 @ w3 + b3
      e = np.exp(z3 - z3.max(axis=1, keepdims=True))
      dz3 = (e / e.sum(axis=1, keepdims=True) - y) / np.float32(len(rows))
      dz2 = dz3 @ w3.T * (1 - a2 * a2)
      dz1 = dz2 @ w2.T * (1 - a1) * a1
      for w, dw in (
        (w3, a2.T @ dz3),
        (b3, dz3.sum(axis=0)),
        (w2, a1.T @ dz2),
        (b2, dz2.sum(axis=0)),
        (w1, x.T @ dz1),
        (b1, dz1.sum(axis=0)),
      ):
        w -= np.float32(RATE) * dw

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
    "NumPy, the chapter's formulas": chapter_in_numpy,
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
  common.run(main, __doc__)
