"""What was tried to make an epoch, its evaluation or what is beside it faster.

Each is timed in turn with what it would replace; the losses tell whether it can
be the same training.
"""

import functools
import itertools
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench.ours import dataset_of, single_run
from benchmarks.bench.peers import Contestant
from benchmarks.bench.problem import BATCH, RATE, SIZES, Problem, flops
from mnist_jax import data
from mnist_jax.model import losses, mlp, objective
from mnist_jax.training import ahead, grouped, loop, run_directory, runner
from mnist_jax.training.settings import Settings

CONFIG = loop.TrainConfig()
EPOCHS = 40  # of a run, the book's
Update = Callable[[mlp.Params, objective.Batch], mlp.Params]


def _by_hand(params: mlp.Params, batch: objective.Batch) -> mlp.Params:
  """Our update, `loop.train_step`."""
  state = loop.init_state(CONFIG, 0)._replace(params=params)
  hparams = loop.make_hparams(0)
  return loop.train_step(CONFIG, state, batch, jnp.float32(RATE), hparams)[
    0
  ].params


def _bfloat16_first(params: mlp.Params, batch: objective.Batch) -> mlp.Params:
  """The update whose first product, and its gradient's, are of bfloat16."""

  def loss_fn(params: mlp.Params) -> Any:
    first, *rest = params
    x, w = (each.astype(jnp.bfloat16) for each in (batch.images, first.w))
    z = jnp.dot(x, w, preferred_element_type=jnp.float32) + first.b
    logits = mlp.apply(tuple(rest), ("tanh",), jax.nn.sigmoid(z))
    each = losses.softmax_cross_entropy(logits, batch.labels)
    return (each * batch.weights).sum() / batch.weights.sum()

  grads = jax.grad(loss_fn)(params)
  return jax.tree.map(lambda p, g: p - RATE * g, params, grads)


def _training(
  problem: Problem,
  *,
  update: Update = _by_hand,
  batch: int = BATCH,
  unroll: int = 1,
  seen_pixels: bool = False,
) -> Contestant:
  """An epoch as one scan, changed in one thing.

  Args:
    unroll: Updates in a unit of the scan.
    seen_pixels: Whether the pixels that are 0 in every training image are left
      out; their weights get no gradient.
  """
  kept = np.flatnonzero(problem.images.any(axis=0) | (not seen_pixels))
  images = jnp.asarray(problem.images[:, kept])
  labels = jnp.asarray(problem.labels)
  (w, b), *rest = problem.weights
  params: Any = tuple(
    mlp.Layer(jnp.asarray(w), jnp.asarray(b)) for w, b in [(w[kept], b), *rest]
  )

  @functools.partial(jax.jit, donate_argnums=0)
  def train(params: mlp.Params, indices: Any, weights: Any) -> mlp.Params:
    def one(params: mlp.Params, row: Any) -> Any:
      chosen, weighs = row
      x = jnp.asarray(images[chosen], jnp.float32) / 255
      return update(params, objective.Batch(x, labels[chosen], weighs)), None

    rows = indices, weights
    return jax.lax.scan(one, params, rows, unroll=unroll)[0]

  def epoch(number: int) -> None:
    nonlocal params
    order = problem.order(number)
    params = train(params, *map(jnp.asarray, data.batch_indices(order, batch)))
    jax.block_until_ready(params)

  def weights() -> Any:
    whole = w.copy()
    whole[kept] = params[0].w
    return [(whole, params[0].b), *((at.w, at.b) for at in params[1:])]

  work = flops() * len(labels)
  return Contestant(epoch, float(work), weights=weights)


def _evaluation(problem: Problem, chunk: int) -> Contestant:
  """The training split evaluated, in chunks of so many examples."""
  split = jax.device_put(data.Split(problem.images, problem.labels))
  params = tuple(mlp.Layer(*map(jnp.asarray, at)) for at in problem.weights)
  found: Any = None

  def run(_: int) -> None:
    nonlocal found
    found = loop.evaluate(CONFIG.activations, params, split, chunk)
    jax.block_until_ready(found)

  products = sum(a * b for a, b in itertools.pairwise(SIZES))
  work = float(2 * products * len(problem.labels))
  return Contestant(run, work, dev_loss=lambda: float(found.loss))


def _epoch_and_evaluation(problem: Problem, fused: bool) -> Contestant:
  """An epoch and its evaluation, as one program or as two."""
  split = jax.device_put(data.Split(problem.images, problem.labels))
  count = len(problem.labels)
  state: Any = loop.init_state(CONFIG, 0)
  rates = np.full(data.updates_per_epoch(count, BATCH), RATE, np.float32)
  hparams = loop.make_hparams(0)
  found: Any = None

  @functools.partial(jax.jit, donate_argnums=0)
  def both(state: Any, plan: Any) -> Any:
    state, _ = loop.scan_epoch(CONFIG, state, split, plan, hparams)
    params = state.params
    return state, loop.evaluate_params(CONFIG.activations, params, split)

  def run(number: int) -> None:
    nonlocal state, found
    at = number % len(problem.orders)
    plan = loop.plan_epoch(CONFIG, 0, at, count, rates, 0)
    if fused:
      state, found = both(state, plan)
    else:
      state, _ = loop.train_epoch(CONFIG, state, split, plan, hparams)
      found = loop.evaluate(CONFIG.activations, state.params, split)
    jax.block_until_ready((state, found))

  return Contestant(run, dev_loss=lambda: float(found.loss))


