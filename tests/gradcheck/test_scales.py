"""Steps, noise and tolerances follow the loss: its bends, units, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.gradcheck import (
  RECHECK,
  Verdict,
  _coverage,
  check,
  numeric_gradient,
)

ALARMS = (Verdict.WRONG, Verdict.KINK, Verdict.NOT_FINITE)


def scaled(factor, gradient):
  return lambda *args: jax.tree.map(lambda g: factor * g, gradient(*args))


@pytest.mark.parametrize("scale", [1e-12, 1e-7, 3e-6, 1e-3, 1.0, 1e4, 1e9])
def test_bends_of_any_size_are_seen(scale):
  def loss(p):
    return jnp.sum(jnp.sin(p / scale) * jnp.arange(1.0, 6.0))

  p = np.random.default_rng(0).normal(size=5) * scale
  gradient = jax.grad(loss)
  assert check(loss, p, gradient).verdict is Verdict.CORRECT
  for factor in (1.05, 1.0001):
    report = check(loss, p, scaled(factor, gradient))
    assert report.verdict is Verdict.WRONG, str(report)


@pytest.mark.parametrize("octaves", [15, 18, 20])
def test_positional_encodings_bend_far_below_their_parameter(octaves):
  rng = np.random.default_rng(octaves)
  rates = 2 * np.pi * 2.0 ** np.arange(octaves)
  x = rng.uniform(size=8)
  params = {"shift": np.array(0.3), "w": rng.normal(size=octaves)}

  def loss(p):
    return jnp.mean(
      jnp.tanh(jnp.sin(rates * (p["shift"] + x[:, None])) @ p["w"])
    )

  def wrong(p):
    found = jax.grad(loss)(p)
    return found | {"shift": found["shift"] * 1.05}

  assert check(loss, params, jax.grad(loss)).verdict is Verdict.CORRECT
  assert check(loss, params, wrong).wrong_tensors == ("['shift']",)


UNITS = {"large": 1e9, "one": 1.0, "small": 1e-12}


@pytest.mark.parametrize("name", UNITS)
def test_no_tensors_size_hides_another(name):
  """Each in a unit of its own, and so of its own derivative."""

  def loss(p):
    inner = {k: p[k] / unit for k, unit in UNITS.items()}
    return sum(jnp.sum(jnp.tanh(q) ** 2) for q in inner.values())

  rng = np.random.default_rng(1)
  params = {k: unit * rng.normal(size=4) for k, unit in UNITS.items()}
  gradient = jax.grad(loss)
  assert check(loss, params, gradient).verdict is Verdict.CORRECT

  def wrong(p):
    found = gradient(p)
    return found | {name: found[name] * 1.001}

  report = check(loss, params, wrong)
  assert report.wrong_tensors == (f"['{name}']",), str(report)


def test_entries_of_one_tensor_may_have_units_of_their_own():
  units = 10.0 ** np.array([-9, -6, -3, 0, 3, 6])

  def loss(p):
    return jnp.sum(jnp.sin(p / units))

  p = np.random.default_rng(2).normal(size=6) * units
  assert check(loss, p, jax.grad(loss)).verdict is Verdict.CORRECT
  for entry in range(6):
    factor = np.where(np.arange(6) == entry, 1.05, 1.0)
    report = check(loss, p, lambda p, f=factor: f * jax.grad(loss)(p))
    assert report.verdict is Verdict.WRONG, str(report)
    assert report.worst[0].index == (entry,)


@pytest.mark.parametrize("size", [1e4, 3.1e5, 1e7])
def test_a_large_tensor_of_a_float32_loss(size):
  rng = np.random.default_rng(0)
  params = {
    "energy": (size * (1 + 0.01 * rng.normal(size=12))).astype(np.float32),
    "t": rng.normal(size=12).astype(np.float32),
  }

  def loss(p, keep=1.0):
    e, t = p["energy"].astype(jnp.float32), p["t"].astype(jnp.float32)
    e = keep * e + (1 - keep) * jax.lax.stop_gradient(e)
    return jnp.sum(jnp.tanh((e[1:] - e[:-1]) / (0.01 * size)) * t[1:])

  report = check(loss, params, jax.grad(loss))
  assert report.verdict not in ALARMS, str(report)
  dropped = check(loss, params, jax.grad(lambda p: loss(p, 0.0)))
  assert dropped.wrong_tensors == ("['energy']",), str(dropped)
  assert dropped.tensors[0].causes[0].kind == "dropped"


def fitted(steps):
  """A linear model after so many updates, its data, its float32 gradient."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(256, 10)), jnp.float32)
  y = x @ rng.normal(size=10).astype(np.float32)
  y = y + 0.3 * rng.normal(size=256).astype(np.float32)

  def loss(p):
    return jnp.mean((x @ p["w"] + p["b"] - y) ** 2)

  params = {"w": jnp.zeros(10), "b": jnp.zeros(())}
  gradient = jax.jit(jax.grad(loss))
  for _ in range(steps):
    params = jax.tree.map(lambda a, g: a - 0.1 * g, params, gradient(params))
  return loss, params, gradient(params)


