"""What a check covers, leaves alone, prints and refuses."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from gradcheck_examples import (
  POINT,
  A,
  exact,
  quadratic,
  quadratic_grads,
)

from mnist_jax import gradcheck
from mnist_jax.gradcheck import GradcheckError, Verdict, check
from mnist_jax.gradcheck._numeric import differences


def large(params):
  x = jnp.arange(300) % 3 == 0  # two rows of three are dead
  return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 2) / 40


def test_large_pytree_is_sampled_and_the_report_says_so():
  rng = np.random.default_rng(1)
  params = {"w": rng.normal(size=(300, 40)) / 9, "b": rng.normal(size=40)}
  grads = exact(large, params)
  report = check(large, params, grads, max_coordinates=400, worst=500)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert 300 < report.checked < 500
  assert report.total == 12040
  assert report.directions == 12
  assert "of 12040 coordinates" in report.coverage
  assert all(t.checked > 0 for t in report.tensors)
  largest = np.unravel_index(np.argmax(np.abs(grads["w"])), (300, 40))
  assert tuple(largest) in {e.index for e in report.worst}

  # One entry among 12,000: a direction feels it and halving finds it.
  wrong = jax.tree.map(np.array, grads)
  wrong["w"][150, 17] = 0
  report = check(large, params, wrong, max_coordinates=400)
  assert report.wrong_tensors == ("['w']",)
  assert report.worst[0].index == (150, 17)

  # All zero: the sample has live entries though no given one is.
  report = check(
    large, params, grads | {"w": 0 * grads["w"]}, max_coordinates=400
  )
  assert report.wrong_tensors == ("['w']",)
  assert report.tensors[1].causes[0].kind == "dropped"


class Ridge:
  """A model whose loss reads an attribute."""

  decay = 0.0

  def loss(self, w):
    return jnp.sum(jnp.sin(w)) + self.decay * jnp.sum(w**2)

  def data_gradient(self, w):
    return jnp.cos(w)

  def gradient(self, w):
    return jnp.cos(w) + 2 * self.decay * w


def test_what_the_loss_reads_may_change_between_checks():
  w, model, data = np.array([0.3, -0.7]), Ridge(), [1.0]
  assert check(model.loss, w, model.data_gradient).verdict is Verdict.CORRECT
  model.decay = 0.3
  assert check(model.loss, w, model.data_gradient).verdict is Verdict.WRONG
  assert check(model.loss, w, model.gradient).verdict is Verdict.CORRECT

  def closure(w):
    return data[0] * jnp.sum(jnp.sin(w))

  for scale in (1.0, 3.0):
    data[0] = scale
    report = check(closure, w, scale * np.cos(w))
    assert report.verdict is Verdict.CORRECT, str(report)
    numeric = gradcheck.numeric_gradient(closure, w, 1e-4)
    assert numeric == pytest.approx(scale * np.cos(w), abs=1e-6)


CONSTANTS = """
import jax
import jax.numpy as jnp

from mnist_jax import gradcheck

jax.config.update("jax_num_cpu_devices", 2)
if jax.__version_info__ >= (0, 8):  # before, jax itself fails with it
  jax.config.update("jax_use_simplified_jaxpr_constants", True)
data = {"x": jnp.arange(1.0, 2001.0)}


def loss(p):
  return jnp.sum(p * data["x"])


p = jnp.linspace(0.5, 1.0, 2000)
for change in (0.0, 9.0):
  data["x"] += change
  print(gradcheck.check(loss, p, data["x"]).verdict)
for device in jax.devices():
  arg = jax.device_put(p, device)
  check = gradcheck.check(lambda p, a: jnp.sum(p * a), p, arg, args=(arg,))
  print(check.verdict)
