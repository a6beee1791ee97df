"""The weights of one run at chosen epochs, for what is measured along it."""

from collections.abc import Iterator

import numpy as np

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.training import loop


def states(
  config: loop.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: tuple[int, ...],
) -> Iterator[tuple[int, mlp.Params]]:
  """Trains at a fixed rate; yields (epoch, params) at the epochs asked for.

  The same run as `loop.epochs` makes, without its evaluations. A run that
  diverges goes on, with weights that are not finite.

  Args:
    config: its batch size is the run's.
    learning_rate: of every update, > 0.
    split: the training set, best on the device already.
    seed: of the weights and the order of examples.
    epochs: at least one, rising, from 0 (the weights at the start) on.

  Yields:
    Params that are to be used before the next are asked for: training
    consumes them.

  Raises:
    InputError: a batch larger than the training set.
  """
  count = len(split.labels)
  updates = data.updates_per_epoch(count, config.batch_size, config.drop_last)
  rates = np.full(updates, learning_rate, np.float32)  # the same each epoch
  hparams = loop.make_hparams(seed)
  state = loop.init_state(config, seed)
  for epoch in range(epochs[-1] + 1):
    if epoch in epochs:
      yield epoch, state.params
    if epoch < epochs[-1]:
      plan = loop.plan_epoch(config, seed, epoch, count, rates, step=0)
      state, _ = loop.train_epoch(config, state, split, plan, hparams)
