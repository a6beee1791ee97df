import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import chapter
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from mnist_jax import data
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import compile_log, precision
from mnist_jax.training import ahead, loop, metrics, optimizers

SMALL = loop.TrainConfig(
  sizes=(784, 8, 6, 10), activations=("sigmoid", "tanh"), batch_size=32
)
EPOCHS = 3  # of the runs that are trained ahead


@pytest.fixture(scope="module")
def small(mnist):
  """210 training examples: six batches of 32 and a short one of 18."""

  def cut(split, count):
    return data.Split(*(x[:count] for x in split))

  return dataclasses.replace(
    mnist, train=cut(mnist.train, 210), dev=cut(mnist.dev, 50)
  )


def run(config, dataset, epochs, *, seed=0, rate=0.2, state=None, first=None):
  steps = data.updates_per_epoch(210, config.batch_size, config.drop_last)
  rates = np.full(steps * epochs, rate, np.float32)
  state = state or loop.init_state(config, seed)
  hparams = loop.make_hparams(seed)
  rows = []
  arrived = loop.epochs(
    config, dataset, hparams, rates, state, seed=seed, first=first, last=epochs
  )
  for row, newest in arrived:
    rows.append(row)
    state = newest
  return rows, state


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_a_step_is_the_chapters_formula(small):
  config = dataclasses.replace(SMALL, batch_size=4)
  state = loop.init_state(config, 0)
  batch = loop.gather_batch(
    small.train, jnp.arange(4), jnp.ones(4, jnp.float32)
  )
  gradient = jax.grad(objective.make_objective(config.activations))
  expected = jax.tree.map(
    lambda w, g: w - 0.3 * g,
    state.params,
    gradient(state.params, batch, jnp.float32(0), None),
  )
  after, _ = loop.train_step(
    config, state, batch, jnp.float32(0.3), loop.make_hparams(0)
  )
  np.testing.assert_allclose(flat(after.params), flat(expected), atol=1e-7)
  assert after.step == 1


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_clipping_is_optax_before_the_optimizer(small, kind):
  config = dataclasses.replace(SMALL, optimizer=kind)
  batch = loop.gather_batch(
    small.train, jnp.arange(32), jnp.ones(32, jnp.float32)
  )
  gradient = jax.grad(objective.make_objective(config.activations))
  norm, rate = jnp.float32(0.3), jnp.float32(0.1)
  tx = optax.chain(optax.clip_by_global_norm(norm), optimizers.make(kind, rate))
  hparams = loop.make_hparams(0, clip_norm=0.3)
  state = loop.init_state(config, 0)
  expected, opt_state = state.params, tx.init(state.params)
  lengths = []
  for _ in range(4):
    grads = gradient(expected, batch, jnp.float32(0), None)
    lengths.append(np.linalg.norm(flat(grads)))
    updates, opt_state = tx.update(grads, opt_state, expected)
    expected = optax.apply_updates(expected, updates)
    state, _ = loop.train_step(config, state, batch, rate, hparams)
  assert max(lengths) > 0.3
  np.testing.assert_allclose(flat(state.params), flat(expected), atol=1e-5)
  free = loop.init_state(config, 0)
  for _ in range(4):
    free, _ = loop.train_step(config, free, batch, rate, loop.make_hparams(0))
  assert np.abs(flat(free.params) - flat(expected)).max() > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_hand_and_autodiff_walk_the_same_way(small, float64, dropout):
  ends = []
  for grad in ("hand", "autodiff"):
    config = dataclasses.replace(
      SMALL, grad=grad, dropout_rate=dropout, batch_size=16
    )
    state = loop.init_state(config, 0, jnp.float64)
    hparams = loop.make_hparams(0, l2=1e-3, dtype=jnp.float64)
    step = jax.jit(functools.partial(loop.train_step, config))
    order = data.epoch_order(0, 0, 210)
    for t in range(100):
      rows = jnp.asarray(order[np.arange(16 * t, 16 * t + 16) % 210])
      batch = loop.gather_batch(small.train, rows, jnp.ones(16, jnp.float64))
      state, _ = step(state, batch, jnp.float64(0.2), hparams)
    ends.append(flat(state.params))
  assert ends[0].dtype == np.float64
  np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-10)
  start = flat(loop.init_state(SMALL, 0).params)
  assert np.abs(ends[0] - start).max() > 0.01