@pytest.mark.parametrize("steps", [0, 40, 80, 100])
def test_float32_values_whose_terms_cancel_raise_no_alarm(steps):
  loss, params, values = fitted(steps)
  report = check(loss, params, values)
  assert report.verdict not in ALARMS, str(report)
  doubled = jax.tree.map(lambda g: 2 * g, values)
  assert check(loss, params, doubled).verdict is not Verdict.CORRECT


def test_no_bias_before_a_normalisation_raises_an_alarm():
  """Its derivative is 0, of which float32 leaves cancelled terms' rounding."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(16, 3)).astype(np.float32)

  def loss(p):
    z = x @ p["w"] + p["b"]
    z = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)
    return jnp.mean(jnp.tanh(z + p["shift"]) ** 2)

  params = {"w": (3, 4), "b": (4,), "shift": (4,)}
  params = {k: rng.normal(size=s).astype(np.float32) for k, s in params.items()}
  report = check(loss, params, jax.jit(jax.grad(loss))(params))
  assert report.verdict is Verdict.CORRECT, str(report)


KEY = jax.random.key(0)
LOSSES = {
  "dropout": lambda p, k: jnp.sum(p**2 * jax.random.bernoulli(k, 0.5, (30,))),
  "normal": lambda p, k: jnp.sum((p * jax.random.normal(k, p.shape)) ** 2),
  "randint": lambda p, k: jnp.sum(p[jax.random.randint(k, (8,), 0, 30)] ** 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_made_with_a_key_are_held_against_the_same_draws(name):
  loss = LOSSES[name]
  params = np.linspace(0.5, 1, 30).astype(np.float32)
  values = jax.grad(loss)(params, KEY)
  report = check(loss, params, values, args=(KEY,))
  assert report.verdict is Verdict.CORRECT, str(report)
  assert report.loss == pytest.approx(float(loss(params, KEY)), rel=1e-5)
  assert report.precision == "float32"
  report = check(loss, params, 1.05 * values, args=(KEY,))
  assert report.verdict is Verdict.WRONG
  # A function draws what the loss does, in float64.
  report = check(loss, params, jax.grad(loss), args=(KEY,))
  assert (report.verdict, report.precision) == (Verdict.CORRECT, "float64")


IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 8, 8)), "f4")


def convolution(k):
  found = jax.lax.conv_general_dilated(IMAGE, k, (1, 1), "SAME")
  return jnp.sum(jnp.tanh(found) ** 2)


def recurrent(u):
  start = jnp.zeros(4, jnp.float32)
  step = lambda h, _: (jnp.tanh(u @ h + 1), None)  # noqa: E731
  return jnp.sum(jax.lax.scan(step, start, None, 5)[0] ** 2)


def branch(p):
  return jax.lax.cond(
    p[0] > 0, lambda p: jnp.sum(p**2), lambda p: jnp.float32(0), p
  )


@pytest.mark.parametrize(
  ("loss", "shape"),
  [(convolution, (3, 1, 3, 3)), (recurrent, (4, 4)), (branch, (3,))],
)
def test_a_loss_that_holds_float32_is_judged_in_float32(loss, shape):
  rng = np.random.default_rng(0)
  params = np.abs(rng.normal(size=shape)).astype(np.float32)
  for grads in (jax.grad(loss), jax.grad(loss)(params)):
    report = check(loss, params, grads)
    assert report.verdict is Verdict.CORRECT, str(report)
    assert report.precision == "float32"
  wrong = check(loss, params, scaled(1.1, jax.grad(loss)))
  assert wrong.verdict is Verdict.WRONG, str(wrong)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_loss_of_few_bits_names_them(dtype):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(32, 8)).astype(np.float32)
  y = rng.integers(0, 4, 32)

  def loss(p):
    half = jax.tree.map(lambda a: a.astype(dtype), p)
    z = jnp.tanh(x.astype(dtype) @ half["w1"]) @ half["w2"]
    logs = jax.nn.log_softmax(z.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(logs, y[:, None], 1))

  shapes = {"w1": (8, 16), "w2": (16, 4)}
  params = {
    k: (rng.normal(size=s) / s[0] ** 0.5).astype(np.float32)
    for k, s in shapes.items()
  }
  report = check(loss, params, jax.grad(loss))
  name = np.dtype(dtype).name
  assert report.precision == name
  assert report.verdict not in ALARMS, str(report)
  if report.verdict is not Verdict.CORRECT:
    assert f"computed in {name}" in report.reason
  report = check(loss, params, scaled(-1, jax.grad(loss)))
  assert report.verdict is Verdict.WRONG, str(report)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correct_is_never_said_beyond_the_mark(seed):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(1000, 10)).astype(np.float32)
  y = (x @ rng.normal(size=10) + 100 * rng.normal(size=1000)).astype("f4")

  def loss(p):
    return jnp.sum((x @ p.astype(jnp.float32) - y) ** 2)

  p = rng.normal(size=10)
  for factor in (1.0, 1.01, 1.03):
    report = check(loss, p, scaled(factor, jax.grad(loss)))
    if report.verdict is Verdict.CORRECT:
      assert report.distance <= RECHECK


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_many_entries_show_together_what_none_does_alone(factor):
  """A thousandth of the loss is noise; 1 % is in every entry."""
  rng = np.random.default_rng(0)
  a = rng.normal(size=1000) + 3
  noise = np.float32(1e5)

  def loss(p):
    small = jnp.sum(jnp.sin(p * a)).astype(jnp.float32)
    return small + noise - noise * jnp.cos(0 * p[0]).astype(jnp.float32)

  p = rng.normal(size=1000) / 4
  report = check(loss, p, scaled(factor, jax.grad(loss)))
  if factor == 1:
    assert report.verdict is not Verdict.WRONG, str(report)
  else:
    assert report.verdict is Verdict.WRONG, str(report)
    assert all(entry.state == "agrees" for entry in report.worst)
    assert "all together" in report.tensors[0].causes[0].text


JUMPS = {
  "floor": (lambda p: jnp.sum(jnp.floor(p)), [4.0, 1.8], 0),
  "mod": (lambda p: jnp.sum(jnp.mod(p, 1.0)), [1.0, 0.3], 0),
  "step": (lambda p: jnp.sum(jnp.where(p > 0, 1.0, 0.0)), [0.0, 0.3], 0),
  "arctan2": (lambda p: jnp.arctan2(p[0], p[1]), [0.0, -1.0], 0),
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_jump_at_the_point_is_named(name, dtype):
  loss, point, entry = JUMPS[name]
  report = check(loss, np.array(point, dtype), jax.grad(loss))
  assert report.verdict is Verdict.KINK, str(report)
  assert "jumps at the point in 1 entries" in report.reason
  assert [(e.index, e.state) for e in report.kinks] == [((entry,), "jump")]


def test_beside_a_jump_the_derivative_is_that_of_the_side_that_goes_on():
  def loss(p):
    return jnp.sum(jnp.floor(p) + jnp.sin(p))

  p = np.array([4.0, 1.8])
  assert check(loss, p, jax.grad(loss)).verdict is Verdict.KINK
  report = check(loss, p, scaled(1.5, jax.grad(loss)))
  assert report.verdict is Verdict.WRONG


@jax.custom_vjp
def add(x, b):
  return x + b


add.defvjp(
  lambda x, b: (x + b, b),
  lambda b, g: (g, jnp.where(b == 0, 0.0, 1.0) * g.sum(0)),
)


@pytest.mark.parametrize("softmax", [False, True])
def test_code_that_treats_a_value_apart_is_no_kink(softmax):
  """The softmax has a maximum inside, but no tie."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(20, 3)), rng.integers(0, 4, 20)

  def loss(p):
    z = add(x @ p["w"], p["b"])
    if softmax:
      logs = jax.nn.log_softmax(z)
      return -jnp.mean(jnp.take_along_axis(logs, y[:, None], 1))
    return jnp.mean(jnp.tanh(z) ** 2)

  params = {"w": rng.normal(size=(3, 4)), "b": np.zeros(4)}
  report = check(loss, params, jax.grad(loss))
  assert report.wrong_tensors == ("['b']",), str(report)


