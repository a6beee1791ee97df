"""What we do, as contestants: a run, a sweep, a gradient check, a product."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench import peers
from benchmarks.bench import problem as problems
from benchmarks.bench.peers import Contestant
from benchmarks.bench.problem import BATCH, RATE, Problem
from mnist_jax import data, gradcheck, runtime, sweep
from mnist_jax.gradcheck.network import check
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.training import loop

RATES = (0.2, 0.1, 0.3, 0.5)  # of a sweep's members; the run's own first


def dataset_of(problem: Problem) -> data.Dataset:
  """The problem's examples; its development set stands for test as well."""
  train = data.Split(problem.images, problem.labels)
  dev = data.Split(problem.dev_images, problem.dev_labels)
  return data.Dataset("mnist", train, dev, dev, "bench")


def _params(problem: Problem) -> mlp.Params:
  return tuple(
    mlp.Layer(jnp.asarray(w), jnp.asarray(b)) for w, b in problem.weights
  )


def single_run(
  problem: Problem, hidden: tuple[mlp.Activation, ...] = ("sigmoid", "tanh")
) -> Contestant:
  """An epoch a call of `loop.train_epoch`, as `experiments.train` does it."""
  config = loop.TrainConfig(activations=hidden)
  split = loop.to_device(dataset_of(problem)).train
  state = loop.init_state(config, 0)._replace(params=_params(problem))
  count = len(problem.labels)
  rates = np.full(data.updates_per_epoch(count, BATCH), RATE, np.float32)
  hparams = loop.make_hparams(0)

  def epoch(number: int) -> None:
    nonlocal state
    plan = loop.plan_epoch(
      config, 0, number % len(problem.orders), count, rates, 0
    )
    state, losses = loop.train_epoch(config, state, split, plan, hparams)
    jax.block_until_ready((state, losses))

  return Contestant(
    epoch,
    float(problems.flops() * count),
    weights=lambda: [(layer.w, layer.b) for layer in state.params],
    hidden=" ".join(hidden),
  )


