"""The gradient check: right gradients, kinks, rounding, chance, NaN."""

import json
import math
import traceback
import warnings
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradcheck_examples import (
  POINT,
  A,
  at,
  exact,
  quadratic,
  quadratic_grads,
  smooth,
  smooth_point,
)
from hypothesis import given, settings

from mnist_jax import gradcheck
from mnist_jax.gradcheck import Verdict, check


@pytest.mark.parametrize("method", ["two_sided", "one_sided"])
def test_known_gradient_is_correct(method):
  report = check(quadratic, POINT, quadratic_grads, method=method)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert report.distance < 1e-9
  assert report.checked == report.total == 9
  assert len(report.by_step) == 2


def test_plain_differences_have_the_chapters_orders():
  def error(method, step):
    numeric = gradcheck.numeric_gradient(
      lambda x: jnp.exp(x), 1.0, step, method=method
    )
    return abs(float(numeric) - math.e)

  # f'' / 2 h and f''' / 6 h^2.
  assert error("one_sided", 1e-3) == pytest.approx(math.e / 2 * 1e-3, rel=1e-2)
  assert error("two_sided", 1e-3) == pytest.approx(math.e / 6 * 1e-6, rel=1e-2)


def test_numeric_gradient_in_float32_is_rougher():
  wide = gradcheck.numeric_gradient(quadratic, POINT, 1e-2)
  short = gradcheck.numeric_gradient(quadratic, POINT, 1e-2, dtype=np.float32)
  error = gradcheck.distance(wide, short)
  assert 1e-7 < error < 1e-3


def convolution(params):
  image = jnp.arange(64, dtype=jnp.float32).reshape(1, 1, 8, 8) / 64
  kernel = params["kernel"]
  out = jax.lax.conv_general_dilated(
    image.astype(kernel.dtype), kernel, (2, 2), "SAME"
  )
  return jnp.mean(jnp.tanh(out + params["bias"][:, None, None]) ** 2)


def attention(params):
  x = jnp.sin(jnp.arange(12.0).reshape(4, 3))
  q, k, v = (x @ params[n] + params["b" + n] for n in "qkv")
  weights = jax.nn.softmax(q @ k.T / 3**0.5)
  return jnp.sum(jnp.cos(weights @ v))


def recurrent(params):
  def step(h, x):
    h = jnp.tanh(params["u"] @ h + params["w"] * x)
    return h, h

  xs = jnp.cos(jnp.arange(6.0))
  start = jnp.zeros(3, params["u"].dtype)
  _, states = jax.lax.scan(step, start, xs.astype(start.dtype))
  return jnp.mean(states**2)


def example(name):
  rng = np.random.default_rng(7)
  shapes = {
    "convolution": {"kernel": (2, 1, 3, 3), "bias": (2,)},
    "attention": dict.fromkeys("qkv", (3, 3)) | {"b" + n: (3,) for n in "qkv"},
    "recurrent": {"u": (3, 3), "w": (3,)},
  }[name]
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("loss", [convolution, attention, recurrent])
def test_other_peoples_functions(loss):
  params = example(loss.__name__)
  # The gradient in the keys' bias is zero but for rounding.
  gradcheck.assert_gradients(loss, params, jax.grad(loss))
  first = sorted(params)[-1]

  def broken(p):
    grads = jax.grad(loss)(p)
    return grads | {first: grads[first] * 1.001}

  report = check(loss, params, broken)
  assert report.wrong_tensors == (f"['{first}']",)
  assert [c.kind for t in report.tensors for c in t.causes] == ["factor"]


def test_float32_values_of_float32_params_are_judged_as_such():
  params = jax.tree.map(np.float32, smooth_point())
  grads = jax.jit(jax.grad(smooth))(params)
  assert grads["w"].dtype == np.float32
  assert check(smooth, params, grads).verdict is Verdict.CORRECT
  grads = jax.tree.map(lambda g: g * np.float32(1.001), grads)
  assert check(smooth, params, grads).verdict is Verdict.WRONG


def test_float32_from_a_function_given_float64_is_a_loss():
  params = jax.tree.map(np.float32, smooth_point())

  def shortened(p):
    return jax.tree.map(jnp.float32, jax.grad(smooth)(p))

  report = check(smooth, params, shortened)
  assert report.wrong_tensors == ("['b']", "['w']")
  kinds = [c.kind for t in report.tensors for c in t.causes]
  assert kinds == ["precision", "precision"]