def test_short_last_batch_counts_with_its_true_mean(small):
  config = dataclasses.replace(SMALL, batch_size=200)
  plan = loop.plan_epoch(config, 0, 0, 210, np.full(2, 0.5, np.float32), 0)
  state = loop.init_state(config, 0)
  state, _ = loop.scan_epoch(
    config, state, small.train, plan, loop.make_hparams(0)
  )
  order = data.epoch_order(0, 0, 210)
  by_hand = loop.init_state(config, 0)
  for rows in (order[:200], order[200:]):
    batch = loop.gather_batch(
      small.train, jnp.asarray(rows), jnp.ones(len(rows), jnp.float32)
    )
    by_hand, _ = loop.train_step(
      config, by_hand, batch, jnp.float32(0.5), loop.make_hparams(0)
    )
  np.testing.assert_allclose(
    flat(state.params), flat(by_hand.params), atol=1e-6
  )


def test_drop_last_leaves_the_rest_out(small):
  config = dataclasses.replace(SMALL, drop_last=True)
  rows, state = run(config, small, 2)
  assert [row["step"] for row in rows] == [0, 6, 12]
  assert int(state.step) == 12


def test_resumed_anywhere_is_bit_for_bit_the_same(small):
  config = dataclasses.replace(SMALL, dropout_rate=0.2, optimizer="momentum")
  whole_rows, whole = run(config, small, 4)
  for stop in (1, 3):
    rows, state = run(config, small, stop)
    more, state = run(config, small, 4, state=state, first=stop)
    assert rows + more == whole_rows
    np.testing.assert_array_equal(flat(state), flat(whole))


def test_seeds_differ_in_weights_order_and_dropout():
  first, second = (loop.init_state(SMALL, seed) for seed in (0, 1))
  assert not np.array_equal(flat(first.params), flat(second.params))
  keys = [loop.make_hparams(seed).dropout_key for seed in (0, 1)]
  assert keys[0] != keys[1]


def test_one_compile_per_configuration(small):
  config = dataclasses.replace(SMALL, batch_size=31)
  dataset = loop.to_device(small)
  run(config, dataset, 1)
  with compile_log.watch() as log:
    run(config, dataset, 3, seed=5, rate=0.7)
  # Other rates, seeds and lengths are data. What is left to compile is the
  # drawing of initial weights' keys and such, never a scan.
  assert log.count == 0
  with compile_log.watch() as log:
    run(dataclasses.replace(config, optimizer="adam"), dataset, 1)
  assert log.count >= 1


def test_learns(mnist):
  config = loop.TrainConfig()
  dataset = loop.to_device(mnist)
  steps = data.updates_per_epoch(55_000, 128)
  rates = np.full(steps * 2, 0.5, np.float32)
  arrived = loop.epochs(
    config,
    dataset,
    loop.make_hparams(0),
    rates,
    loop.init_state(config, 0),
    seed=0,
    last=2,
  )
  rows = [row for row, _ in arrived]
  assert rows[0]["dev_accuracy"] < 0.2
  assert rows[2]["dev_accuracy"] > 0.93
  assert rows[2]["train_loss"] < 0.25


@pytest.mark.parametrize("rate", [3e38, 1e30])
def test_broken_loss_names_the_update(small, rate):
  config = dataclasses.replace(SMALL, sizes=(784, 8, 10), activations=("relu",))
  with pytest.raises(loop.NonFiniteError, match=r"update [12], learning rate"):
    run(config, small, 1, rate=rate)


