"""VJPs, JVPs and second derivatives: right ones, mistakes, what is refused."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mnist_jax import gradcheck
from mnist_jax.gradcheck import GradcheckError, Verdict, check_jvp, check_vjp

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))
B = RNG.normal(size=2)
Z = X[0] + 1j * X[1]


def dense(x, w, b):
  """Two outputs, so that a rule can forget one of them."""
  return {"y": jnp.tanh(x @ w + b), "size": jnp.sum(w**2)}


def forward(x, w, b):
  out = dense(x, w, b)
  return out, (x, w, out["y"])


def backward(residuals, cotangent):
  x, w, y = residuals
  dz = cotangent["y"] * (1 - y**2)
  return dz @ w.T, x.T @ dz + 2 * w * cotangent["size"], dz.sum(0)


def with_rule(forward, backward):
  function = jax.custom_vjp(lambda x, w, b: dense(x, w, b))
  function.defvjp(forward, backward)
  return function


def by_hand(cotangent, x, w, b):
  return backward((x, w, dense(x, w, b)["y"]), cotangent)


@pytest.mark.parametrize("vjp", [None, by_hand])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_right_vjps_are_correct(vjp, dtype):
  f = dense if vjp else with_rule(forward, backward)
  args = [a.astype(dtype) for a in (X, W, B)]
  report = check_vjp(f, *args, vjp=vjp)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert [t.path for t in report.tensors] == [".x", ".w", ".b"]
  assert report.checked == report.total == 20
  assert "2 random cotangents" in report.reason


@pytest.mark.parametrize(
  ("wrong", "paths", "cause"),
  [
    (lambda r, c: (-backward(r, c)[0], *backward(r, c)[1:]), (".x",), "sign"),
    (lambda r, c: (*backward(r, c)[:2], None), (".b",), "missing"),
    (lambda r, c: backward(r, c | {"size": 0.0}), (".w",), ""),
    (lambda r, c: backward(r, jax.tree.map(jnp.ones_like, c)), None, ""),
    (lambda r, c: backward((r[0], r[1], r[2] / 2), c), None, ""),
  ],
  ids=["sign", "none for b", "size dropped", "c dropped", "other residual"],
)
def test_mistakes_in_a_custom_vjp_are_placed(wrong, paths, cause):
  report = check_vjp(with_rule(forward, wrong), X, W, B)
  assert report.verdict is Verdict.WRONG
  assert report.wrong_tensors == (paths or report.wrong_tensors)
  assert "cotangent 1 of 2" in report.reason
  if cause == "sign":
    assert report.tensors[0].causes[0].kind == "sign"


def test_a_forward_pass_that_gives_other_values_is_wrong():
  def other(x, w, b):
    out, residuals = forward(x, w, b)
    return out | {"y": out["y"] * 1.01}, residuals

  report = check_vjp(with_rule(other, backward), X, W, B)
  assert report.verdict is Verdict.WRONG
  assert "forward pass of the rule is not f: its output 1" in report.reason


def test_a_small_output_is_seen_beside_a_large_one():
  def f(x, y):
    return 1e9 * jnp.sin(x), 1e-6 * jnp.cos(y)

  def vjp(factor, c, x, y):
    return 1e9 * jnp.cos(x) * c[0], -factor * 1e-6 * jnp.sin(y) * c[1]

  right = check_vjp(f, X, B, vjp=functools.partial(vjp, 1.0))
  assert right.verdict is Verdict.CORRECT, str(right)
  assert check_vjp(f, X, B, vjp=functools.partial(vjp, 1.1)).wrong_tensors == (
    ".y",
  )


def test_what_has_no_derivative_is_passed_on():
  def f(tree, key, flag, word, power):
    assert flag is True
    assert word == "word"
    mask = jax.random.key_data(key) % 2
    return tree["a"][0] ** power * (1 + mask[0]), tree["n"] + 1

  tree = {"a": [X[0]], "n": np.arange(3)}
  args = (tree, jax.random.key(1), True, "word", 2)
  report = check_vjp(f, *args, cotangents=1)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert [t.path for t in report.tensors] == [".tree['a'][0]"]
  power = jax.custom_vjp(lambda n, x: x**n, nondiff_argnums=(0,))
  power.defvjp(
    lambda n, x: (x**n, x), lambda n, x, c: (n * x ** (n - 1.0) * c,)
  )
  gradcheck.assert_vjp(power, 3.0, B, cotangents=1)
  # A VJP of the caller's own that holds the same NumPy array.
  _, held = jax.vjp(lambda x: x * W, jnp.ones_like(W))
  report = check_vjp(lambda *args: args[0] * args[1], W, W, argnums=(1,))
  del held
  assert report.verdict is Verdict.CORRECT, str(report)
  assert [t.path for t in report.tensors] == [".args[1]"]
  # By hand, None is a cotangent of zeros, or of what has none.
  report = check_vjp(
    lambda x, y, n: (x * y) ** n,
    B,
    B,
    1,
    vjp=lambda c, x, y, n: (c * y, *[None] * 2),
  )
  assert report.wrong_tensors == (".y",)


def wave(z, a):
  return jnp.exp(1j * a * z) * jnp.conj(z)


def wave_vjp(c, z, a):
  turned = c * jnp.exp(1j * a * z)
  dz = turned * 1j * a * jnp.conj(z) + jnp.conj(turned)
  return dz, jnp.sum(c * 1j * z * wave(z, a)).real


def test_complex_numbers_by_the_convention_of_jax():
  for report in (
    check_vjp(wave, Z, 0.7, vjp=wave_vjp),
    check_jvp(wave, Z, 0.7, cotangents=1),
    check_vjp(jnp.fft.rfft, X[0], cotangents=1),
  ):
    assert report.verdict is Verdict.CORRECT, str(report)
  report = check_vjp(
    wave, Z, 0.7, vjp=lambda *a: (wave_vjp(*a)[0].conj(), wave_vjp(*a)[1])
  )
  assert report.wrong_tensors == (".z.imag",)


def root(x, n):
  return jnp.sum(x**n) ** (1 / n)


def custom_root(tangent):
  f = jax.custom_jvp(root)
  f.defjvp(
    lambda primals, tangents: (root(*primals), tangent(primals, tangents))
  )
  return f


def root_tangent(primals, tangents):
  x, n = primals
  return root(x, n) ** (1 - n) * jnp.sum(x ** (n - 1) * tangents[0])


def test_jvps():
  x = np.abs(X[0])
  report = check_jvp(custom_root(root_tangent), x, 3)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert "jvp, 2 random products" in report.reason
  report = check_jvp(custom_root(lambda p, t: -root_tangent(p, t)), x, 3)
  assert report.wrong_tensors == (".x",)
  assert report.tensors[0].causes[0].kind == "sign"

  def rule(factor, primals, tangents):
    assert tangents[1] is None  # of the Python integer 3
    return root(*primals), factor * root_tangent(primals, tangents)

  hand = functools.partial(rule, 1.0)
  gradcheck.assert_jvp(root, x, 3, jvp=hand, order=2, cotangents=1)
  with pytest.raises(AssertionError, match="jvp, product 1 of 2"):
    gradcheck.assert_jvp(root, x, 3, jvp=functools.partial(rule, 1.01))


def test_what_is_right_along_each_coordinate_may_not_be_linear():
  def rule(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.sin(x), jnp.cos(x) * t + t[0] * t[1]

  report = check_jvp(jnp.sin, X[0], jvp=rule)
  assert report.verdict is Verdict.WRONG
  assert "not linear in the tangents" in report.reason
  # Rounding of float32 inside is no such mistake.
  report = check_jvp(
    lambda x: jnp.sin(x.astype(np.float32)).astype(x.dtype), X[0] + 2
  )
  assert report.precision == "float32"
  assert report.verdict is Verdict.CORRECT, str(report)


def test_jvp_and_vjp_must_agree():
  # Two rules, of which jax takes one forward and the other in reverse.
  inner = jax.custom_jvp(jnp.sin)
  inner.defjvp(
    lambda p, t: (
      jnp.sin(p[0]),
      jax.custom_derivatives.linear_call(
        lambda x, t: jnp.cos(x) * t, lambda x, c: -jnp.cos(x) * c, p[0], t[0]
      ),
    )
  )
  report = check_jvp(inner, X[0])
  assert report.verdict is Verdict.WRONG
  assert "dot-product test" in report.reason
  assert check_vjp(inner, X[0]).verdict is Verdict.WRONG


def shifted_sine(off, constant=1.0):
  """A sine whose forward passes give a little more, by both kinds of rule."""
  reverse = jax.custom_vjp(lambda x: jnp.sin(x) * constant)
  reverse.defvjp(
    lambda x: (jnp.sin(x) * constant + off, x),
    lambda x, c: (c * jnp.cos(x) * constant,),
  )
  forward = jax.custom_jvp(lambda x: jnp.sin(x) * constant)
  forward.defjvp(
    lambda p, t: (
      jnp.sin(p[0]) * constant + off,
      jnp.cos(p[0]) * t[0] * constant,
    )
  )
  return (check_vjp, reverse), (check_jvp, forward)


@pytest.mark.parametrize(
  ("constant", "off", "verdict"),
  [
    (1.0, 1e-6, Verdict.WRONG),  # less than float32 shows
    (1.0, 1e-10, Verdict.CORRECT),
    (jnp.ones((), jnp.float32), 1e-4, Verdict.WRONG),
    (jnp.ones((), jnp.float32), 1e-6, Verdict.CORRECT),  # a few roundings
  ],
)
def test_a_forward_pass_is_compared_closely(constant, off, verdict):
  for check, f in shifted_sine(off, constant):
    report = check(f, X[:2].astype(np.float32))
    assert report.verdict is verdict, str(report)
    if verdict is Verdict.WRONG:
      assert "its output 0 at (" in report.reason
      assert "nan" not in str(report)


def test_a_forward_pass_in_float32_alone_is_compared_there():
  def sine(x):  # lax.mul takes no two types
    return jax.lax.mul(jnp.sin(x), jnp.ones(x.shape, jnp.float32))

  for off, verdict in ((1e-4, Verdict.WRONG), (1e-6, Verdict.CORRECT)):
    f = jax.custom_vjp(sine)
    f.defvjp(
      lambda x, off=off: (sine(x) + jnp.float32(off), x),
      lambda x, c: (c * jnp.cos(x),),
    )
    report = check_vjp(f, X[:2].astype(np.float32))
    if verdict is Verdict.WRONG:
      assert "forward pass" in report.reason, str(report)
    else:
      assert "forward pass" not in report.reason, str(report)


def test_no_function_of_its_arguments():
  rng = np.random.default_rng(0)
  for check in (check_vjp, check_jvp):
    report = check(lambda x: x * rng.random(), X[0])
    assert report.verdict is Verdict.NONDETERMINISTIC, str(report)
    report = check(lambda x: x / np.array([1.0, 0.0, 1.0]), X[0])
    assert report.verdict is Verdict.NOT_FINITE
    assert "f's output 0 is not finite" in report.reason
    assert "(1,)" in report.reason
    report = check(jnp.sin, np.array([0.0, np.nan]))
    assert "params.x: 1 of 2 values is not finite, nan at (1,)" in str(report)


def test_no_penalty_is_guessed_at_in_a_rule():
  def vjp(c, x):
    return (c * jnp.cos(x) + 0.1 * x,)

  causes = check_vjp(jnp.sin, X, vjp=vjp, cotangents=1).tensors[0].causes
  assert causes[0].text.endswith(" x parameter")


def test_second_order():
  def cube(stop):
    f = jax.custom_vjp(lambda x: x * x * x)
    f.defvjp(lambda x: (x * x * x, x), lambda x, c: (3 * x * stop(x) * c,))
    return f

  report = check_vjp(cube(lambda x: x), B, order=2, cotangents=1)
  assert report.verdict is Verdict.CORRECT, str(report)
  assert "vjp, both orders: all" in report.reason
  # Right to the first order only.
  cut = cube(jax.lax.stop_gradient)
  assert check_vjp(cut, B, cotangents=1).verdict is Verdict.CORRECT
  report = check_vjp(cut, B, order=2, cotangents=1)
  assert report.verdict is Verdict.WRONG
  assert "reverse over reverse" in report.reason
  # The forward pass uses the rule itself, which has no forward derivative.
  own = jax.custom_vjp(lambda x: x * x * x)
  own.defvjp(lambda x: (own(x), x), lambda x, c: (3 * x * x * c,))
  report = check_vjp(own, B, order=2, cotangents=1)
  assert "both orders, in reverse only" in report.reason


def test_hessian_vector_products():
  def loss(p):
    return jnp.sum(jnp.exp(p["a"]) * jnp.sin(p["b"]))

  def hvp(p, v):
    return jax.jvp(jax.grad(loss), (p,), (v,))[1]

  point = {"a": X[0], "b": X[1]}
  gradcheck.assert_vjp(
    jax.grad(loss), point, vjp=lambda v, p: hvp(p, v), cotangents=1
  )
  wrong = check_vjp(
    jax.grad(loss), point, vjp=lambda v, p: hvp(p, v) | {"b": hvp(p, v)["a"]}
  )
  assert wrong.wrong_tensors == (".p['b']",)


def refusals():
  custom = with_rule(forward, backward)
  turned = with_rule(forward, lambda r, c: backward(r, c)[::-1])
  two = (X, X)
  return {
    "not floating": (check_vjp, (jnp.sin, 3), {}, r"x is int; expected fl"),
    "keys": (check_vjp, (jnp.sin, {1: X, "1": X}), {}, "keys of a dict"),
    "bool output": (check_vjp, (lambda x: x > 0, X), {}, "no floating"),
    "raises": (check_vjp, (lambda x: x[1, 2, 3], X), {}, "f raised IndexErr"),
    "argnums": (check_vjp, (custom, X, W, B), {"argnums": 3}, "argnums is 3"),
    "words": (check_vjp, (jnp.sin, X), {"argnums": "x"}, "argnums is 'x', ex"),
    "order": (check_vjp, (custom, X, W, B), {"order": 3}, "order is 3"),
    "order yes": (check_vjp, (jnp.sin, X), {"order": True}, "order is True"),
    "seed": (check_jvp, (jnp.sin, X), {"seed": -1}, "seed is -1, expected"),
    "few to look at": (
      check_jvp,
      (jnp.sin, X),
      {"max_coordinates": 0},
      "max_coordinates is 0, expected a whole number, 1 or more",
    ),
    "no function": (check_vjp, (X, jnp.sin), {}, "f is an array, expected a f"),
    "if": (
      check_vjp,
      (lambda x: np.asarray(x) * 2, X),
      {},
      "the vjp of f raised TracerArray.*use jax.numpy",
    ),
    "none": (check_vjp, (jnp.sin, X), {"cotangents": 0}, "cotangents is 0"),
    "penalty": (check_vjp, (jnp.sin, X), {"penalty_fn": 1}, "penalty_fn is"),
    "shapes": (check_vjp, (turned, X, W, B), {}, "the vjp of f raised Val"),
    "few": (
      check_vjp,
      (dense, X, W, B),
      {"vjp": lambda c, *args: two},
      "vjp returned 2; a tuple with one cotangent for each of the 3",
    ),
    "no jvp": (check_jvp, (custom, X, W, B), {}, "f is a jax.custom_vjp"),
    "no jvp inside": (
      check_jvp,
      (lambda x: custom(x, W, B), X),
      {},
      "the jvp of f raised TypeError",
    ),
    "many": (
      check_jvp,
      (jnp.sin, X),
      {"max_coordinates": 5},
      "jvp is looked at along each of 12 coordinates",
    ),
  }


@pytest.mark.parametrize("name", refusals())
def test_refusals_are_one_line(monkeypatch, name):
  # As users call: without the tests' look at types.
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
  check, args, keywords, message = refusals()[name]
  with pytest.raises(GradcheckError, match=message) as caught:
    check(*args, **keywords)
  assert "\n" not in str(caught.value)
