"""Training as others do it, an epoch at a call.

Each function takes the problem and returns a `Contestant`. What a library
needs is imported in it, so that one that is not installed leaves out itself.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.bench.problem import BATCH, RATE, Problem, Weights, flops


@dataclasses.dataclass(frozen=True)
class Contestant:
  """Work that is done over and over, and what it comes to."""

  run: Callable[[int], Any]  # once; of training, the epoch of that number
  flops: float = 0.0  # of the products of a run
  units: float = 1.0  # how many of what is counted a run does
  weights: Callable[[], Weights] | None = None
  hidden: str = "sigmoid tanh"
  dev_loss: Callable[[], float] | None = None  # instead of weights
  working_set: float = 0.0  # bytes that an update or a chunk goes through


def _training(problem: Problem, **more: Any) -> Contestant:
  return Contestant(flops=float(flops() * len(problem.labels)), **more)


def numpy_by_hand(problem: Problem) -> Contestant:
  """The chapter's formulas, batch by batch, on float32 images."""
  x, y = problem.scaled(), np.eye(10, dtype=np.float32)[problem.labels]
  layers = [(w.copy(), b.copy()) for w, b in problem.weights]
  (w1, b1), (w2, b2), (w3, b3) = layers

  def epoch(number: int) -> None:
    order = problem.order(number)
    for start in range(0, len(order), BATCH):
      rows = order[start : start + BATCH]
      a0, step = x[rows], np.float32(RATE / len(rows))
      a1 = 1 / (1 + np.exp(-(a0 @ w1 + b1)))
      a2 = np.tanh(a1 @ w2 + b2)
      z3 = a2 @ w3 + b3
      e = np.exp(z3 - z3.max(axis=1, keepdims=True))
      d3 = e / e.sum(axis=1, keepdims=True) - y[rows]
      d2 = d3 @ w3.T * (1 - a2 * a2)
      d1 = d2 @ w2.T * (a1 * (1 - a1))
      for w, b, a, d in ((w3, b3, a2, d3), (w2, b2, a1, d2), (w1, b1, a0, d1)):
        w -= step * (a.T @ d)
        b -= step * d.sum(axis=0)

  return _training(problem, run=epoch, weights=lambda: layers)


def per_batch_optax(problem: Problem) -> Contestant:
  """The loop of the JAX and optax tutorials: a jitted update for each batch."""
  import jax
  import jax.numpy as jnp
  import optax

  x, y, tx = problem.scaled(), problem.labels, optax.sgd(RATE)
  params = [(jnp.asarray(w), jnp.asarray(b)) for w, b in problem.weights]
  opt_state = tx.init(params)

  def loss_fn(params: Any, x: Any, y: Any) -> Any:
    (w1, b1), (w2, b2), (w3, b3) = params
    a = jnp.tanh(jax.nn.sigmoid(x @ w1 + b1) @ w2 + b2)
    logits = a @ w3 + b3
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params: Any, opt_state: Any, x: Any, y: Any) -> Any:
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  def epoch(number: int) -> None:
    nonlocal params, opt_state
    order = problem.order(number)
    for start in range(0, len(order), BATCH):
      rows = order[start : start + BATCH]
      params, opt_state, _ = update(params, opt_state, x[rows], y[rows])
    jax.block_until_ready(params)

  return _training(problem, run=epoch, weights=lambda: params)


def flax_nnx(problem: Problem) -> Contestant:
  """As the MNIST tutorial of flax NNX does it, its metrics included."""
  import jax
  import jax.numpy as jnp
  import optax
  from flax import nnx

  class Model(nnx.Module):
    def __init__(self, rngs: Any):
      for i, (w, b) in enumerate(problem.weights):
        layer = nnx.Linear(*w.shape, rngs=rngs)
        layer.kernel = nnx.Param(jnp.asarray(w))
        layer.bias = nnx.Param(jnp.asarray(b))
        setattr(self, f"linear{i}", layer)

    def __call__(self, x: Any) -> Any:
      x = jnp.tanh(self.linear1(nnx.sigmoid(self.linear0(x))))
      return self.linear2(x)

  def loss_fn(model: Any, batch: Any) -> Any:
    logits = model(batch["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits=logits, labels=batch["label"]
    ).mean()
    return loss, logits

  @nnx.jit
  def train_step(model: Any, optimizer: Any, metrics: Any, batch: Any) -> None:
    grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)

  model = Model(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, optax.sgd(RATE), wrt=nnx.Param)
  metrics = nnx.MultiMetric(
    accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss")
  )
  x, y = problem.scaled(), problem.labels

  def epoch(number: int) -> None:
    order = problem.order(number)
    for start in range(0, len(order), BATCH):
      rows = order[start : start + BATCH]
      batch = {"image": x[rows], "label": y[rows]}
      train_step(model, optimizer, metrics, batch)
    metrics.compute()
    metrics.reset()
    jax.block_until_ready(nnx.state(model))

  def weights() -> Weights:
    layers = (model.linear0, model.linear1, model.linear2)
    return [(np.asarray(at.kernel), np.asarray(at.bias)) for at in layers]

  return _training(problem, run=epoch, weights=weights)