def _evaluation_in_groups(problem: Problem) -> Contestant:
  """The training split evaluated as `grouped` has it."""
  chunks = grouped.chunks(data.Split(problem.images, problem.labels))
  params = tuple(mlp.Layer(*map(jnp.asarray, at)) for at in problem.weights)
  program = jax.jit(grouped.evaluate, static_argnums=0)
  found: Any = None

  def run(_: int) -> None:
    nonlocal found
    found = program(CONFIG.activations, params, chunks)
    jax.block_until_ready(found)

  return Contestant(run, dev_loss=lambda: float(found.loss))


def _alone(problem: Problem) -> Contestant:
  """A run's epochs trained, of which nothing is seen."""
  dataset = loop.to_device(dataset_of(problem))
  last = EPOCHS * (len(problem.orders) + 1)
  made = loop.params_at(CONFIG, RATE, dataset.train, 0, range(1, last + 1))
  params: Any = None

  def run(_: int) -> None:
    nonlocal params
    for _, params in itertools.islice(made, EPOCHS):
      jax.block_until_ready(params)

  def loss() -> float:
    return float(loop.evaluate(CONFIG.activations, params, dataset.dev).loss)

  return Contestant(run, units=EPOCHS, dev_loss=loss)


def _run(problem: Problem, in_turn: bool) -> Contestant:
  """Epochs of `runner.run`: evaluated, recorded and saved, each of them.

  Args:
    in_turn: Whether an epoch begins when the one before is done with.
  """
  if in_turn:  # in this contestant's own process
    vars(ahead).update(epochs=loop.epochs)
  dataset, chosen = dataset_of(problem), Settings()
  count, last = len(problem.labels), EPOCHS * (len(problem.orders) + 1)
  rates = chosen.learning_rates(count, chosen.clock(count).before(last))
  may, did = threading.Semaphore(0), threading.Semaphore(0)
  row: dict[str, Any] = {}
  failed: list[Exception] = []

  def seen(newest: dict[str, Any]) -> None:
    row.update(newest)
    if newest["epoch"] % EPOCHS == 0:
      # In its order, so that an epoch under way ends in this turn as well.
      jax.block_until_ready(jnp.zeros(()) + 1)
      did.release()
      may.acquire()

  def whole() -> None:
    options = runner.Options(epochs=last)
    try:
      with (
        tempfile.TemporaryDirectory() as folder,
        run_directory.open_run(Path(folder, "run"), {"flags": {}}) as directory,
      ):
        runner.run(chosen, rates, dataset, directory, options, on_row=seen)
    except Exception as error:
      failed.append(error)
    did.release()

  def go_on() -> None:
    did.acquire()
    if failed:
      raise failed[0]

  threading.Thread(target=whole, daemon=True).start()
  go_on()

  def run(_: int) -> None:
    may.release()
    go_on()

  return Contestant(run, units=EPOCHS, dev_loss=lambda: float(row["dev_loss"]))


BASE = "an epoch as it is"
TRIED: dict[str, Callable[[Problem], Contestant]] = {
  BASE: single_run,
  "the same scan, written here": _training,
  "pixels that are 0 in all images left out": functools.partial(
    _training, seen_pixels=True
  ),
  "2 updates a unit of the scan": functools.partial(_training, unroll=2),
  "4 updates a unit of the scan": functools.partial(_training, unroll=4),
  "bfloat16 in the first layer": functools.partial(
    _training, update=_bfloat16_first
  ),
  "batch 8": functools.partial(_training, batch=8),
  "batch 8, 4 updates a unit": functools.partial(_training, batch=8, unroll=4),
  "batch 8, 16 updates a unit": functools.partial(
    _training, batch=8, unroll=16
  ),
  "evaluation, chunks of 2,000": functools.partial(_evaluation, chunk=2000),
  "evaluation, chunks of 500": functools.partial(_evaluation, chunk=500),
  "evaluation, chunks of 10,000": functools.partial(_evaluation, chunk=10_000),
  "evaluation without pixels that are 0 in a chunk": _evaluation_in_groups,
  "epoch, then evaluation": functools.partial(
    _epoch_and_evaluation, fused=False
  ),
  "epoch and evaluation in one program": functools.partial(
    _epoch_and_evaluation, fused=True
  ),
  f"{EPOCHS} epochs alone": _alone,
  "each evaluated, recorded and saved, in turn": functools.partial(
    _run, in_turn=True
  ),
  "beside the next epoch, without pixels that are 0": functools.partial(
    _run, in_turn=False
  ),
}
# What each would replace: the last of these before it.
REPLACED = (
  *(BASE, "batch 8", "evaluation, chunks of 2,000"),
  *("epoch, then evaluation", f"{EPOCHS} epochs alone"),
)