def test_steps_are_those_that_float32_can_take():
  def loss(x):
    return jnp.sum(jnp.sin(x.astype(jnp.float32) - 1000))

  x = np.float32([1000.25, 999.5]).astype(np.float64)
  report = check(loss, x, np.cos(x - 1000))
  assert report.verdict is Verdict.CORRECT, str(report)
  assert report.precision == "float32"
  assert report.distance < 1e-5


@st.composite
def smooth_problems(draw):
  seed = draw(st.integers(0, 2**16))
  scale = 10.0 ** draw(st.integers(-3, 3))
  shift = 10.0 ** draw(st.integers(-3, 3))
  rng = np.random.default_rng(seed)
  return {
    "x": rng.normal(size=5),
    "y": rng.normal(size=(2, 3)) * 10.0 ** draw(st.integers(-2, 1)),
  }, (scale, shift, rng.normal(size=6))


def random_smooth(params, coefficients):
  scale, shift, c = coefficients
  x, y = params["x"], params["y"].ravel()
  inner = jnp.sin(c[0] * x) + c[1] * jnp.exp(c[2] * x / 4)
  cross = jnp.tanh(jnp.outer(x, y) * c[3])
  return scale * (
    jnp.sum(inner) + c[4] * jnp.sum(cross) + jnp.sum(y**2) * c[5] + shift
  )


random_smooth_grads = jax.jit(jax.grad(random_smooth))


@given(smooth_problems(), st.integers(0, 10))
@settings(max_examples=40)
def test_random_smooth_functions(problem, entry):
  params, coefficients = problem
  args = (coefficients,)
  report = check(random_smooth, params, random_smooth_grads, args=args)
  assert report.verdict is Verdict.CORRECT, str(report)

  grads = jax.tree.map(
    np.array,
    at(random_smooth_grads, params, coefficients),
  )
  path, index = ("x", entry) if entry < 5 else ("y", divmod(entry - 5, 3))
  grads[path][index] *= 1 + 1e-3
  report = check(random_smooth, params, grads, args=args)
  assert report.wrong_tensors == (f"['{path}']",), str(report)


def relu_sum(x):
  return jnp.sum(jnp.maximum(x, 0))


def test_kink_at_the_point():
  x = np.array([0.0, 1.0, -2.0])
  report = check(relu_sum, x, np.array([0.0, 1.0, 0.0]))
  assert report.verdict is Verdict.KINK
  (entry,) = report.kinks
  assert entry.index == (0,)
  assert (entry.backward, entry.forward) == pytest.approx((0, 1), abs=1e-6)
  assert "[0]" in str(report)
  # What no side's slope allows is wrong, kink or not; so is another entry.
  for wrong in ([1.5, 1.0, 0.0], [0.0, 1.0, 0.1]):
    report = check(relu_sum, x, np.array(wrong))
    assert report.verdict is Verdict.WRONG
  # The mean of both sides is what every two-sided difference gives.
  half = np.array([0.5, 1.0, 0.0])
  assert check(relu_sum, x, half).verdict is Verdict.CORRECT
  report = check(lambda x: jnp.sum(jnp.abs(x)), x, np.array([1.0, 1, -1]))
  assert [e.index for e in report.kinks] == [(0,)]


@pytest.mark.parametrize("offset", [3e-4, -3e-4, 1e-5, -1e-6, 1e-7])
@pytest.mark.parametrize("jump", [1.0, 1e-6])
def test_kink_near_the_point_is_resolved(offset, jump):
  def loss(x):
    return jnp.sum(jnp.sin(x)) + jump * jnp.sum(jnp.maximum(x - 1, 0))

  x = np.array([1 + offset, 0.3])
  right = np.cos(x) + jump * (x > 1)
  report = check(loss, x, right)
  assert report.verdict is Verdict.CORRECT, str(report)
  wrong = right + np.array([0.3 * jump, 0])
  assert check(loss, x, wrong).verdict is not Verdict.CORRECT


@given(st.integers(0, 2**16))
@settings(max_examples=25)
def test_random_relu_networks_raise_no_alarm(seed):
  rng = np.random.default_rng(seed)
  params = relu_point(rng)
  x = rng.normal(size=(16, 4))
  report = check(relu_loss, params, relu_grads, args=(x,))
  assert report.verdict is Verdict.CORRECT, str(report)
  wrong = jax.tree.map(np.array, at(relu_grads, params, x))
  wrong[0][:, 2] *= 2
  if np.any(wrong[0][:, 2]):
    report = check(relu_loss, params, wrong, args=(x,))
    assert report.wrong_tensors == ("[0]",)
    assert "only index 2 of axis 1" in report.tensors[0].causes[0].text