"""


def test_constants_that_jax_hands_over_and_other_devices_are_seen():
  """In a process of its own, where both settings can be chosen."""
  done = subprocess.run(
    [sys.executable, "-c", CONSTANTS],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == 4 * ["correct"], done.stderr


def test_one_check_compiles_the_loss_once(monkeypatch):
  made = []
  program = differences._program
  monkeypatch.setattr(
    differences, "_program", lambda *a: made.append(1) or program(*a)
  )
  # At a kink, so that the point beside it is checked as well.
  check(lambda x: jnp.sum(abs(x)), np.zeros(2), lambda x: 3 * jnp.sign(x) + 5)
  assert len(made) == 1


@pytest.mark.parametrize(
  "arg", [True, False, "sum", 3, 2.5, None, (1, "a"), {"n": 2, "by": "mean"}]
)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_args_that_are_no_arrays_reach_the_loss_as_they_are(arg, chunk_size):
  def loss(p, data, given):
    assert given == arg
    assert type(given) is type(arg)
    return jnp.sum(data * p**2) * (2 if given else 1)

  p, data = np.ones(3), np.arange(3.0)
  report = check(
    loss, p, jax.grad(loss), args=(data, arg), chunk_size=chunk_size
  )
  assert report.verdict is Verdict.CORRECT, str(report)


def test_chunks_change_nothing():
  base = check(quadratic, POINT, quadratic_grads)
  for chunk_size in (2, 1000):
    other = check(quadratic, POINT, quadratic_grads, chunk_size=chunk_size)
    assert other.verdict is base.verdict
    assert other.distance == pytest.approx(base.distance, abs=1e-11)


def test_supplied_differences_are_used():
  calls = []

  def numeric_fn(params, step):
    calls.append(step)
    return gradcheck.numeric_gradient(quadratic, params, step)

  report = check(quadratic, POINT, quadratic_grads, numeric_fn=numeric_fn)
  assert report.verdict is Verdict.CORRECT
  assert calls == [1e-3, 5e-4]
  # Where they are off, the loss itself decides.
  report = check(
    quadratic,
    POINT,
    quadratic_grads,
    numeric_fn=lambda p, h: jax.tree.map(lambda a: a * 0 + 1.0, p),
  )
  assert report.verdict is Verdict.CORRECT
  with pytest.raises(GradcheckError, match="two-sided"):
    check(
      quadratic,
      POINT,
      quadratic_grads,
      method="one_sided",
      numeric_fn=numeric_fn,
    )


@pytest.mark.parametrize("fails", [False, True])
def test_settings_and_arrays_are_left_alone(fails):
  params = jax.tree.map(jnp.float32, POINT)
  before = jax.tree.map(np.array, params)
  seen = []

  def grads(p):
    seen.append(p["a"].dtype)
    if fails:
      raise RuntimeError("no")
    return quadratic_grads(p)

  state = jnp.zeros(1).dtype
  with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
    if fails:
      with pytest.raises(GradcheckError, match="grads raised RuntimeError: no"):
        check(quadratic, params, grads)
    else:
      assert check(quadratic, params, grads).verdict is Verdict.CORRECT
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    assert jax.config.jax_debug_nans
  assert seen[0] == np.float64
  assert jnp.zeros(1).dtype == state == np.float32
  assert all(
    a.dtype == np.float32 and np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(params), jax.tree.leaves(before), strict=True
    )
  )


def test_report_prints_and_converts():
  wrong = exact(quadratic, POINT)
  wrong["b"] = -wrong["b"]
  report = check(quadratic, POINT, wrong)
  text = str(report)
  table = [line for line in text.splitlines() if line.startswith("  ['")]
  assert text.startswith("gradient check: WRONG - ")
  assert "cause in ['b']: given = -1 x numeric (wrong sign)" in text
  assert "re-check (> 0.01)" in text
  assert len({line.index("2x3") for line in table if "2x3" in line}) == 1
  data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
  assert data["verdict"] == "wrong"
  assert data["band"] == "re-check (> 0.01)"
  assert data["tensors"][1]["causes"][0]["kind"] == "sign"
  entry = report.worst[0]
  assert entry.error == entry.given - entry.numeric
  assert entry.relative == pytest.approx(1.0)


def test_assertion_carries_the_report():
  gradcheck.assert_gradients(quadratic, POINT, quadratic_grads)
  with pytest.raises(AssertionError, match="WRONG"):
    gradcheck.assert_gradients(
      quadratic, POINT, lambda p: jax.tree.map(lambda a: 2 * a, POINT)
    )


def test_distance_is_the_chapters():
  assert gradcheck.distance([np.zeros(2)], [np.zeros(2)]) == 0
  a, b = np.array([3.0, 4.0]), np.array([0.0, 0.0])
  assert gradcheck.distance(a, b) == 1
  assert gradcheck.distance(a, 3 * a) == pytest.approx(0.5)
  assert gradcheck.band(1e-8).startswith("very satisfying")
  assert gradcheck.band(1e-3) == "between 1e-07 and 0.01"


GOOD = {"a": np.ones((2, 3)), "b": np.ones(3)}


@pytest.mark.parametrize(
  ("params", "grads", "message"),
  [
    (GOOD, {"a": np.ones((2, 3))}, r"grads\['b'\] is missing"),
    (GOOD, GOOD | {"c": np.ones(1)}, r"grads\['c'\] is extra"),
    (GOOD, GOOD | {"b": np.ones(4)}, r"has shape \(4,\).*\(argnums\)"),
    (
      GOOD,
      GOOD | {"b": np.ones(3, int)},
      "int64, expected floats like params$",
    ),
    (GOOD | {"a": np.ones((2, 3), int)}, GOOD, r"params\['a'\] has dtype int"),
    (GOOD | {"a": np.ones((0, 3))}, GOOD, r"params\['a'\] is empty"),
    (GOOD | {"a": "text"}, GOOD, r"params\['a'\]"),
    (GOOD | {"a": 1j * np.ones(2)}, GOOD, r"grads\['a'\] is real where"),
    (GOOD, GOOD | {"a": 1j * np.ones((2, 3))}, r"grads\['a'\] is complex"),
    (GOOD | {"a": len}, GOOD, r"params\['a'\] is a builtin_function"),
    ({}, {}, "params has no leaves"),
    ({1: np.ones(1), "1": np.ones(1)}, {}, "keys of a dict"),
    (GOOD, (1.0, GOOD), r"grads is a tuple of 2, like params only in \[1\]"),
    (GOOD, (GOOD, GOOD["a"]), r"like params only in \[0\];"),
  ],
)
def test_bad_trees_are_named_by_leaf(params, grads, message):
  with pytest.raises(GradcheckError, match=message) as caught:
    check(lambda p: 0.0, params, grads)
  assert "\n" not in str(caught.value)


@pytest.fixture
def untyped(monkeypatch):
  """As users call: without the tests' look at types."""
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def raising(x):
  raise KeyError("weights")


