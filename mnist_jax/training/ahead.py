"""Training one epoch ahead: the next is under way while the last is measured.

`epochs` is `loop.epochs` with the next epoch begun before a row is yielded, so
that its evaluation, and what the caller does with it, happen beside that epoch.
Who stops at a row has begun one epoch in vain.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.training import grouped, loop, metrics

Splits = tuple[tuple[grouped.Chunks, ...], ...]
T = TypeVar("T")


@functools.partial(jax.jit, static_argnames="activations")
def _evaluate(
  activations: tuple[mlp.Activation, ...], params: mlp.Params, splits: Splits
) -> tuple[metrics.Metrics, ...]:
  return tuple(grouped.evaluate(activations, params, each) for each in splits)


@jax.jit
def _copied(tree: T) -> T:
  """In one program: one for each leaf would take 60 ms more to load."""
  return jax.tree.map(jnp.copy, tree)


def _measure(
  config: loop.TrainConfig, dataset: data.Dataset, params: mlp.Params
) -> Callable[[mlp.Params], dict[str, float]]:
  """A function of such parameters: train and dev loss and accuracy of a row.

  Its program is compiled here, as settings such as float64 are this thread's
  own, and another calls it.
  """
  splits = (grouped.chunks(dataset.train), grouped.chunks(dataset.dev))
  program = _evaluate.lower(config.activations, params, splits).compile()

  def measure(params: mlp.Params) -> dict[str, float]:
    train, dev = program(params, splits)
    return {
      "train_loss": float(train.loss),
      "train_accuracy": float(train.accuracy),
      "dev_loss": float(dev.loss),
      "dev_accuracy": float(dev.accuracy),
    }

  return measure


def _elsewhere(call: Callable[..., T], *given: Any) -> T:
  """Calls in a thread whose programs need not wait for those begun in this."""
  with futures.ThreadPoolExecutor(1) as thread:
    return thread.submit(call, *given).result()


def epochs(
  config: loop.TrainConfig,
  dataset: data.Dataset,
  hparams: loop.HParams,
  learning_rates: loop.Rates,
  state: loop.TrainState,
  *,
  seed: int,
  first: int | None = None,
  last: int,
  batch_size_at: Callable[[int], int] | None = None,
  before: loop.Before | None = None,
) -> Iterator[tuple[dict[str, Any], loop.TrainState]]:
  """`loop.epochs`, each row measured while the next epoch is trained.

  The states are the same bit for bit, the rows to rounding (`grouped`). A
  state that is yielded is the caller's own: going on does not consume it. What
  this thread asks of JAX at a row waits for the epoch ahead; NumPy does not.

  Args:
    before: As for `loop.epochs`, as are the others. If given, nothing is begun
      ahead, for the row before would wait for it, and be lost where it fails.

  Yields:
    What `loop.epochs` yields.

  Raises:
    InputError: The batch size is larger than the training set.
    NonFiniteError: The objective was not finite in the epoch whose row is next.
  """
  begin = first or 0
  todo, rates = range(begin, last), learning_rates[:1]
  reached, objectives = _copied(state), None
  params = loop.evaluation_params(config, reached)
  more = (state, seed, todo, batch_size_at, before or (lambda *_: None))
  run = loop._train(config, dataset.train, hparams, learning_rates, *more)
  measure = None
  for epoch in range(begin, last + 1):
    coming, failed = None, None
    if before is None:
      try:
        coming = next(run, None)
      except Exception as error:  # raised after the row, which is sound
        failed = error
    if first is None or epoch > begin:
      # Made beside the first epoch.
      measure = measure or _measure(config, dataset, params)
      row: dict[str, Any] = {"epoch": epoch, "step": int(reached.step)}
      row["learning_rate"] = float(rates[-1])
      row |= _elsewhere(measure, params)
      if batch_size_at:
        row["batch_size"] = batch_size_at(max(epoch - 1, 0))
      if objectives is not None:
        found, loss = np.asarray(objectives), row["train_loss"]
        loop._check_finite(row["step"] - len(found), found, rates, loss)
      yield row, reached
    if failed:
      raise failed
    if before is not None:
      coming = next(run, None)
    if coming:
      after, plan, objectives = coming
      reached = _copied(after)
      params = loop.evaluation_params(config, reached)
      rates = np.asarray(plan.learning_rates)