def relu_point(rng):
  return [rng.normal(size=s) / 2 for s in ((4, 9), (9,), (9, 5), (5, 3))]


def relu_loss(params, x):
  w1, b1, w2, w3 = params
  hidden = jnp.maximum(jnp.maximum(x @ w1 + b1, 0) @ w2, 0)
  return jnp.mean(jax.nn.logsumexp(hidden @ w3, axis=1))


relu_grads = jax.jit(jax.grad(relu_loss))


@pytest.mark.parametrize("jump", [1e-12, 7e-12, 5e-11, 1e-9])
def test_kink_hidden_by_rounding_is_no_alarm(jump):
  # Below h = 1e-5 the kink's own slope is lost in the rounding of the loss.
  def loss(x):
    return 0.7 + x[0] + jump * jnp.maximum(x[1], 0)

  report = check(loss, np.zeros(2), np.array([1.0, 0.0]))
  assert report.verdict is not Verdict.WRONG, str(report)


def test_step_too_small_for_the_precision():
  report = check(quadratic, POINT, quadratic_grads, steps=1e-11)
  assert report.verdict is Verdict.ROUNDING_LIMITED
  assert "too small" in report.reason
  assert (
    check(quadratic, POINT, quadratic_grads, steps=1e-5).verdict
    is Verdict.CORRECT
  )


def test_loss_that_is_float32_inside():
  def loss(params):
    return quadratic(jax.tree.map(lambda a: a.astype(jnp.float32), params))

  for function in (loss, lambda p: loss(p).astype(jnp.float64)):
    report = check(function, POINT, quadratic_grads)
    assert report.verdict is Verdict.CORRECT, str(report)
    assert report.precision == "float32"
    assert report.by_step[0][0] == 0.05
    report = check(function, POINT, quadratic_grads, steps=1e-6)
    assert report.verdict is Verdict.ROUNDING_LIMITED, str(report)
    wrong = jax.tree.map(lambda a: 1.1 * a, exact(quadratic, POINT))
    assert check(function, POINT, wrong).verdict is Verdict.WRONG


@pytest.mark.parametrize("logits", [[30.0, 40.0], [40.0, 50.0]])
def test_saturated_loss_is_no_false_alarm(logits):
  # 1 - tanh is lost in rounding; its gradient is not.
  def loss(x):
    return jnp.sum(jax.nn.logsumexp(jnp.stack([x, 0 * x]), axis=0) - x)

  x = np.array(logits)
  report = check(loss, x, -1 / (1 + np.exp(x)))
  assert report.verdict in (Verdict.CORRECT, Verdict.ROUNDING_LIMITED)


def test_kinks_that_cancel_at_the_point_are_no_mistake():
  """relu(x) - relu(-x) = x: smooth, and the chain rule gives 0 at x = 0."""

  def loss(x):
    up, down = jnp.maximum(x, 0), jnp.maximum(-x, 0)
    return jnp.sum((1 + jnp.arange(3)) * (up - down)) + jnp.sum(x**2)

  def chain_rule(x):
    slopes = (x > 0).astype(x.dtype) + (x < 0).astype(x.dtype)
    return (1 + jnp.arange(3)) * slopes + 2 * x

  x = np.array([0.0, 0.5, -1.0])
  report = check(loss, x, chain_rule)
  assert report.verdict is Verdict.KINK, str(report)
  assert "beside" in report.reason
  assert report.wrong_tensors == ()
  # A list of numbers cannot be asked beside the point, nor can a mistake be.
  assert check(loss, x, at(chain_rule, x)).verdict is Verdict.WRONG
  for wrong in (lambda x: 2 * chain_rule(x), lambda x: chain_rule(x) - 2 * x):
    assert check(loss, x, wrong).verdict is Verdict.WRONG
  assert check(loss, x + 0.1, chain_rule).verdict is Verdict.CORRECT


def test_a_tensor_at_a_kink_is_told_from_a_wrong_one():
  def loss(p):
    up, down = jnp.maximum(p["a"], 0), jnp.maximum(-p["a"], 0)
    return jnp.sum(up - down) + jnp.sum(jnp.sin(p["b"]))

  def grads(p):
    return {"a": jnp.abs(jnp.sign(p["a"])), "b": 1.5 * jnp.cos(p["b"])}

  params = {"a": np.zeros(3), "b": np.array([0.1, 0.2])}
  report = check(loss, params, grads)
  assert report.verdict is Verdict.WRONG
  assert report.wrong_tensors == ("['b']",)
  assert report.tensors[0].verdict is Verdict.KINK