@pytest.mark.once
def test_a_million_parameters_are_sampled_by_time(capsys, monkeypatch):
  monkeypatch.setattr(_coverage, "_SECONDS", 5.0)
  rng = np.random.default_rng(0)
  params = {"w": rng.normal(size=(1000, 1000)).astype(np.float32)}
  x = rng.normal(size=(8, 1000)).astype(np.float32) / 1000**0.5

  def loss(p):
    return jnp.mean(jnp.tanh(x @ p["w"]) ** 2)

  report = check(loss, params, jax.grad(loss))
  assert report.verdict is Verdict.CORRECT
  assert 100 < report.checked < 100_000
  assert f"{report.checked} of 1000000 coordinates" in report.coverage
  assert " losses of this part" in capsys.readouterr().err


@pytest.mark.parametrize("function", [check, numeric_gradient])
def test_the_callers_code_runs_after_a_check_as_before(function):
  """Jax remembers how it took a NumPy array of 64 bits."""
  ids = np.array([1, 5, 5, 2])

  def loss(p):
    return jnp.sum(jnp.tanh(p[ids]) ** 2)

  p = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
  function(loss, p, 1e-3 if function is numeric_gradient else jax.grad(loss))
  assert jax.grad(loss)(p).dtype == np.float32


def test_a_wrong_gradient_of_a_loss_that_is_computed_again():
  loss = jax.checkpoint(lambda p: jnp.sum(jnp.maximum(jnp.sin(p), 0) ** 2))
  p = np.random.default_rng(0).normal(size=5)
  assert check(loss, p, jax.grad(loss)).verdict is Verdict.CORRECT
  assert check(loss, p, scaled(1.1, jax.grad(loss))).verdict is Verdict.WRONG


