"""The surface's escapes against theory, the network's plateau, verdicts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from experiments._shared import study
from experiments.saddle import network, surface, toy
from experiments.saddle import study as experiment
from mnist_jax import data, stats
from mnist_jax.analysis import curvature, gradient_noise
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

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
def steps():
  return toy.measure(100)


SEEDS = 30
VALUES = study.preset_values(experiment.STUDY, "full")


def made(steps, power=-1.0, bad=0, lowest=-0.002, wait=40.0):
  """Runs that leave at wait (sd / 0.01)^power times Xavier's 18 updates."""
  rng = np.random.default_rng(0)
  rows, spectra = [], []
  for arm in ("xavier", *VALUES.sds):
    held = arm != "xavier" and arm <= network.HELD
    for seed in range(network.HELD_SEEDS if held else SEEDS):
      own = 18.0 * math.exp(0.05 * rng.normal())
      if arm != "xavier":
        own *= wait * (arm / 0.01) ** power
      name = arm if arm == "xavier" else f"{arm:g}"
      rows.append(
        {"arm": name, "seed": seed, "reached": not held}
        | {"step": 12_900 if held else max(1, round(own))}
      )
  for sd in network.MEASURED:
    for seed in range(SEEDS):
      own = lowest * sd / network.PLATEAU
      row = {"sd": sd, "seed": seed, "lowest": own, "residual": abs(own) / 50}
      row |= {"largest": 0.11, "gradient": sd, "negative": 144}
      spectra.append(row | {"block": 1210})
  ends = [
    {"arm": arm, "seed": seed, "dev_loss": 0.1 + 0.001 * rng.normal()}
    | dict.fromkeys(
      ("dev_accuracy", "test_accuracy"),
      0.5 if seed < (bad if arm == "near 0" else min(bad, 15)) else 0.97,
    )
    for arm, count in (("xavier", 40), ("near 0", 100))
    for seed in range(count)
  ]
  return {
    "escapes": pd.DataFrame(rows),
    "ends": pd.DataFrame(ends),
    "spectra": pd.DataFrame(spectra),
    "toy": steps,
  }


def words(measured):
  return {c.claim: c for c in experiment.judge(measured, VALUES)}


def test_waiting_at_a_saddle_and_ending_alike_holds(steps):
  found = words(made(steps))
  assert found["S2"].verdict is Verdict.HOLDS
  assert found["H8"].verdict is Verdict.HOLDS
  assert "20 of 20 at sd 0.0001 or less" in found["H8"].sentence
  assert found["H8"].found("longer").estimate == pytest.approx(-1, abs=0.05)
  assert {p.role for p in found["S2"].parts} == {"primary", "illustration"}


@pytest.mark.parametrize(
  ("claim", "part", "wrong"),
  [
    ("S2", "no bad minimum", {"bad": 15}),
    ("S2", "waits", {"wait": 1.0}),
    ("H8", "one end", {"bad": 30}),
    ("H8", "longer", {"power": 0.5}),
    ("H8", "saddle", {"lowest": 1e-5}),
  ],
)
def test_each_primary_part_can_fail(steps, claim, part, wrong):
  found = words(made(steps, **wrong))[claim]
  assert found[part].verdict is Verdict.FAILS
  assert found.verdict is Verdict.FAILS


def test_waiting_by_the_log_of_the_noise_is_a_limit(steps):
  found = words(made(steps, power=-0.2))["H8"]
  assert found["as 1 / sd"].verdict is Verdict.FAILS
  assert found.verdict is Verdict.LIMITS


def test_runs_that_did_not_leave_leave_the_slope_open(steps):
  measured = made(steps)
  escapes = measured["escapes"]
  late = (escapes["arm"] == "0.001") & (escapes["seed"] < 28)
  escapes.loc[late, "reached"] = False
  assert words(measured)["H8"]["longer"].verdict is Verdict.UNDECIDED


def judged_parts(table):
  """The illustrations as they would be judged, for each to be seen to fail."""
  parts = [
    dataclasses.replace(part, role="secondary")
    if isinstance(part, stats.Question)
    else part
    for part in toy.parts(table)
  ]
  first = stats.derived("first", "so that there is a primary one", True)
  claim = stats.Claim("S2", [first, *parts], lambda judged: "")
  return {
    part.name.removeprefix("surface: "): part
    for part in stats.judge(claim).parts
  }


