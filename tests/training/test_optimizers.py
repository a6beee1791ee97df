import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.runtime.errors import InputError
from mnist_jax.training import optimizers

RATE, MOMENTUM, GRADS = 0.1, 0.8, (1.0, -2.0, 0.5)


def walk(kind):
  """Where three gradients take a parameter from zero."""
  w = jnp.zeros(())
  state = optimizers.make(kind, 0.0).init(w)
  for grad in GRADS:
    tx = optimizers.make(kind, jnp.float32(RATE), jnp.float32(MOMENTUM))
    updates, state = tx.update(jnp.float32(grad), state, w)
    w = optax.apply_updates(w, updates)
  return float(w)


def closed_forms():
  """The published update rules, written out in Python floats."""
  sgd = momentum = nesterov = adagrad = rmsprop = adam = 0.0
  velocity = 0.0
  squares, mean_square = 0.1, 0.0
  m = v = 0.0
  y = z = x = 0.0  # of schedule_free, which trains y and evaluates x
  w, d, mean, square, total, reach = 0.0, 1e-6, 0.0, 0.0, 0.0, 0.0
  for t, g in enumerate(GRADS, start=1):
    sgd -= RATE * g
    velocity = MOMENTUM * velocity + g
    momentum -= RATE * velocity
    nesterov -= RATE * (g + MOMENTUM * velocity)
    squares += g * g
    adagrad -= RATE * g / (squares + 1e-7) ** 0.5
    mean_square = 0.9 * mean_square + 0.1 * g * g
    rmsprop -= RATE * g / (mean_square + 1e-8) ** 0.5
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    adam -= RATE * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    z -= RATE * g
    x += (z - x) / t
    y = 0.9 * x + 0.1 * z
    # Of prodigy d is the rate that it finds, from 1e-6 on.
    rate = RATE * d * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
    mean = 0.9 * mean + 0.1 * d * g
    square = 0.999 * square + 0.001 * (d * g) ** 2
    total = 0.999**0.5 * total + d * rate * g / 1e-6
    reach = 0.999**0.5 * reach - d * rate * g * w / 1e-6
    d = max(d, reach / abs(total))
    w -= rate * mean / (square**0.5 + 1e-8 * d)
  return {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "schedule_free": y,
    "prodigy": w,
  }


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_follows_its_published_rule(kind):
  np.testing.assert_allclose(walk(kind), closed_forms()[kind], rtol=1e-5)


def test_what_is_evaluated_is_the_average_of_schedule_free():
  """The mean of the points z that plain steps from its gradients lead to."""
  w = jnp.zeros(())
  state = optimizers.make("schedule_free", 0.0).init(w)
  for grad in GRADS:
    tx = optimizers.make("schedule_free", jnp.float32(RATE))
    updates, state = tx.update(jnp.float32(grad), state, w)
    w = optax.apply_updates(w, updates)
  found = optimizers.evaluation_params("schedule_free", w, state)
  z = -RATE * np.cumsum(GRADS)
  np.testing.assert_allclose(found, z.mean(), rtol=1e-5)
  assert float(found) != pytest.approx(float(w), rel=1e-3)
  assert optimizers.evaluation_params("sgd", w, ()) is w


def test_momentum_is_read_only_where_said():
  for kind in optimizers.OPTIMIZERS:
    moved = []
    for momentum in (0.1, 0.9):
      tx = optimizers.make(kind, 0.1, momentum)
      w, state = jnp.zeros(()), tx.init(jnp.zeros(()))
      for _ in range(2):
        updates, state = tx.update(jnp.ones(()), state, w)
        w = optax.apply_updates(w, updates)
      moved.append(float(w))
    assert (moved[0] != moved[1]) == (kind in optimizers.USES_MOMENTUM)


def test_a_long_gradient_is_scaled_to_the_norm_and_a_short_one_left():
  grads = {"w": jnp.array([3.0, 4.0]), "b": jnp.array(12.0)}  # of length 13
  clip = jax.jit(optimizers.clip)
  half = clip(grads, 6.5)
  np.testing.assert_allclose(half["w"], [1.5, 2.0], rtol=1e-6)
  np.testing.assert_allclose(half["b"], 6.0, rtol=1e-6)
  for norm in (13.5, 1e30):
    same = clip(grads, norm)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, same, grads))


@pytest.mark.parametrize(
  ("name", "text", "expected"),
  [
    ("adamw", "weight_decay=0.5", lambda: optax.adamw(RATE, weight_decay=0.5)),
    ("adam", "b2=0.9, b1=0.8", lambda: optax.adam(RATE, b1=0.8, b2=0.9)),
    ("lion", None, lambda: optax.lion(RATE)),
    ("dowg", None, lambda: optax.contrib.dowg(RATE)),
    (
      "schedule_free",
      "b1=0.5",
      lambda: optax.contrib.schedule_free_sgd(RATE, b1=0.5),
    ),
  ],
)
def test_any_of_optax_is_optaxs_own(name, text, expected):
  optimizers.check(name, text)
  w, tx = jnp.ones(()), expected()
  state = tx.init(w)
  v, ours = w, optimizers.make(optimizers.kind_of(name, text), 0.0).init(w)
  for grad in map(jnp.float32, GRADS):
    updates, state = tx.update(grad, state, w)
    w = optax.apply_updates(w, updates)
    kind = optimizers.make(optimizers.kind_of(name, text), jnp.float32(RATE))
    updates, ours = kind.update(grad, ours, v)
    v = optax.apply_updates(v, updates)
  np.testing.assert_allclose(v, w, rtol=1e-6)
  assert float(v) != 1.0


def test_arguments_have_one_kind_in_any_order():
  one = optimizers.kind_of("adam", "b1=0.80 b2=9e-1")
  assert one == optimizers.kind_of("adam", "b2=0.9,b1=0.8")
  assert one == "adam(b1=0.8,b2=0.9)"


def test_the_average_is_evaluated_of_all_that_are_schedule_free():
  kind = optimizers.kind_of("schedule_free_adamw", "weight_decay=0.1")
  w = jnp.zeros(())
  state = optimizers.make(kind, 0.0).init(w)
  for grad in GRADS:
    updates, state = optimizers.make(kind, RATE).update(
      jnp.float32(grad), state, w
    )
    w = optax.apply_updates(w, updates)
  expected = optax.contrib.schedule_free_eval_params(state, w)
  found = optimizers.evaluation_params(kind, w, state)
  np.testing.assert_array_equal(found, expected)
  assert float(found) != float(w)


@pytest.mark.parametrize(
  ("name", "text", "said"),
  [
    ("sgdd", None, "expected one of sgd, .* or another of optax"),
    ("scale_by_adam", None, "expected one of sgd"),
    ("adamw", "weigt_decay=0.1", "no 'weigt_decay', expected 'weight_decay'"),
    ("adamw", "learning_rate=0.1", "no 'learning_rate'"),
    ("adamw", "b1", "found 'b1', expected NAME=VALUE"),
    ("adamw", "b1=much", "found 'b1=much', expected NAME=VALUE"),
    ("momentum", "nesterov=True", "optimizer=sgd takes those of optax.sgd"),
    ("lbfgs", None, "optimizer=lbfgs: cannot train from gradients"),
    ("sophia", None, "optimizer=sophia: cannot train from gradients"),
    ("dpsgd", None, "missing 3 required"),
  ],
)
def test_what_cannot_train_is_said(name, text, said):
  with pytest.raises(InputError, match=said):
    optimizers.check(name, text)
