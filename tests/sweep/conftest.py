"""Data for sweeps that take no time."""

import dataclasses

import numpy as np
import pytest

from mnist_jax import data


@pytest.fixture(scope="session")
def small(mnist):
  """Splits of 300, which leave a short last batch of 32 and share a program."""

  def first(split, count):
    return data.Split(*(np.asarray(array[:count]) for array in split))

  return dataclasses.replace(
    mnist,
    train=first(mnist.train, 300),
    dev=first(mnist.dev, 300),
    test=first(mnist.test, 300),
  )