def test_the_picture_is_as_the_claim_says(steps):
  found = judged_parts(steps)
  drawn = {"other minima", "stands still"}  # computed, so no question
  assert all(
    part.verdict is (Verdict.ILLUSTRATED if name in drawn else Verdict.HOLDS)
    for name, part in found.items()
  )


@pytest.mark.parametrize(
  ("part", "broken"),
  [
    ("waits", lambda t: (t["arm"] == "plain", t["arrived"] // 4)),
    ("momentum", lambda t: (t["arm"] == "momentum", 20_000)),
    ("log of noise", lambda t: (t["arm"] == "by noise", 300 + t["seed"])),
    ("flatter", lambda t: (t["arm"] == "by curvature", 300 + t["seed"])),
  ],
)
def test_each_part_of_the_picture_can_fail(steps, part, broken):
  table = steps.copy()
  rows, new = broken(table)
  table.loc[rows, "left"] = new if np.isscalar(new) else new[rows]
  assert judged_parts(table)[part].verdict is Verdict.FAILS


def test_runs_that_never_left_are_said(steps):
  table = steps.copy()
  table.loc[table["arm"] == "noisy", "left"] = toy.MOST
  assert "100 runs did not leave" in judged_parts(table)["noisy"].note
  summary = toy.summarise(table).set_index("arm")
  assert summary["never_left"]["noisy"] == 100


def test_arms_of_a_seed_share_their_start():
  starts = toy.near_starts(100)
  assert len(np.unique(np.asarray(starts)[:, 1])) == 100
  assert np.abs(np.asarray(starts)[:, 1]).max() < 5 * toy.NEAR
  np.testing.assert_array_equal(starts[:4], toy.near_starts(4))


def test_figures(steps):
  figures = experiment.STUDY.figures(made(steps), VALUES)
  assert set(figures) == {"network", "saddle", "steps"}


def test_looks_are_a_tenth_apart_and_before_the_end():
  points = np.array(network.points(12_900))
  assert points[0] == network.FIRST_POINT
  assert 11_700 < points[-1] < 12_900
  assert (np.diff(np.log(points[points > 100])) < 0.1).all()
  assert network.points(5) == ()


@pytest.fixture(scope="module")
def split(mnist):
  return data.Split(*map(jnp.asarray, data.take(mnist, 200).train))


def test_the_plateau_is_stationary_and_gives_the_classes_their_shares(split):
  params = network.on_plateau(split, 1e-4, 3)
  loss_fn = gradient_noise.network_loss(("sigmoid", "tanh"))
  shares = np.bincount(np.asarray(split.labels)) / 200
  entropy = -(shares * np.log(shares)).sum()
  assert float(loss_fn(params, split)) == pytest.approx(entropy, rel=1e-4)
  slope = gradient_noise.square_norm(jax.grad(loss_fn)(params, split))
  assert slope**0.5 < 1e-4
  assert np.std(params[0].w) == pytest.approx(1e-4, rel=0.02)


def test_the_block_is_part_of_the_hessian(split):
  params = network.on_plateau(split, 0.1, 3)
  found = network.block(params, split)
  rng = np.random.default_rng(0)
  vector = rng.normal(size=len(found)).astype(np.float32)
  flat, unravel = ravel_pytree(params[1:])
  assert flat.size == len(found)
  first = jax.tree.map(jnp.zeros_like, params[0])
  loss_fn = gradient_noise.network_loss(("sigmoid", "tanh"))
  whole = curvature.hessian_vector_product(
    loss_fn, params, (first, *unravel(jnp.asarray(vector))), split
  )
  expected = ravel_pytree(whole[1:])[0]
  np.testing.assert_allclose(found @ vector, expected, rtol=1e-3, atol=1e-4)


def test_curvature_falls_with_the_noise_and_index_does_not(split):
  less, more = (network.spectrum(split, sd, 3) for sd in (1e-3, 1e-2))
  assert more["lowest"] == pytest.approx(10 * less["lowest"], rel=0.05)
  assert less["lowest"] < -10 * less["residual"] < 0
  assert less["negative"] >= 100
