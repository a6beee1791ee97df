"""The task that all contestants are given, and what it costs.

Images, labels, initial weights and the orders of the examples lie in one file,
so that nobody draws anything. Read with NumPy alone, as a contestant's time to
its first epoch is its own.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (784, 64, 16, 10)
BATCH, RATE = 128, 0.2
Weights = list[tuple[Any, Any]]  # w and b of each layer


@dataclasses.dataclass(frozen=True)
class Problem:
  """N training and M development examples, and K orders of the N."""

  images: np.ndarray  # uint8 [N, 784]
  labels: np.ndarray  # int32 [N]
  dev_images: np.ndarray
  dev_labels: np.ndarray
  orders: np.ndarray  # int32 [K, N]: epoch e has orders[e % K]
  weights: Weights

  def order(self, epoch: int) -> np.ndarray:
    return self.orders[epoch % len(self.orders)]

  def scaled(self) -> np.ndarray:
    """The training images in [0, 1], as float32."""
    return self.images.astype(np.float32) / np.float32(255)


def make(dataset: Any, train: int, epochs: int) -> Problem:
  """The first `train` training examples of a data set, and our seed 0."""
  from mnist_jax import data
  from mnist_jax.training import loop

  images, labels = (np.asarray(array)[:train] for array in dataset.train)
  params = loop.init_state(loop.TrainConfig(), 0).params
  orders = [data.epoch_order(0, epoch, train) for epoch in range(epochs)]
  return Problem(
    images,
    labels,
    np.asarray(dataset.dev.images),
    np.asarray(dataset.dev.labels),
    np.array(orders, np.int32),
    [(np.asarray(layer.w), np.asarray(layer.b)) for layer in params],
  )


def write(path: Path, problem: Problem) -> None:
  """To a file that `read` reads."""
  arrays = {
    field.name: getattr(problem, field.name)
    for field in dataclasses.fields(problem)
    if field.name != "weights"
  }
  for i, (w, b) in enumerate(problem.weights):
    arrays |= {f"w{i}": w, f"b{i}": b}
  np.savez(path, **arrays)


def read(path: str) -> Problem:
  """What `write` wrote."""
  with np.load(path) as file:
    weights = [(file[f"w{i}"], file[f"b{i}"]) for i in range(len(SIZES) - 1)]
    names = [field.name for field in dataclasses.fields(Problem)]
    arrays = {name: file[name] for name in names if name != "weights"}
  return Problem(**arrays, weights=weights)


def flops(sizes: Sequence[int] = SIZES) -> int:
  """Multiplications and additions of the products of an example's update.

  Forward and the gradient of the weights are a product for each layer, that of
  the activations one for each layer but the first.
  """
  products = [a * b for a, b in itertools.pairwise(sizes)]
  return 2 * (3 * sum(products) - products[0])


def dev_loss(
  problem: Problem, weights: Weights, hidden: str = "sigmoid tanh"
) -> float:
  """The mean cross-entropy on the development set, in nats, in float64."""
  functions: dict[str, Any] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
  }
  a = problem.dev_images / 255
  for (w, b), name in zip(weights, [*hidden.split(), ""], strict=True):
    z = a @ np.asarray(w, np.float64) + np.asarray(b, np.float64)
    a = functions[name](z) if name else z
  a -= a.max(axis=1, keepdims=True)
  right = a[np.arange(len(a)), problem.dev_labels]
  return float(np.mean(np.log(np.exp(a).sum(axis=1)) - right))
