import copy
import dataclasses
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_regression import regression, squared

from mnist_jax import data
from mnist_jax import range_test as package
from mnist_jax.model import mlp, objective
from mnist_jax.range_test import recording as range_test
from mnist_jax.range_test.curve import Ramp
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop

SHORT = Ramp(1e-3, 10.0, 40)
CONFIG = loop.TrainConfig(
  sizes=(784, 8, 10), activations=("tanh",), batch_size=32
)


def test_gradient_noise_is_unbiased():
  """Against the moments of y = x . w in closed form, x standard normal."""
  batch, draws, guess = 6, 20_000, jnp.float32([0.3, -0.1, 0.2])
  x, _ = regression(draws, seed=3, batch=batch)
  error = x @ np.float32([1.0, -2.0, 0.5])
  signal, variance = jax.vmap(
    lambda each: range_test.gradient_noise(
      jax.value_and_grad(squared), guess, each
    )
  )((x, error))
  d = np.asarray(guess, float) - [1.0, -2.0, 0.5]
  # E[g] = 2 d, E[g g'] = 4 E[x x' (x . d)^2] = 4 (|d|^2 I + 2 d d').
  length = d @ d
  expected = {
    "signal": (signal, 4 * length),
    "variance": (variance, (4 * (3 + 2) * length - 4 * length) / batch),
  }
  for values, mean in expected.values():
    error = np.std(values) / draws**0.5
    assert abs(np.mean(values) - mean) < 5 * error


def test_an_odd_batch_counts_all_its_examples():
  """Variance over B = 5 from halves of 2, the fifth left out."""
  x, y = regression(0, batch=5)
  vg = jax.value_and_grad(squared)
  w = jnp.zeros(3)
  odd = range_test.gradient_noise(vg, w, (x[0], y[0]))
  even = range_test.gradient_noise(vg, w, (x[0, :4], y[0, :4]))
  assert odd[0] == even[0]
  assert odd[1] == pytest.approx(float(even[1]) * 4 / 5)


# --- the chapter's network ---------------------------------------------------


@pytest.fixture(scope="module")
def small(mnist):
  """330 training examples: ten batches of 32, and ten left over."""

  def cut(split, count):
    return data.Split(*(x[:count] for x in split))

  return dataclasses.replace(
    mnist, train=cut(mnist.train, 330), dev=cut(mnist.dev, 60)
  )


@pytest.fixture(scope="module")
def plain(small):
  return range_test.network(CONFIG, loop.make_hparams(0), small, (3, 4), SHORT)


def test_the_network_trains_as_it_is_trained(small, plain):
  """By train_step alone, over the epochs' orders with their tails left out."""
  state, hparams = loop.init_state(CONFIG, 4), loop.make_hparams(4)
  rates = SHORT.rates()
  expected = []
  for update in range(41):
    epoch, at = divmod(update, 10)
    order = data.epoch_order(4, epoch, 330)[32 * at : 32 * (at + 1)]
    batch = loop.gather_batch(small.train, jnp.asarray(order), jnp.ones(32))
    state, loss = loop.train_step(
      CONFIG, state, batch, jnp.float32(rates[min(update, 39)]), hparams
    )
    expected.append(float(loss))
  np.testing.assert_allclose(plain.initial[1], expected[0], rtol=1e-5)
  np.testing.assert_allclose(plain.losses[1, :30], expected[1:31], rtol=1e-3)


def test_the_networks_noise_is_that_of_its_first_batch(small, plain):
  state = loop.init_state(CONFIG, 3)
  halves = data.epoch_order(3, 0, 330)[:32].reshape(2, 16)
  value_and_grad = objective.make_value_and_grad("hand", CONFIG.activations)
  first, second = (
    np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
    for _, grads in (
      value_and_grad(
        state.params,
        loop.gather_batch(small.train, jnp.asarray(half), jnp.ones(16)),
        None,
        None,
      )
      for half in halves
    )
  )
  expected = [first @ second, np.sum((first - second) ** 2) / 4]
  np.testing.assert_allclose(plain.noise[0, :, 0], expected, rtol=1e-3)


