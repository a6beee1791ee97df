"""Whether the rates that the range test finds train flax networks on MNIST.

T updates. The measure is a grid: the same updates from the same start at rates
a factor of sqrt(10) apart, and at the rate that was found.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnist_jax import data, range_test

OPTIMIZERS = {
  "sgd": (optax.sgd, np.geomspace(1e-3, 10, 9)),
  "adam": (optax.adam, np.geomspace(1e-5, 0.1, 9)),
  "lion": (optax.lion, np.geomspace(1e-6, 0.01, 9)),
}
NETWORKS = ("mlp", "cnn")
UPDATES, BATCH, DEV = 300, 64, 2000
# Points of dev accuracy below the best of the grid that are still right: the
# neighbours of the best rate are about so far from it.
MARGIN = 2.0
COLUMNS = (
  *("network", "optimizer", "rule", "rate", "accuracy", "best_rate"),
  *("best_accuracy", "judgement", "seconds", "reason"),
)


def network(name: str) -> Any:
  """A flax module of ten logits of images [N, 28, 28, 1]."""
  from flax import linen as nn

  if name == "mlp":
    hidden = [lambda x: x.reshape(len(x), -1), nn.Dense(128), nn.relu]
  else:
    hidden = [
      *(nn.Conv(8, (3, 3), strides=2), nn.relu),
      *(nn.Conv(16, (3, 3), strides=2), nn.relu),
      lambda x: x.reshape(len(x), -1),
    ]
  return nn.Sequential([*hidden, nn.Dense(10)])


def examples(split: data.Split) -> tuple[jax.Array, jax.Array]:
  images = data.to_float(split.images).reshape(-1, 28, 28, 1)
  return jnp.asarray(images), jnp.asarray(split.labels, jnp.int32)


def rows(name: str, dataset: data.Dataset) -> list[dict[str, Any]]:
  """A row for each optimiser of one network."""
  module = network(name)
  images, labels = examples(data.take(dataset, 40_000).train)
  dev = jax.tree.map(lambda leaf: leaf[:DEV], examples(dataset.dev))
  order = np.random.default_rng(0).permutation(len(labels))
  batches = [
    (images[part], labels[part])
    for part in np.split(
      order[: len(order) // BATCH * BATCH], len(order) // BATCH
    )
  ]
  params = module.init(jax.random.key(0), images[:1])

  def loss_fn(params: Any, batch: Any) -> Any:
    x, y = batch
    logits = module.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  found = []
  for optimizer, (make_optimizer, grid) in OPTIMIZERS.items():
    begun = time.perf_counter()
    test = range_test.find(
      loss_fn, params, batches, make_optimizer=make_optimizer
    )
    seconds = round(time.perf_counter() - begun, 1)

    @jax.jit
    def accuracy(rate: Any, stacked: Any, make: Any = make_optimizer) -> Any:
      def update(state: Any, batch: Any) -> Any:
        params, opt_state = state
        grads = jax.grad(loss_fn)(params, batch)
        change, opt_state = make(rate).update(grads, opt_state, params)
        return (optax.apply_updates(params, change), opt_state), None

      start = params, make(rate).init(params)
      (trained, _), _ = jax.lax.scan(update, start, stacked)
      logits = module.apply(trained, dev[0])
      return 100 * (logits.argmax(-1) == dev[1]).mean()

    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *batches[:UPDATES])
    reached = [float(accuracy(rate, stacked)) for rate in grid]
    best = int(np.argmax(reached))
    own, judgement = None, "refused"
    if test.rate is not None:
      own = float(accuracy(test.rate, stacked))
      judgement = "right" if own >= reached[best] - MARGIN else "WRONG"
    values = (name, optimizer, test.rule, test.rate, own, float(grid[best]))
    more = (reached[best], judgement, seconds, test.reason)
    found.append(dict(zip(COLUMNS, (*values, *more), strict=True)))
  return found