def _cells(members: int, own: bool) -> list[sweep.Settings]:
  """Four rates to a seed; the first member is the single run."""
  rates = RATES[: min(members, len(RATES))]
  seeds = range(members // len(rates))
  cells = sweep.product(learning_rate=rates, seed=seeds)
  return [
    dataclasses.replace(cell, order_seed=number if own else 0)
    for number, cell in enumerate(cells)
  ]


def a_sweep(
  problem: Problem, members: int, own: bool, updates: int | None = None
) -> Contestant:
  """A sweep of an epoch, or of so many updates, from its start to its table."""
  runtime.use_all_cores()
  dataset, cells = dataset_of(problem), _cells(members, own)
  budget = sweep.Budget(updates=updates) if updates else sweep.Budget(epochs=1)
  examples = updates * BATCH if updates else len(problem.labels)
  table: Any = None

  def run(_: int) -> None:
    nonlocal table
    table = sweep.run(cells, budget, dataset=dataset)

  def dev_loss() -> float:
    own_rows = table[(table["learning_rate"] == RATE) & (table["seed"] == 0)]
    return float(own_rows["dev_loss"].iloc[-1])

  return Contestant(
    run,
    float(problems.flops() * examples * members),
    units=float(members if not updates else members * updates),
    dev_loss=dev_loss,
    working_set=float(members * _parameters(problems.SIZES) * 4),
  )


def _parameters(sizes: Sequence[int]) -> int:
  return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def some_updates(
  problem: Problem,
  *,
  batch: int = BATCH,
  width: int = 64,
  examples: int | None = None,
  seconds: float = 0.3,
) -> Contestant:
  """Updates of a single run, an epoch of `examples` or as many as it takes.

  Args:
    seconds: That a run of updates is to take at the least, about.
  """
  sizes = (784, width, 16, 10)
  config = loop.TrainConfig(sizes=sizes, batch_size=batch)
  images = np.concatenate([problem.images, problem.dev_images])
  labels = np.concatenate([problem.labels, problem.dev_labels])
  count = examples or len(labels)
  split = jax.device_put(data.Split(images[:count], labels[:count]))
  state, hparams = loop.init_state(config, 0), loop.make_hparams(0)

  def plan(updates: int) -> loop.EpochPlan:
    order = np.resize(data.epoch_order(0, 0, count), updates * batch)
    return loop.EpochPlan(
      jnp.asarray(order.reshape(updates, batch)),
      jnp.ones((updates, batch)),
      jnp.full(updates, 0.01, jnp.float32),
    )

  def train(chosen: loop.EpochPlan) -> float:
    nonlocal state
    begun = time.perf_counter()
    state, _ = loop.train_epoch(config, state, split, chosen, hparams)
    jax.block_until_ready(state)
    return time.perf_counter() - begun

  updates = -(-count // batch) if examples else 2
  chosen = plan(updates)
  if not examples:
    train(chosen)
    updates = min(20_000, max(4, int(2 * seconds / train(chosen))))
    chosen = plan(updates)
  itself = 4 * _parameters(sizes)
  return Contestant(
    lambda _: train(chosen),
    float(problems.flops(sizes) * batch * updates),
    units=float(updates),
    working_set=float(itself + 4 * batch * (784 + 2 * width)),
  )


def gradient_check(_: Problem, width: int, network: bool) -> Contestant:
  """A check of every entry of theta, 784-width-16-10, batch 32, float64.

  Args:
    network: Whether by the rank-one differences that know a network; else by
      `gradcheck.numeric_gradient`, which takes any function.
  """
  sizes, hidden = (784, width, 16, 10), ("sigmoid", "tanh")
  split = data.load().train

  def run(_: int) -> None:
    with precision.float64():
      params = mlp.init(jax.random.key(0), sizes, dtype=jnp.float64)
      batch = objective.Batch(
        jnp.asarray(split.images[:32], jnp.float64) / 255,
        jnp.asarray(split.labels[:32]),
        jnp.ones(32, jnp.float64),
      )
      if network:
        check.check_network(params, hidden, batch)
      else:
        loss_fn = objective.make_objective(hidden)
        gradcheck.numeric_gradient(
          loss_fn, params, 2e-5, args=(batch, None, None)
        )

  return Contestant(run, units=float(_parameters(sizes)))


def product(
  _: Problem, library: str, shape: tuple[int, int, int], times: int
) -> Contestant:
  """A float32 product [m, k] . [k, n], made so many times a run."""
  m, k, n = shape
  rng = np.random.default_rng(0)
  a, b = (rng.random(s, np.float32) for s in ((m, k), (k, n)))
  run: Callable[[int], Any]
  if library == "torch":
    import torch

    device = peers.torch_device()
    left, right = (torch.from_numpy(each).to(device) for each in (a, b))

    def run(_: int) -> None:
      for _ in range(times):
        left @ right
      peers.torch_wait()
  elif library == "numpy":

    def run(_: int) -> None:
      for _ in range(times):
        a @ b
  else:
    # In one program, as in an epoch; each takes what the one before gave.
    @jax.jit
    def chain(a: Any, b: Any) -> Any:
      def one(a: Any, _: None) -> Any:
        return a * (1 + 1e-9 * (a @ b).max()), None

      return jax.lax.scan(one, a, None, length=times)[0]

    x, y = jnp.asarray(a), jnp.asarray(b)

    def run(_: int) -> None:
      jax.block_until_ready(chain(x, y))

  return Contestant(run, 2.0 * m * k * n * times)


SINGLE, LOGISTIC = "our single run", "our single run, logistic twice"
TRAINING: dict[str, Callable[[Problem], Contestant]] = {
  SINGLE: single_run,
  LOGISTIC: functools.partial(single_run, hidden=("sigmoid", "sigmoid")),
}
