"""Weights along a run are those of the trainer."""

import dataclasses

import jax
import numpy as np

from mnist_jax import data, training
from mnist_jax.training import trajectory


def test_states_are_those_of_the_trainer(mnist):
  batch_size, rate = 500, 1.5
  small = dataclasses.replace(
    mnist, train=data.Split(*(x[:1100] for x in mnist.train))
  )
  config = training.TrainConfig(batch_size=batch_size)
  split = jax.device_put(small.train)
  found = {
    epoch: jax.tree.map(np.asarray, params)
    for epoch, params in trajectory.states(config, rate, split, 3, (0, 2))
  }
  assert list(found) == [0, 2]
  updates = 2 * data.updates_per_epoch(1100, batch_size)
  run = training.epochs(
    config,
    small,
    training.make_hparams(3),
    np.full(updates, rate, np.float32),
    training.init_state(config, 3),
    seed=3,
    last=2,
  )
  for row, state in run:
    if row["epoch"] in found:
      jax.tree.map(
        np.testing.assert_array_equal, state.params, found[row["epoch"]]
      )
