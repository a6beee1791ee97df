import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_regression import regression, squared

from mnist_jax.range_test import rules
from mnist_jax.range_test.curve import Ramp
from mnist_jax.range_test.finding import find
from mnist_jax.runtime.errors import InputError

SHORT = Ramp(1e-3, 10.0, 40)
inject = optax.inject_hyperparams


def bowl(params, batch):
  """Curvatures 1 and 8 about a noisy centre, stable below a rate of 2 / 8.

  Without noise the steep direction would have to grow again from nothing.
  """
  a, b = params["a"] - batch[0], params["b"] - batch[1]
  return 0.5 * (a**2 + 8 * b**2)


START = {"a": jnp.float32(1.0), "b": jnp.float32(1.0)}


DEV = jax.tree.map(lambda leaf: leaf[0], regression(0, seed=9))


def dev_loss(params):
  return squared(params, DEV)


@pytest.fixture(scope="module")
def plain():
  return find(squared, jnp.zeros(3), regression(40), SHORT).recording


def losses_of(make_optimizer, ramp=SHORT):
  batches = regression(ramp.steps)
  found = find(
    squared, jnp.zeros(3), batches, ramp, make_optimizer=make_optimizer
  )
  return found.recording.losses[0]


def test_a_bowl_diverges_past_two_over_its_curvature():
  noise = 0.1 * np.random.default_rng(0).standard_normal((301, 2))
  found = find(
    bowl,
    START,
    jnp.asarray(noise, "float32"),
    Ramp(1e-3, 10.0, 300),
    rule="descending",
    dev_loss=lambda params: 1 + bowl(params, jnp.zeros(2)),
  )
  assert found.curves[0].stop.reason == "diverged"
  assert 2 / 8 < rules.limit(found.curves[0]) < 1.6 * 2 / 8
  assert found.rate < rules.limit(found.curves[0])


def hinge(params, batch):
  """It can only fall: a solved regression's may rise again by rounding."""
  x, _ = batch
  return jnp.mean(jnp.maximum(0, 1 - jnp.abs(x[:, 0]) * params[0]))


@pytest.mark.parametrize(("loss", "rises"), [(hinge, False), (squared, True)])
def test_a_loss_that_never_rises_again_is_told_in_the_reason(loss, rises):
  batches = list(zip(*regression(100), strict=True))
  found = find(loss, jnp.zeros(3), batches, rule="minimum/10")
  told = "the loss had not risen again at the ramp's end, so the rate may be"
  assert (told in found.reason) == (not rises)
  assert (found.rate > 1) == (not rises)  # above which `squared` diverges


@pytest.mark.parametrize("shape", ["exponential", "linear"])
def test_each_loss_is_of_its_own_update_on_a_batch_to_come(shape):
  ramp = Ramp(1e-3, 0.1, 20, shape)
  x, y = regression(20)
  found = find(squared, jnp.zeros(3), (x, y), ramp).recording
  w = np.zeros(3)
  expected = []
  for t, rate in enumerate(ramp.rates().astype(float)):
    w = w - rate * 2 * x[t].T @ (x[t] @ w - y[t]) / len(y[t])
    expected.append(np.mean((x[t + 1] @ w - y[t + 1]) ** 2))
  np.testing.assert_allclose(found.losses[0], expected, rtol=1e-4)
  np.testing.assert_allclose(found.initial, [np.mean(y[0] ** 2)], rtol=1e-6)


def test_a_dev_loss_is_of_the_same_examples_every_time():
  found = find(
    lambda params, batch: params.sum() + squared(0 * params, batch),
    jnp.zeros(3),
    regression(40),
    SHORT,
    dev_loss=dev_loss,
  ).recording
  assert found.measured_on == "dev"
  w = -np.cumsum(SHORT.rates())
  expected = [dev_loss(np.full(3, step)) for step in w]
  np.testing.assert_allclose(found.losses[0], expected, rtol=1e-4)
  assert found.initial[0] == pytest.approx(float(dev_loss(jnp.zeros(3))))


def test_a_nan_at_one_update_is_found_there():
  def loss(params, batch):
    broken = jnp.where(batch[0] == 23, jnp.nan, 0)
    return bowl(params, jnp.zeros(2)) + broken

  stop = find(loss, START, jnp.arange(41.0)[:, None], SHORT).curves[0].stop
  # The batch of update 23 measures what update 22 left.
  assert (stop.reason, stop.update) == ("not finite", 22)
  assert stop.rate == pytest.approx(SHORT.rates()[22])