def test_float32_values_of_float64_params_are_judged_as_such():
  def loss(p):
    return jnp.sum(jnp.sin(p) * jnp.arange(1.0, 6.0))

  p = np.random.default_rng(0).normal(size=5)  # float64, and no 64 bits in jax
  values = jax.grad(loss)(p)
  assert values.dtype == np.float32
  assert check(loss, p, values).verdict is Verdict.CORRECT
  assert check(loss, p, 1.001 * values).verdict is Verdict.WRONG


def test_a_loops_counter_is_no_kink():
  def loss(p):
    body = lambda _, x: jnp.sin(x).astype(jnp.float32)  # noqa: E731
    return jnp.sum(jax.lax.fori_loop(0, 3, body, p.astype(jnp.float32)))

  p = np.random.default_rng(0).normal(size=3)
  report = check(loss, p, scaled(1.01, jax.grad(loss)))
  assert report.verdict is Verdict.WRONG, str(report)


def test_a_saturated_loss_hides_no_mistake():
  def loss(x):
    return -jax.nn.log_softmax(x)[0]

  x = np.array([50.0, 1.0, 2.0])
  assert check(loss, x, jax.grad(loss)).verdict not in ALARMS
  report = check(loss, x, lambda x: jax.grad(loss)(x) + 10)
  assert report.verdict is Verdict.WRONG, str(report)


def test_a_constant_makes_no_float32_of_a_loss():
  def loss(p):
    return 1e9 + jnp.sum(jnp.sin(p))

  p = np.random.default_rng(0).normal(size=5)
  report = check(loss, p, jax.grad(loss))
  assert report.precision == "float64"
  assert check(loss, p, scaled(-1, jax.grad(loss))).verdict is Verdict.WRONG


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_the_size_of_a_loss_is_no_matter(size):
  def loss(p):
    return size * jnp.sum(jnp.sin(p))

  p = np.random.default_rng(0).normal(size=5)
  with np.errstate(all="raise", under="ignore"):
    assert check(loss, p, jax.grad(loss)).verdict is Verdict.CORRECT
    wrong = check(loss, p, scaled(1.01, jax.grad(loss)))
  assert wrong.verdict is Verdict.WRONG, str(wrong)