def test_it_leaves_no_trace(small):
  """A run after a range test is the run without it, bit for bit."""
  hparams = loop.make_hparams(0)
  state = loop.init_state(CONFIG, 0)
  before = jax.tree.map(np.array, (state, hparams.momentum))
  held = copy.deepcopy((small.train, small.dev))

  def trained():
    plan = loop.plan_epoch(CONFIG, 0, 0, 330, np.full(11, 0.1, np.float32), 0)
    start = loop.init_state(CONFIG, 0)
    return loop.train_epoch(CONFIG, start, small.train, plan, hparams)

  without = jax.tree.map(np.array, trained())
  numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
  range_test.network(CONFIG, hparams, small, (0,), SHORT)
  range_test.choose(CONFIG, hparams, small, 0, ramp=SHORT)
  jax.tree.map(np.testing.assert_array_equal, trained(), without)
  after = jax.tree.map(np.array, (state, hparams.momentum))
  jax.tree.map(np.testing.assert_array_equal, after, before)
  jax.tree.map(np.testing.assert_array_equal, (small.train, small.dev), held)
  np.testing.assert_array_equal(
    np.random.get_state()[1],  # noqa: NPY002
    numpy_state,
  )


def test_chunks_of_members_change_nothing(small, plain, monkeypatch):
  monkeypatch.setattr(range_test, "_MEMBER_ELEMENTS", 1)
  alone = range_test.network(CONFIG, loop.make_hparams(0), small, (3, 4), SHORT)
  np.testing.assert_allclose(
    alone.losses[:, :30], plain.losses[:, :30], rtol=1e-3
  )


def test_dev_loss_dropout_l2_and_momentum_are_the_runs_own(small, plain):
  dev = range_test.network(
    CONFIG, loop.make_hparams(0), small, (3,), SHORT, measured_on="dev"
  )
  start = loop.init_state(CONFIG, 3).params
  result = loop.evaluate(CONFIG.activations, start, small.dev)
  assert dev.initial[0] == pytest.approx(float(result.loss), rel=1e-6)

  l2 = range_test.network(
    CONFIG, loop.make_hparams(0, l2=0.1), small, (3,), SHORT
  )
  penalty = sum(float((layer.w**2).sum()) for layer in start) / 2
  difference = float(l2.initial[0] - plain.initial[0])
  assert difference == pytest.approx(0.1 * penalty, rel=1e-4)

  dropping = dataclasses.replace(CONFIG, dropout_rate=0.5)
  one, other = (
    range_test.network(dropping, loop.make_hparams(seed), small, (3,), SHORT)
    for seed in (0, 1)
  )
  np.testing.assert_array_equal(one.losses, other.losses)
  masks = mlp.dropout_masks(
    jax.random.fold_in(loop.make_hparams(3).dropout_key, 0), start, 32, 0.5
  )
  order = jnp.asarray(data.epoch_order(3, 0, 330)[:32])
  batch = loop.gather_batch(small.train, order, jnp.ones(32))
  loss = objective.make_objective(CONFIG.activations)(start, batch, None, masks)
  assert one.initial[0] == pytest.approx(float(loss), rel=1e-5)

  heavy = dataclasses.replace(CONFIG, optimizer="momentum")
  moving = [
    range_test.network(
      heavy, loop.make_hparams(0, momentum=m), small, (3,), SHORT
    )
    for m in (0.0, 0.9)
  ]
  np.testing.assert_allclose(
    moving[0].losses[0, :30], plain.losses[0, :30], rtol=1e-3
  )
  assert moving[1].losses[0, 20] < moving[0].losses[0, 20]