def test_what_was_found_says_why_and_draws_itself():
  batches = list(zip(*regression(100), strict=True))
  plain = find(squared, jnp.zeros(3), batches, Ramp(1e-3, 100.0, 100))
  assert plain.rule == "noise"  # for plain SGD
  assert plain.rate == plain.suggestion("noise").rate
  lines = str(plain).splitlines()
  assert lines[-1] == f"learning rate {plain.rate:.2g}, by the rule noise"
  assert lines[5].endswith("1/1  <")
  assert "half the largest rate" in plain.reason
  assert len(plain.plot("mine").axes) == 2
  adam = find(
    *(squared, jnp.zeros(3), iter(batches), Ramp(1e-4, 1e3, 100)),
    make_optimizer=optax.adam,
  )
  assert adam.rule == "minimum/10"
  assert 1e-4 < adam.rate < 1
  assert adam.curves[0].stop.reason == "diverged"
  assert adam.warning is None


@pytest.mark.parametrize(
  ("noise", "followed"),
  [
    (rules.lowest, "noise"),
    (lambda curve: 1.1 * rules.lowest(curve), "minimum/10"),
    (lambda _: "not measured", "minimum/10"),
  ],
)
def test_noise_is_not_followed_where_the_loss_already_rises(
  monkeypatch, noise, followed
):
  monkeypatch.setitem(rules.RULES, "noise", noise)
  found = find(squared, jnp.zeros(3), regression(40), SHORT)
  assert found.rule == followed
  assert found.rate == found.suggestion(followed).rate > 0


def test_many_seeds_are_each_what_it_is_alone(plain):
  several = [regression(40, seed) for seed in (1, 0)]
  starts = np.float32([[1, 2, 3], [0, 0, 0]])
  together = find(
    squared,
    starts,
    jax.tree.map(lambda *leaves: np.stack(leaves, 1), *several),
    SHORT,
    seeds=(5, 6),
  ).recording
  assert together.seeds == (5, 6)
  for name in ("initial", "losses", "noise"):
    np.testing.assert_allclose(
      getattr(together, name)[1], getattr(plain, name)[0], rtol=1e-3
    )
  assert together.initial[0] != together.initial[1]


def test_it_donates_nothing():
  params = jnp.zeros(3)
  batches = tuple(map(jnp.asarray, regression(40)))
  find(squared, params, batches, SHORT)
  for leaf in (params, *batches):
    assert not leaf.is_deleted()


# --- optimisers --------------------------------------------------------------


@pytest.mark.parametrize(
  "make_optimizer",
  [
    lambda rate: optax.chain(
      optax.clip_by_global_norm(1e6), inject(optax.sgd)(learning_rate=rate)
    ),
    lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, 10**6)),
    lambda rate: optax.MultiSteps(inject(optax.sgd)(learning_rate=rate), 1),
  ],
)
def test_the_rate_reaches_an_update_wherever_it_is_kept(make_optimizer, plain):
  np.testing.assert_allclose(
    losses_of(make_optimizer)[:30], plain.losses[0, :30], rtol=1e-4
  )


@pytest.mark.parametrize(
  ("make_optimizer", "message"),
  [
    (lambda _: optax.adam(0.01), "the rate does not reach the updates"),
    (
      lambda _: optax.MultiSteps(optax.sgd(0.1), 4),
      "the rate does not reach the updates",
    ),
    (
      lambda rate: optax.chain(optax.sgd(rate), optax.scale_by_trust_ratio()),
      "the rate does not reach the updates",
    ),
    (
      # The rate does count while the moments are those of another one.
      lambda rate: optax.chain(optax.scale(-rate), optax.scale_by_adam()),
      "the rate does not reach the updates",
    ),
    (
      lambda rate: optax.chain(
        optax.sgd(rate), optax.clip_by_global_norm(1e-3)
      ),
      "the rate reaches 0 of 40 updates",
    ),
    (lambda rate: optax.sgd(0 * rate), "every update is zero"),
    (
      lambda rate: optax.MultiSteps(optax.sgd(lambda t: rate * 0.8**t), 4),
      r"a schedule of its own scales the updates \(from update 7 on\)",
    ),
    (
      lambda rate: optax.adam(optax.linear_schedule(0.0, rate, 20)),
      "a schedule of its own",
    ),
    (
      lambda rate: optax.chain(
        optax.sgd(rate), optax.contrib.reduce_on_plateau(0.5, patience=2)
      ),
      "a schedule of its own",
    ),
    (lambda rate: optax.sgd(float(rate)), "jax traces it: no `if`"),
    (optax.sgd(0.1), "expected a function of the rate"),
    (lambda: optax.sgd(0.1), "make_optimizer: TypeError"),
  ],
)
def test_an_optimizer_that_is_not_at_the_ramps_rates_is_refused(
  make_optimizer, message
):
  with pytest.raises(InputError, match=message) as raised:
    losses_of(make_optimizer)
  assert "\n" not in str(raised.value)