@pytest.mark.parametrize(
  ("loss", "message"),
  [
    (lambda x: x, r"loss_fn returns shape \(3,\)"),
    (lambda x: (jnp.sum(x), x), "loss_fn returns a tuple"),
    (lambda x: jnp.sum(x > 0), "loss_fn returns int"),
    (raising, "loss_fn raised KeyError"),
    (
      lambda x: np.exp(np.asarray(x)),
      "loss_fn raised Tracer.*; jax traces it: use jax.numpy",
    ),
    (lambda x: x[0] if x[0] > 0 else x[1], "TracerBool.*jnp.where for if"),
    (np.ones(3), r"loss_fn is an array, .* check\(loss_fn, params, grads\)"),
  ],
)
def test_bad_losses(untyped, loss, message):
  with pytest.raises(GradcheckError, match=message) as caught:
    check(loss, np.ones(3), np.ones(3))
  assert type(caught.value) is GradcheckError


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    ({"steps": 0.0}, "steps is 0.0"),
    ({"steps": ()}, "positive"),
    ({"steps": "small"}, "steps is 'small', expected positive numbers"),
    ({"seed": -1}, "seed is -1, expected a whole number, 0 or more"),
    ({"seed": jax.random.key(0)}, "seed is an array, expected a whole"),
    ({"candidates": [quadratic_grads]}, "candidates is a list, expected a d"),
    ({"penalty_fn": 3.0}, "penalty_fn is a float, expected a function"),
    ({"numeric_fn": 3.0}, "numeric_fn is a float, expected a function"),
    ({"args": 2.0}, "args is a float, expected a tuple"),
    ({"args": A}, r"args is an array, expected a tuple: args=\(x,\)"),
    ({"directions": -1}, "directions is -1, expected"),
    ({"max_coordinates": 0}, "max_coordinates is 0, expected"),
    ({"max_coordinates": 2.5}, "max_coordinates is 2.5, expected a whole"),
    ({"batch_size": 0}, "batch_size is 0, expected"),
    ({"batch_size": -3}, "batch_size is -3, expected"),
    ({"worst": -1}, "worst is -1, expected"),
    ({"worst": True}, "worst is True, expected"),
    ({"method": "three_sided"}, "method is 'three_sided'"),
    ({"chunk_size": 0}, "chunk_size is 0"),
    ({"candidates": {"x": {"a": A}}}, r"candidates\['x'\]\['b'\] is missing"),
    ({"penalty_fn": lambda p: p["a"]}, "penalty_fn raised"),
  ],
)
def test_bad_options(untyped, keywords, message):
  with pytest.raises(GradcheckError, match=message) as caught:
    check(quadratic, POINT, quadratic_grads, **keywords)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("step", "message"),
  [
    (0, "step is 0, expected a positive number"),
    (-1e-3, "step is -0.001, expected a positive number"),
    (math.nan, "step is nan, expected a positive number"),
    ([1e-3], r"step is \[0.001\], expected a positive number"),
    ("small", "step is 'small', expected a positive number"),
    (1e-300, r"expected one that moves the parameters: 0.5 \+ step is 0.5 in"),
  ],
)
def test_steps_that_give_no_numeric_gradient(untyped, step, message):
  params = {"w": np.array([0.0, 0.5])}
  with pytest.raises(GradcheckError, match=message):
    gradcheck.numeric_gradient(lambda p: jnp.sum(p["w"]), params, step)
