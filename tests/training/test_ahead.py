"""Training one epoch ahead is the same training."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from mnist_jax import data
from mnist_jax.runtime import precision
from mnist_jax.training import ahead, loop

EPOCHS = 3
CONFIG = loop.TrainConfig(sizes=(784, 5, 4, 10), batch_size=32)


@pytest.fixture(scope="module")
def small(mnist):
  def cut(split, count):
    return data.Split(*(x[:count] for x in split))

  return dataclasses.replace(
    mnist, train=cut(mnist.train, 210), dev=cut(mnist.dev, 50)
  )


def run(
  epochs,
  config,
  dataset,
  *,
  rate=0.3,
  l2=1e-3,
  state=None,
  dtype=np.float32,
  **more,
):
  """The rows and, as NumPy arrays at once, the states."""
  most = 210 * EPOCHS
  arrived = epochs(
    config,
    dataset,
    loop.make_hparams(0, l2=l2, dtype=dtype),
    np.full(most, rate, dtype),
    loop.init_state(config, 0, dtype) if state is None else state,
    seed=0,
    last=EPOCHS,
    **more,
  )
  rows, states = [], []
  for row, reached in arrived:
    rows.append(row)
    states.append(jax.tree.map(np.array, reached))
  return rows, states


def assert_same(found, expected):
  rows, states = found
  expected_rows, expected_states = expected
  assert [list(row) for row in rows] == [list(row) for row in expected_rows]
  for row, other in zip(rows, expected_rows, strict=True):
    assert row == pytest.approx(other, rel=1e-5)
    for name in ("epoch", "step", "learning_rate", "dev_accuracy"):
      assert row[name] == other[name]
  jax.tree.map(np.testing.assert_array_equal, states, expected_states)


@pytest.mark.parametrize(
  "more",
  [
    {},
    {"optimizer": "momentum", "dropout_rate": 0.3},
    {"optimizer": "schedule_free"},
    {"drop_last": True},
  ],
)
def test_states_are_the_same_and_rows_to_rounding(small, more):
  config = dataclasses.replace(CONFIG, **more)
  found = run(ahead.epochs, config, small)
  assert_same(found, run(loop.epochs, config, small))
  assert [row["epoch"] for row in found[0]] == [0, 1, 2, 3]


def test_with_batches_that_grow(small):
  sizes = {"batch_size_at": lambda epoch: 16 * (epoch + 1)}
  found = run(ahead.epochs, CONFIG, small, **sizes)
  assert_same(found, run(loop.epochs, CONFIG, small, **sizes))
  assert [row["batch_size"] for row in found[0]] == [16, 16, 32, 48]


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_from_any_of_its_states(small, first):
  rows, states = run(ahead.epochs, CONFIG, small)
  state = jax.tree.map(jax.numpy.asarray, states[first])
  again = run(ahead.epochs, CONFIG, small, state=state, first=first)
  assert again[0] == rows[first + 1 :]
  jax.tree.map(np.testing.assert_array_equal, again[1], states[first + 1 :])


def test_a_state_that_was_yielded_stays(small):
  kept = []
  hparams, rates = loop.make_hparams(0), np.full(7 * EPOCHS, 0.3, np.float32)
  state = loop.init_state(CONFIG, 0)
  for _, reached in ahead.epochs(
    CONFIG, small, hparams, rates, state, seed=0, last=EPOCHS
  ):
    kept.append((reached, jax.tree.map(np.array, reached)))
  for reached, then in kept:
    jax.tree.map(np.testing.assert_array_equal, reached, then)
  assert [int(reached.step) for reached, _ in kept] == [0, 7, 14, 21]


@pytest.mark.parametrize("given", [False, True])
def test_an_epoch_is_begun_before_the_row_of_the_last_one(
  small, monkeypatch, given
):
  """But with something to be called before it, when the row is dealt with."""
  begun, at, called = [], [], []
  train_epoch = loop.train_epoch

  def noted(config, state, split, plan, hparams):
    begun.append(int(state.step))
    return train_epoch(config, state, split, plan, hparams)

  monkeypatch.setattr(loop, "train_epoch", noted)
  hparams, rates = loop.make_hparams(0), np.full(7 * EPOCHS, 0.3, np.float32)
  state, more = loop.init_state(CONFIG, 0), {}
  if given:
    more["before"] = lambda config, state, *_: called.append(int(state.step))
  for row, _ in ahead.epochs(
    CONFIG, small, hparams, rates, state, seed=0, last=EPOCHS, **more
  ):
    at.append((row["step"], [*begun]))
  first = 0 if given else 1
  every = [0, 7, 14]
  assert at == [(7 * k, every[: k + first]) for k in range(4)]
  assert called == (every if given else [])


@pytest.mark.parametrize("given", [False, True])
def test_an_error_of_an_epoch_costs_no_row_of_one_before(
  small, monkeypatch, given
):
  train_epoch, rows = loop.train_epoch, []

  def failing(config, state, *more):
    if state.step == 14:
      raise MemoryError
    return train_epoch(config, state, *more)

  monkeypatch.setattr(loop, "train_epoch", failing)
  hparams, rates = loop.make_hparams(0), np.full(7 * EPOCHS, 0.3, np.float32)
  state = loop.init_state(CONFIG, 0)
  more = {"before": lambda *_: None} if given else {}
  arrived = ahead.epochs(
    CONFIG, small, hparams, rates, state, seed=0, last=EPOCHS, **more
  )
  with pytest.raises(MemoryError):
    rows.extend(row["epoch"] for row, _ in arrived)
  assert rows == [0, 1, 2]


@pytest.mark.parametrize(
  ("more", "rate"),
  [
    ({"sizes": (784, 8, 10), "activations": ("relu",)}, 3e38),
    ({"sizes": (784, 8, 10), "activations": ("relu",)}, 1e30),
    # 0 / 0 where no image is lit, found by the last update of an epoch alone.
    ({"optimizer": "adam(eps=0.0)", "batch_size": 210}, 0.01),
  ],
)
def test_a_broken_loss_is_that_of_the_same_update(small, more, rate):
  config, said = dataclasses.replace(CONFIG, **more), []
  for epochs in (ahead.epochs, loop.epochs):
    with pytest.raises(loop.NonFiniteError) as raised:
      run(epochs, config, small, rate=rate, l2=None)
    said.append(str(raised.value))
  assert said[0] == said[1]


def test_nothing_is_said_of_an_iteration_that_the_end_interrupts(tmp_path):
  """A generator that lives on until the interpreter ends."""
  script = tmp_path / "script.py"
  script.write_text("""
import numpy as np
from mnist_jax import data
from mnist_jax.training import ahead, loop
split = data.Split(np.zeros((9, 784), np.uint8), np.zeros(9, np.int32))
dataset = data.Dataset("none", split, split, split, "")
config = loop.TrainConfig(sizes=(784, 10), activations=(), batch_size=3)
rates, state = np.ones(30, np.float32), loop.init_state(config, 0)
kept = ahead.epochs(
  config, dataset, loop.make_hparams(0), rates, state, seed=0, last=9
)
next(kept)
raise SystemExit(5)
""")
  done = subprocess.run(
    [sys.executable, script], capture_output=True, text=True, timeout=120
  )
  assert (done.returncode, done.stderr) == (5, "")


def test_the_callers_settings_of_jax_hold_beside(small):
  with precision.float64():
    found = run(ahead.epochs, CONFIG, small, dtype=np.float64)
    expected = run(loop.epochs, CONFIG, small, dtype=np.float64)
  assert found[1][0].params[0].w.dtype == np.float64
  for row, other in zip(found[0], expected[0], strict=True):
    assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-12)
