"""The saddle's formulas, its escapes against linear theory, its verdicts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments._shared import study
from experiments.saddle import study as experiment
from experiments.saddle import surface
from mnist_jax.stats.verdicts import Verdict

MOST = 5000


def leave(kind, rate, y0, curvature=0.1, noise=0.0, runs=1, most=MOST):
  return surface.escape(
    kind,
    rate,
    jnp.tile(jnp.array([1.0, y0]), (runs, 1)),
    jnp.full(runs, curvature),
    jnp.full(runs, noise),
    jax.random.split(jax.random.key(0), runs),
    most=most,
  )


@settings(max_examples=20)
@given(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([0.05, 1.0]))
def test_gradient_is_that_of_the_value(x, y, curvature):
  point = jnp.array([x, y], jnp.float32)
  expected = jax.grad(lambda p: surface.value(p, curvature))(point)
  np.testing.assert_allclose(
    surface.gradient(point, curvature), expected, atol=1e-5
  )


def test_stationary_points_are_all_and_have_these_eigenvalues():
  curvature = 0.3
  points = surface.stationary_points(curvature)
  hessian_at = jax.jit(jax.hessian(lambda p: surface.value(p, curvature)))
  roots = np.sort(np.roots([curvature, 0, -curvature, 0]).real)
  assert [y for y, _, _ in points] == pytest.approx(roots.tolist())
  for y, f, eigenvalues in points:
    point = jnp.array([0.0, y])
    np.testing.assert_allclose(surface.gradient(point, curvature), 0, atol=1e-7)
    assert f == pytest.approx(float(surface.value(point, curvature)))
    hessian = hessian_at(point)
    np.testing.assert_allclose(np.diag(hessian), eigenvalues, rtol=1e-5)
    assert not hessian[0, 1]


def test_on_the_stable_manifold_plain_descent_never_leaves():
  found = leave("sgd", 0.1, 0.0)
  assert found.left == found.arrived == MOST


@pytest.mark.parametrize(
  ("kind", "momentum"), [("sgd", 0.0), ("momentum", 0.9)]
)
def test_steps_to_leave_are_those_of_linear_growth(kind, momentum):
  growth = surface.growth(0.1, 0.1, momentum)
  few, many = (int(leave(kind, 0.1, y0).left[0]) for y0 in (1e-4, 1e-8))
  expected = math.log(1e4) / math.log(growth)
  assert many - few == pytest.approx(expected, abs=1.5)


def test_adam_leaves_in_about_half_over_its_rate():
  assert 35 <= leave("adam", 0.01, 1e-6).left[0] <= 55


def test_noise_frees_it_and_each_run_has_its_own():
  found = leave("sgd", 0.1, 0.0, noise=1e-2, runs=30)
  assert len(set(found.left.tolist())) > 10
  assert (found.left < found.arrived).all()
  assert (found.arrived < MOST).all()
  # Variance of y after T steps of linear growth with noise.
  growth = surface.growth(0.1, 0.1)
  spread = 0.1 * 1e-2 / (growth**2 - 1) ** 0.5
  typical = math.log(surface.LEFT_AT / spread) / math.log(growth)
  assert np.median(found.left) == pytest.approx(typical, rel=0.25)


def test_path_goes_where_escape_went():
  key = jax.random.split(jax.random.key(0), 1)[0]
  points = surface.path(
    "sgd", 0.1, jnp.array([1.0, 0.0]), 0.1, 0.01, key, steps=700
  )
  out = np.abs(np.asarray(points)[:, 1])
  found = leave("sgd", 0.1, 0.0, noise=0.01)
  assert int((out >= surface.LEFT_AT).argmax()) == found.left[0]
  assert int((out >= surface.ARRIVED_AT).argmax()) == found.arrived[0]


@pytest.fixture(scope="module")
def measured():
  values = study.preset_values(experiment.STUDY, "full")
  values.seeds = 100
  values.noises = (1e-8, 1e-1)
  values.curvatures = (0.1, 0.5)
  return experiment.measure(None, values), values


def verdict_of(table, values):
  return {p.name: p.verdict for p in experiment.judge(table, values)}


def test_the_claim_holds_in_the_picture(measured):
  assert set(verdict_of(*measured).values()) == {Verdict.HOLDS}


@pytest.mark.parametrize(
  ("part", "broken"),
  [
    ("stands still", lambda t: (t["arm"] == "stands still", 100)),
    ("waits", lambda t: (t["arm"] == "plain", t["arrived"] // 4)),
    ("momentum", lambda t: (t["arm"] == "momentum", 20_000)),
    ("log of noise", lambda t: (t["arm"] == "by noise", 300 + t["seed"])),
    ("flatter", lambda t: (t["arm"] == "by curvature", 300 + t["seed"])),
  ],
)
def test_each_part_can_fail(measured, part, broken):
  table, values = measured[0].copy(), measured[1]
  rows, steps = broken(table)
  table.loc[rows, "left"] = steps if np.isscalar(steps) else steps[rows]
  assert verdict_of(table, values)[part] is Verdict.FAILS


def test_runs_that_never_left_are_said(measured):
  table, values = measured[0].copy(), measured[1]
  table.loc[table["arm"] == "noisy", "left"] = values.most
  parts = {p.name: p for p in experiment.judge(table, values)}
  assert "100 runs did not leave" in parts["noisy"].note
  summary = experiment.summarise(table, values).set_index("arm")
  assert summary["never_left"]["noisy"] == 100


def test_arms_of_a_seed_share_their_start(measured):
  starts = experiment.near_starts(100)
  assert len(np.unique(np.asarray(starts)[:, 1])) == 100
  assert np.abs(np.asarray(starts)[:, 1]).max() < 5 * experiment.NEAR
  np.testing.assert_array_equal(starts[:4], experiment.near_starts(4))


def test_figures(measured):
  figures = experiment.draw(*measured)
  assert set(figures) == {"saddle", "steps"}