@pytest.mark.parametrize("factor", [1.1, 2.0, -1.0])
def test_rounding_beside_the_point_excuses_no_mistake(factor):
  def loss(x):
    return 1e9 + jnp.sum(jnp.sin(x))

  x = np.random.default_rng(1).normal(size=20)
  report = check(loss, x, lambda x: factor * jnp.cos(x))
  assert report.verdict is Verdict.WRONG, str(report)


def test_nondeterministic_losses():
  rng = np.random.default_rng(0)

  def mask_from_python(x):
    return jnp.sum(x * rng.uniform(size=3))

  def count_from_python(x):
    return jnp.sum(x) * rng.uniform()

  def callback(x):
    noise = jax.experimental.io_callback(
      lambda: np.float64(rng.normal()), jax.ShapeDtypeStruct((), np.float64)
    )
    return jnp.sum(x**2) + noise

  x = np.arange(3.0)
  for loss in (mask_from_python, count_from_python, callback):
    report = check(loss, x, np.ones(3))
    assert report.verdict is Verdict.NONDETERMINISTIC
    assert "differ" in report.reason
  report = check(lambda x: jnp.sum(x), x, lambda x: rng.uniform(size=3))
  assert report.verdict is Verdict.NONDETERMINISTIC
  assert "grads" in report.reason


def test_deterministic_callback_is_checked():
  def loss(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(lambda x: np.sum(np.sin(x)), shape, x)

  x = np.arange(3.0)
  for chunk_size in (None, 4):
    report = check(loss, x, np.cos(x), chunk_size=chunk_size)
    assert report.verdict is Verdict.CORRECT, str(report)


def test_values_that_are_not_finite():
  nan = {"a": A, "b": np.array([0.0, np.nan, 1.0])}
  report = check(quadratic, nan, quadratic_grads)
  assert report.verdict is Verdict.NOT_FINITE
  assert "params['b']" in report.reason
  assert "(1,)" in report.reason

  inf = {"a": np.full((2, 3), np.inf), "b": np.zeros(3)}
  report = check(quadratic, POINT, inf)
  assert report.verdict is Verdict.NOT_FINITE
  assert "grads['a']" in report.reason

  report = check(lambda x: jnp.log(x), -1.0, 1.0)
  assert report.verdict is Verdict.NOT_FINITE
  assert "loss" in report.reason

  # An infinite gradient, or an infinite slope beside the point: no warning.
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    for grads in (jax.grad(lambda x: jnp.sum(x**0.5)), np.ones(2)):
      report = check(lambda x: jnp.sum(x**0.5), np.array([0.0, 1.0]), grads)
      assert report.verdict is Verdict.NOT_FINITE

  # sqrt has no left side at zero.
  x = np.array([0.0, 1.0])
  report = check(lambda x: jnp.sum(jnp.sqrt(x)), x, np.array([1.0, 0.5]))
  assert report.verdict is Verdict.NOT_FINITE
  assert report.worst[0].index == (0,)
  json.dumps(report.to_dict(), allow_nan=False)


HOME = str(Path(gradcheck.__file__).parent)


@pytest.mark.parametrize("chunk_size", [1, 4])  # as on a CPU, and on a GPU
@pytest.mark.parametrize("max_coordinates", [100, 4])
@pytest.mark.parametrize("method", ["two_sided", "one_sided"])
def test_a_loss_is_at_most_seven_calls_away(
  max_coordinates, method, chunk_size
):
  """Counted in Python: without compilation every evaluation is a call."""
  ways = set()

  def loss(x):
    stack = traceback.extract_stack()
    ways.add(tuple(f.name for f in stack if f.filename.startswith(HOME)))
    return jnp.sum(jnp.maximum(x, 0) * jnp.arange(1.0, 7.0))

  # A kink at the first, one that is near at the last, and a wrong entry.
  x = np.array([0.0, 1.0, -2.0, 0.5, 0.3, 1e-5])
  given = np.array([0.0, 2.0, 0.0, 4.0, 5.5, 6.0])
  with jax.disable_jit():
    check(
      loss,
      x,
      given,
      method=method,
      max_coordinates=max_coordinates,
      chunk_size=chunk_size,
    )
  assert all(way[0] == "check" for way in ways)
  assert max(map(len, ways)) <= 7, max(ways, key=len)
  seen = {name for way in ways for name in way}
  assert {"measure", "refine", "by_tensor"} <= seen
  assert ("pinpoint" in seen) == (max_coordinates < x.size)
