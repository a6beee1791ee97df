import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from experiments.lr_policies import convex
from mnist_jax import data
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run


@pytest.fixture(scope="module")
def problem(mnist):
  return convex.make_problem(mnist.train, 100, l2=0.1)


@pytest.fixture(scope="module")
def optimum(problem):
  return convex.solve(problem)


def by_hand(problem, w, b):
  """J and its gradient in NumPy alone."""
  z = problem.images @ w + b
  log_p = z - scipy.special.logsumexp(z, axis=1, keepdims=True)
  each = -log_p[np.arange(len(z)), problem.labels]
  error = np.exp(log_p) - np.eye(10)[problem.labels]
  penalty = problem.l2 / 2 * (w**2).sum()
  gradient = problem.images.T @ error / len(z) + problem.l2 * w
  return each.mean() + penalty, gradient, error.mean(axis=0)


def test_the_optimum_is_one(problem, optimum):
  ((w, b),) = (tuple(map(np.asarray, layer)) for layer in optimum.params)
  assert w.dtype == np.float64
  value, dw, db = by_hand(problem, w, b)
  assert optimum.loss == pytest.approx(value, rel=1e-13)
  norm = np.sqrt((dw**2).sum() + (db**2).sum())
  assert norm < 1e-10
  assert optimum.gradient_norm < convex.GRADIENT_BAR
  rng = np.random.default_rng(0)
  for _ in range(5):
    step = 1e-3 * rng.standard_normal(w.shape)
    assert by_hand(problem, w + step, b)[0] > value


def test_sgd_is_its_formula_with_the_draws_it_documents(problem, optimum):
  """One policy, one seed, three updates, in NumPy."""
  updates, excess = convex.excess_losses(
    problem, optimum, np.full((1, 3), 0.1), (7,), batch_size=4, blocks=3
  )
  w, b = np.zeros((784, 10)), np.zeros(10)
  expected = []
  for t in range(3):
    with precision.float64():
      key = jax.random.fold_in(jax.random.key(7), t)
      chosen = np.asarray(jax.random.randint(key, (4,), 0, 100))
    part = dataclasses.replace(
      problem, images=problem.images[chosen], labels=problem.labels[chosen]
    )
    _, dw, db = by_hand(part, w, b)
    w, b = w - 0.1 * dw, b - 0.1 * db
    expected.append(by_hand(problem, w, b)[0] - optimum.loss)
  assert updates.tolist() == [1, 2, 3]
  np.testing.assert_allclose(excess[0, 0], expected, rtol=1e-9)


@pytest.fixture(scope="module")
def floors(problem, optimum):
  """A large rate, a small one, and one that falls like 1 / t."""
  t = np.arange(2000)
  rates = np.stack(
    [np.full(2000, 0.2), np.full(2000, 0.05), 0.2 / (1 + 0.02 * t)]
  )
  return convex.excess_losses(
    problem, optimum, rates, tuple(range(4)), batch_size=4, blocks=50
  )


def test_excess_is_positive_and_falls_to_a_floor_that_the_rate_sets(floors):
  updates, excess = floors
  assert updates[-1] == 2000
  assert (np.diff(updates) > 0).all()
  assert excess.shape == (3, 4, len(updates))
  assert (excess > 0).all()
  large, small, falling = (convex.floor(updates, e) for e in excess)
  assert small.high < large.low
  assert falling.high < large.low
  assert convex.late_slope(updates, excess[2]).high < -0.3
  assert abs(convex.late_slope(updates, excess[0]).estimate) < 0.3


def test_policies_of_a_seed_share_their_draws(problem, optimum):
  rates = np.full((2, 20), 0.1)
  _, excess = convex.excess_losses(
    problem, optimum, rates, (0, 1), blocks=4, batch_size=4
  )
  # Not to the bit: vmap may add up the members' products in another order.
  np.testing.assert_allclose(excess[0], excess[1], rtol=1e-12)
  assert np.abs(excess[0, 0] / excess[0, 1] - 1).max() > 1e-3


def test_a_policy_that_diverges_is_not_finite_or_large(problem, optimum):
  _, excess = convex.excess_losses(
    problem, optimum, np.full((1, 400), 1e3), (0,), blocks=4
  )
  assert not excess[0, 0, -1] < 1e6


def test_what_cannot_be_is_refused(mnist, problem, optimum):
  for num, l2, message in (
    (0, 0.1, "num=0"),
    (60_000, 0.1, "expected 1 to 55000"),
    (10, 0.0, "l2=0"),
    (10, float("nan"), "l2=nan"),
  ):
    with pytest.raises(InputError, match=message):
      convex.make_problem(mnist.train, num, l2)
  for steps, seeds in ((7, (0,)), (8, ())):
    with pytest.raises(InputError, match="multiple of 4"):
      convex.excess_losses(
        problem, optimum, np.full((1, steps), 0.1), seeds, blocks=4
      )
  split = data.Split(*(leaf[:60] for leaf in mnist.train))
  with pytest.raises(InputError, match="optimum was found to a gradient of"):
    convex.solve(convex.make_problem(split, 60, l2=1e-13))
