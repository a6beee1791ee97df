"""The example in each package's docstring runs as it stands there."""

import importlib
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import mnist_jax
from mnist_jax import data, model
from mnist_jax.training import loop

ROOT = Path(mnist_jax.__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


@pytest.fixture(scope="module")
def given(mnist):
  """What the examples take for granted, by the names they use."""
  config = loop.TrainConfig()
  split = data.Split(*(leaf[:32] for leaf in mnist.train))
  params = model.init(jax.random.key(0), (784, 2, 3, 10))
  return {
    "config": config,
    "hparams": loop.make_hparams(0),
    "dataset": data.take(mnist, 300),
    "activations": config.activations,
    "split": split,
    "images": data.to_float(split.images),
    "params": params,
    "loss_fn": lambda tree: sum(
      (x**2).sum() / 2 for x in jax.tree.leaves(tree)
    ),
    "grads": params,  # of that loss
    "f": jax.numpy.hypot,
    "x": np.arange(1.0, 4.0),
    "y": np.arange(2.0, 5.0),
    "with_it": np.linspace(0.90, 0.95, 12),
    "without": np.linspace(0.89, 0.95, 12),
  }


@pytest.mark.parametrize("name", PACKAGES)
def test_the_example_of_a_package_runs(name, given, tmp_path, monkeypatch):
  package = importlib.import_module(f"mnist_jax.{name}")
  _, _, example = package.__doc__.partition("Start with\n")
  assert f"import {name}" in example
  monkeypatch.chdir(tmp_path)
  # The whole of MNIST would take a sweep of 30 runs half a minute.
  monkeypatch.setattr(data, "load", lambda: given["dataset"])
  example = textwrap.dedent(example).replace("seconds=30", "seconds=3")
  exec(example, dict(given))