def test_wrong_arguments_are_refused(small):
  hparams = loop.make_hparams(0)
  for seeds, kwargs, message in (
    ((), {}, "no seeds"),
    (
      (0,),
      {"measured_on": "test"},
      "measured_on=test: expected one of train, dev",
    ),
  ):
    with pytest.raises(InputError, match=message):
      range_test.network(CONFIG, hparams, small, seeds, SHORT, **kwargs)
  big = dataclasses.replace(CONFIG, batch_size=331)
  with pytest.raises(InputError, match="batch_size=331: expected"):
    range_test.network(big, hparams, small, (0,), SHORT)


def test_the_choice_is_a_function_of_its_arguments(mnist):
  subset = data.take(mnist, 5000)
  chosen = [
    range_test.choose(CONFIG, loop.make_hparams(0), subset, 7) for _ in range(2)
  ]
  assert chosen[0] == chosen[1]
  rate, reason = chosen[0]
  assert rate == float(f"{rate:.2g}")
  assert 0.02 < rate < 2
  assert reason.startswith("range test, rule noise, geometric mean over 4 of 4")
  other = range_test.choose(
    CONFIG, loop.make_hparams(0), subset, 7, rule="minimum/10"
  )
  assert other[0] < rate


def test_no_choice_comes_with_its_reason(small):
  hparams = loop.make_hparams(0)
  low = Ramp(1e-8, 1e-6, 40)
  rate, reason = range_test.choose(CONFIG, hparams, small, 0, ramp=low)
  assert rate is None
  assert "flat" in reason
  single = dataclasses.replace(CONFIG, batch_size=1)
  rate, reason = range_test.choose(
    single, hparams, small, 2**32 - 1, rule="noise"
  )
  assert rate is None
  assert "no suggestion" in reason
  with pytest.raises(InputError, match="rule=best"):
    range_test.choose(CONFIG, hparams, small, 0, rule="best")


def test_an_adaptive_optimizer_gets_a_ramp_and_a_rule_of_its_own(small):
  assert (
    range_test.default_ramp("adam").high < range_test.default_ramp("sgd").high
  )
  adam = dataclasses.replace(CONFIG, optimizer="adam")
  ramp = Ramp(1e-5, 1.0, 60)
  rate, reason = range_test.choose(
    adam, loop.make_hparams(0), small, 0, ramp=ramp
  )
  assert "rule minimum/10" in reason
  assert 1e-4 < rate < 0.05


def test_a_batch_of_one_has_a_rule_that_needs_no_halves(mnist):
  single = dataclasses.replace(CONFIG, batch_size=1)
  rate, reason = range_test.choose(single, loop.make_hparams(0), mnist, 0)
  assert "rule minimum/10" in reason
  assert 1e-3 < rate < 0.5


def test_the_order_of_examples_may_have_its_own_seed(small, plain):
  hparams = loop.make_hparams(0)
  orders = (8, 4)
  found = range_test.network(
    CONFIG, hparams, small, (3, 4), SHORT, order_seeds=orders
  )
  np.testing.assert_array_equal(found.losses[1], plain.losses[1])
  assert (found.losses[0] != plain.losses[0]).any()
  chosen = [
    range_test.choose(CONFIG, hparams, small, 3, ramp=SHORT, order_seed=order)
    for order in (None, 3, 8)
  ]
  assert chosen[0] == chosen[1] != chosen[2]


def test_the_example_of_the_package_runs(mnist, monkeypatch, capsys):
  monkeypatch.setattr(data, "load", lambda: data.take(mnist, 3000))
  example = package.__doc__.partition("Start with")[2]
  exec(textwrap.dedent(example).replace("seconds=30", "seconds=3"))
  lines = capsys.readouterr().out.splitlines()
  assert any("by the rule minimum/10" in line for line in lines)
  assert [line.split()[0] for line in lines[-6:-1]] == list(package.RULES)
  assert lines[-1].startswith("learning rate")