@pytest.mark.parametrize(
  ("count", "chunk"), [(1, 5), (24, 8), (25, 8), (31, 8), (60, 60), (7, 1)]
)
def test_evaluation_counts_every_example_once(count, chunk):
  rng = np.random.default_rng(count)
  split = data.Split(
    rng.integers(0, 256, (count, 784), dtype=np.uint8),
    rng.integers(0, 10, count).astype(np.int32),
  )
  params = mlp.init(jax.random.key(0), (784, 10))
  result = loop.evaluate_params((), params, split, chunk)
  logits = mlp.apply(params, (), data.to_float(split.images))
  each = -jax.nn.log_softmax(logits)[np.arange(count), split.labels]
  whole = metrics.measure(
    logits, each, jnp.asarray(split.labels), jnp.ones(count)
  )
  assert result.examples == count
  assert result.correct == whole.correct
  np.testing.assert_allclose(result.loss_sum, whole.loss_sum, rtol=1e-5)


def test_params_at_are_those_of_the_run(mnist):
  small = dataclasses.replace(
    mnist, train=data.Split(*(x[:210] for x in mnist.train))
  )
  split = jax.device_put(small.train)
  found = {
    epoch: jax.tree.map(np.asarray, params)
    for epoch, params in loop.params_at(SMALL, 1.5, split, 3, (0, 2), l2=0.01)
  }
  assert list(found) == [0, 2]
  arrived = loop.epochs(
    SMALL,
    small,
    loop.make_hparams(3, l2=0.01),
    np.full(14, 1.5, np.float32),
    loop.init_state(SMALL, 3),
    seed=3,
    last=2,
  )
  for row, state in arrived:
    if row["epoch"] in found:
      expected = found[row["epoch"]]
      jax.tree.map(np.testing.assert_array_equal, state.params, expected)


def test_a_run_that_diverges_has_params_all_the_same(small):
  config = dataclasses.replace(SMALL, sizes=(784, 8, 10), activations=("relu",))
  found = dict(loop.params_at(config, 3e38, small.train, 0, (1,)))
  assert not np.isfinite(flat(found[1])).all()


def test_what_is_observed_is_before_each_update(small):
  """The loop of any step: three updates of x <- x - rate."""
  end, losses, seen = loop.scan_steps(
    lambda x, rate: (x - rate, 10 * x),
    jnp.float32(6),
    jnp.float32([1, 2, 3]),
    lambda x, rate: {"before": x, "rate": rate},
  )
  assert end == 0
  assert losses.tolist() == [60, 50, 30]
  assert seen["before"].tolist() == [6, 5, 3]
  assert seen["rate"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_epoch_lowers_for_every_platform(small, platform):
  config = loop.TrainConfig(dropout_rate=0.1, optimizer="adam", batch_size=64)
  plan = loop.plan_epoch(config, 0, 0, 210, np.full(4, 0.1, np.float32), 0)
  program = jax.jit(functools.partial(loop.scan_epoch, config))
  exported = export.export(program, platforms=[platform])(
    loop.init_state(config, 0),
    loop.to_device(small).train,
    plan,
    loop.make_hparams(0),
  )
  assert exported.platforms == (platform,)
  assert "dot_general" in exported.mlir_module()


def test_trajectory_of_the_numpy_transcription(small, float64):
  state = loop.init_state(SMALL, 0, jnp.float64)
  hparams = loop.make_hparams(0, dtype=jnp.float64)
  weights = [np.atleast_2d(np.array(x)) for x in jax.tree.leaves(state.params)]
  step = jax.jit(functools.partial(loop.train_step, SMALL))
  for epoch in range(5):
    for rows in np.split(data.epoch_order(0, epoch, 210)[:200], 10):
      batch = loop.gather_batch(small.train, jnp.asarray(rows), jnp.ones(20))
      _, grads = chapter.batch_gradients(
        weights, np.asarray(batch.images), np.asarray(batch.labels)
      )
      weights = [w - 0.5 * g for w, g in zip(weights, grads, strict=True)]
      state, _ = step(state, batch, jnp.float64(0.5), hparams)
  for ours, theirs in zip(jax.tree.leaves(state.params), weights, strict=True):
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=1e-10)