def torch_device() -> str:
  """The GPU where there is one, as jax has it."""
  import torch

  return "cuda" if torch.cuda.is_available() else "cpu"


def torch_wait() -> None:
  """Until the GPU has done what it was given."""
  import torch

  if torch.cuda.is_available():
    torch.cuda.synchronize()


def _torch_network(problem: Problem) -> Any:
  import torch

  layers = []
  for w, b in problem.weights:
    linear = torch.nn.Linear(*w.shape)
    with torch.no_grad():
      linear.weight.copy_(torch.from_numpy(w.T.copy()))
      linear.bias.copy_(torch.from_numpy(b))
    layers.append(linear)
  one, two, three = layers
  return torch.nn.Sequential(
    *(one, torch.nn.Sigmoid(), two, torch.nn.Tanh(), three)
  ).to(torch_device())


def _torch_weights(model: Any) -> Weights:
  return [
    (layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy())
    for layer in (model[0], model[2], model[4])
  ]


def torch_loader(problem: Problem) -> Contestant:
  """PyTorch eager as its tutorials have it, with a DataLoader."""
  import torch
  from torch.utils.data import DataLoader, TensorDataset

  model = _torch_network(problem)
  optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
  loss_fn = torch.nn.CrossEntropyLoss()
  images = torch.from_numpy(problem.scaled())
  dataset = TensorDataset(images, torch.from_numpy(problem.labels).long())
  device = torch_device()

  def epoch(number: int) -> None:
    order = problem.order(number).tolist()
    for x, y in DataLoader(dataset, batch_size=BATCH, sampler=order):
      optimizer.zero_grad()
      loss_fn(model(x.to(device)), y.to(device)).backward()
      optimizer.step()
    torch_wait()

  weights = functools.partial(_torch_weights, model)
  return _training(problem, run=epoch, weights=weights)


def torch_expert(problem: Problem, *, compiled: bool = False) -> Contestant:
  """PyTorch without a DataLoader, its SGD fused; `compiled`: torch.compile."""
  import torch

  model = _torch_network(problem)
  optimizer = torch.optim.SGD(model.parameters(), lr=RATE, fused=True)
  device = torch_device()
  images = torch.from_numpy(problem.scaled()).to(device)
  labels = torch.from_numpy(problem.labels).long().to(device)

  def loss_fn(x: Any, y: Any) -> Any:
    return torch.nn.functional.cross_entropy(model(x), y)

  loss = torch.compile(loss_fn, dynamic=False) if compiled else loss_fn

  def epoch(number: int) -> None:
    order = torch.from_numpy(problem.order(number)).long().to(device)
    for rows in order.split(BATCH):
      loss(images[rows], labels[rows]).backward()
      optimizer.step()
      optimizer.zero_grad()
    torch_wait()

  weights = functools.partial(_torch_weights, model)
  return _training(problem, run=epoch, weights=weights)


def sklearn_classifier(problem: Problem) -> Contestant:
  """MLPClassifier, an epoch a call of partial_fit.

  It has one activation for all hidden layers: here the logistic one, so its
  loss is compared with that of our run of such a network.
  """
  import sklearn
  from sklearn.neural_network import MLPClassifier

  sklearn.set_config(assume_finite=True)  # one check of the data a fit, not ten
  model = MLPClassifier(
    hidden_layer_sizes=(64, 16),
    activation="logistic",
    solver="sgd",
    alpha=0.0,
    batch_size=BATCH,
    learning_rate_init=RATE,
    momentum=0.0,
    shuffle=False,
  )
  x, y = problem.scaled(), problem.labels
  some = np.unique(y, return_index=True)[1]
  model.partial_fit(x[some], y[some], classes=np.arange(10))  # makes its arrays
  model.coefs_ = [w.copy() for w, _ in problem.weights]
  model.intercepts_ = [b.copy() for _, b in problem.weights]

  def epoch(number: int) -> None:
    order = problem.order(number)
    model.partial_fit(x[order], y[order])

  def weights() -> Weights:
    return list(zip(model.coefs_, model.intercepts_, strict=True))

  return _training(
    problem, run=epoch, weights=weights, hidden="sigmoid sigmoid"
  )


TRAINING: dict[str, Callable[[Problem], Contestant]] = {
  "NumPy by hand": numpy_by_hand,
  "per-batch jitted optax loop": per_batch_optax,
  "flax NNX as in its tutorial": flax_nnx,
  "PyTorch eager, DataLoader": torch_loader,
  "PyTorch eager, by experts": torch_expert,
  "torch.compile": functools.partial(torch_expert, compiled=True),
  "scikit-learn MLPClassifier": sklearn_classifier,
}
