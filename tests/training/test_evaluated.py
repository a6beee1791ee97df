"""Runs whose trained weights are not those that they come to."""

import dataclasses

import jax
import numpy as np
import pytest

from mnist_jax import data, training
from mnist_jax.training import loop, run_directory, runner
from mnist_jax.training.settings import Settings


@pytest.fixture(scope="module")
def small(mnist):
  def first(split):
    return data.Split(*(np.asarray(x[:200]) for x in split))

  return dataclasses.replace(
    mnist,
    train=first(mnist.train),
    dev=first(mnist.dev),
    test=first(mnist.test),
  )


def finished(settings, dataset, path, options, stop_after=None):
  """Runs in a directory; with `stop_after` in two sessions."""
  rates = settings.learning_rates(200, 7 * options.epochs)
  values = dataclasses.asdict(settings) | dataclasses.asdict(options)
  for last in (stop_after, None) if stop_after else (None,):
    seen = []
    with run_directory.open_run(path, {"flags": values}) as directory:
      outcome = runner.run(
        settings,
        rates,
        dataset,
        directory,
        options,
        on_row=seen.append,
        should_stop=lambda: len(seen) == last,  # noqa: B023
      )
  return outcome, seen[-1]


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("optimizer", ["schedule_free", "prodigy"])
def test_a_run_keeps_what_it_evaluates_and_goes_on_with_what_it_trains(
  small, tmp_path, optimizer, patience
):
  settings = Settings(
    optimizer=optimizer,
    learning_rate=1.0,
    batch_size=32,
    hidden_sizes=(8,),
    activations=("sigmoid",),
  )
  options = runner.Options(epochs=3, patience=patience)
  outcome, row = finished(settings, small, tmp_path / "once", options)
  names = settings.activations
  found = training.evaluate(names, outcome.params, small.dev)
  assert float(found.loss) == pytest.approx(row["dev_loss"], rel=1e-6)

  again, _ = finished(settings, small, tmp_path / "twice", options, 1)
  for one, other in zip(
    *map(jax.tree.leaves, (outcome.params, again.params)), strict=True
  ):
    np.testing.assert_array_equal(one, other)

  images = np.asarray(small.dev.images)
  config = settings.train_config()
  np.testing.assert_allclose(
    runner.load_model(tmp_path / "twice")(images),
    runner.probabilities(config, outcome.params, images),
    atol=1e-6,
  )


def test_the_trained_weights_are_others(small):
  config = loop.TrainConfig(optimizer="schedule_free", batch_size=32)
  rates = np.full(7, 1.0, np.float32)
  state = loop.init_state(config, 0)
  plan = loop.plan_epoch(config, 0, 0, 200, rates, 0)
  state, _ = loop.train_epoch(
    config, state, loop.to_device(small).train, plan, loop.make_hparams(0)
  )
  kept = loop.evaluation_params(config, state)
  assert not np.allclose(kept[0].w, state.params[0].w)