def test_updates_that_are_bounded_from_some_rate_on_are_told():
  found = find(
    squared,
    jnp.zeros(3),
    regression(40),
    SHORT,
    make_optimizer=lambda rate: optax.chain(
      optax.sgd(rate), optax.clip_by_global_norm(0.3)
    ),
  )
  assert "on the updates no longer depend on the rate" in found.warning
  assert found.warning in str(found)


def test_an_update_is_given_the_arguments_that_it_takes(plain):
  def update(grads, state, params, *, value, grad, value_fn):
    error = value - value_fn(params) + sum(map(jnp.sum, grads - grad))
    return -0.1 * state * grads + error, state

  losses = losses_of(
    lambda rate: optax.GradientTransformationExtraArgs(
      lambda _: 10 * rate, update
    )
  )
  np.testing.assert_allclose(losses[:30], plain.losses[0, :30], rtol=1e-3)


# --- losses and parameters ---------------------------------------------------


def test_an_aux_is_dropped_and_a_key_is_drawn_from(plain):
  def loss(params, batch):
    examples, key = batch
    noise = jax.random.normal(key, ())
    return squared(params, examples) + 1e-3 * noise, {"noise": noise}

  keys = jax.random.split(jax.random.key(0), 41)
  found = find(
    loss, jnp.zeros(3), (regression(40), keys), SHORT, has_aux=True
  ).recording
  noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)[1:]
  np.testing.assert_allclose(
    found.losses[0] - 1e-3 * noise, plain.losses[0], rtol=1e-3, atol=1e-5
  )
  np.testing.assert_allclose(found.noise, plain.noise, rtol=1e-3)


def test_a_short_last_batch_is_compiled_anew():
  x, y = regression(20)
  batches = [*zip(x, y, strict=True), (x[0, :1], y[0, :1])]
  found = find(squared, jnp.zeros(3), batches, SHORT).recording
  assert np.isfinite(found.losses[0, :25]).all()
  assert found.noise[0, :, 20].tolist() != [0, 0]
  assert found.noise[0, :, 21].tolist() == [0, 0]  # it has no halves

  def stiff(params, batch):
    return squared(params, (batch[0].reshape(16, 3), batch[1]))

  with pytest.raises(InputError, match=r"loss_fn on batch 21, of shape \(\(1,"):
    find(stiff, jnp.zeros(3), batches, SHORT)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("loss_fn", "params", "kwargs", "message"),
  [
    (
      lambda p, b: (squared(p, b), 1.0),
      jnp.zeros(3),
      {},
      "expected a float, or with an aux has_aux=True",
    ),
    (squared, jnp.zeros(3), {"has_aux": True}, "expected a pair of a float"),
    (lambda p, b: b[0] @ p, jnp.zeros(3), {}, r"returned float32\[16\]"),
    (lambda p, b: b["x"], jnp.zeros(3), {}, "loss_fn on batch 0, of shape"),
    (squared, {"n": 3}, {}, r"params\['n'\]: found int64, expected arrays"),
    (squared, [jax.random.key(0)], {}, r"params\[0\]: found key"),
    (squared, {}, {}, "params: found no arrays"),
    (squared, jnp.zeros(3), {"rule": "best"}, "rule=best"),
    (
      *(squared, {"w": jnp.zeros(3)}, {"seeds": [0, 1]}),
      r"params\['w'\] is of shape \(3,\), expected a leading axis of 2",
    ),
    (
      *(squared, jnp.zeros((2, 3)), {"seeds": [0, 1]}),
      r"batches\[0\]\[0\] is of shape \(16, 3\), expected a leading axis of 2",
    ),
    (squared, jnp.zeros((2, 3)), {"seeds": 2}, "seeds is 2, expected a list"),
  ],
)
def test_what_cannot_be_is_one_line(loss_fn, params, kwargs, message):
  with pytest.raises(InputError, match=message) as raised:
    find(loss_fn, params, regression(40), SHORT, **kwargs)
  assert "\n" not in str(raised.value)