# Training one epoch ahead.


def trained(
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
  """The rows of three epochs and, as NumPy arrays at once, the states."""
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
  config = dataclasses.replace(SMALL, **more)
  found = trained(ahead.epochs, config, small)
  assert_same(found, trained(loop.epochs, config, small))
  assert [row["epoch"] for row in found[0]] == [0, 1, 2, 3]


def test_with_batches_that_grow(small):
  sizes = {"batch_size_at": lambda epoch: 16 * (epoch + 1)}
  found = trained(ahead.epochs, SMALL, small, **sizes)
  assert_same(found, trained(loop.epochs, SMALL, small, **sizes))
  assert [row["batch_size"] for row in found[0]] == [16, 16, 32, 48]


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_from_any_of_its_states(small, first):
  rows, states = trained(ahead.epochs, SMALL, small)
  state = jax.tree.map(jax.numpy.asarray, states[first])
  again = trained(ahead.epochs, SMALL, small, state=state, first=first)
  assert again[0] == rows[first + 1 :]
  jax.tree.map(np.testing.assert_array_equal, again[1], states[first + 1 :])


def test_a_state_that_was_yielded_stays(small):
  kept = []
  hparams, rates = loop.make_hparams(0), np.full(7 * EPOCHS, 0.3, np.float32)
  state = loop.init_state(SMALL, 0)
  for _, reached in ahead.epochs(
    SMALL, small, hparams, rates, state, seed=0, last=EPOCHS
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
  state, more = loop.init_state(SMALL, 0), {}
  if given:
    more["before"] = lambda config, state, *_: called.append(int(state.step))
  for row, _ in ahead.epochs(
    SMALL, small, hparams, rates, state, seed=0, last=EPOCHS, **more
  ):
    at.append((row["step"], [*begun]))
  first = 0 if given else 1
  every = [0, 7, 14]
  assert at == [(7 * k, every[: k + first]) for k in range(4)]
  assert called == (every if given else [])


def test_what_is_evaluated_does_not_wait_for_the_epoch_ahead(
  small, monkeypatch
):
  """Schedule-free's weights are computed, before that epoch is begun."""
  order = []

  def noted(name):
    function = getattr(loop, name)

    def call(*given):
      order.append(name)
      return function(*given)

    monkeypatch.setattr(loop, name, call)

  noted("train_epoch")
  noted("evaluation_params")
  config = dataclasses.replace(SMALL, optimizer="schedule_free")
  trained(ahead.epochs, config, small)
  assert order == [
    *("evaluation_params", "train_epoch") * EPOCHS,
    "evaluation_params",
  ]


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
  state = loop.init_state(SMALL, 0)
  more = {"before": lambda *_: None} if given else {}
  arrived = ahead.epochs(
    SMALL, small, hparams, rates, state, seed=0, last=EPOCHS, **more
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
  config, said = dataclasses.replace(SMALL, **more), []
  for epochs in (ahead.epochs, loop.epochs):
    with pytest.raises(loop.NonFiniteError) as raised:
      trained(epochs, config, small, rate=rate, l2=None)
    said.append(str(raised.value))
  assert said[0] == said[1]


def test_nothing_is_said_of_an_iteration_that_the_end_interrupts():
  """A generator that lives on until the interpreter ends."""
  script = """
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
"""
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.returncode, done.stderr) == (5, "")


def test_the_callers_settings_of_jax_hold_beside(small):
  with precision.float64():
    found = trained(ahead.epochs, SMALL, small, dtype=np.float64)
    expected = trained(loop.epochs, SMALL, small, dtype=np.float64)
  assert found[1][0].params[0].w.dtype == np.float64
  for row, other in zip(found[0], expected[0], strict=True):
    assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-12)
