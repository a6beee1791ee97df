"""The page's network in JavaScript beside JAX's."""

import base64
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.report import snapshot
from experiments.report.page import bundle
from mnist_jax import data, training
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.model import objective
from mnist_jax.runtime import precision
from mnist_jax.training import loop, runner

pytestmark = pytest.mark.once
BOOK = training.Settings().train_config()


@pytest.fixture(scope="module")
def mnist_split():
  return data.load()


def theta_of(epoch):
  with np.load(bundle.BOOK_RUN / "network.npz") as arrays:
    return arrays[f"theta_{epoch}"]


def text(array):
  return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def numbers(page, script, **arrays):
  """A script's Float64Array; `get(name)` in it gives an array passed in."""
  found = page.evaluate(
    """([texts]) => {
      const bytes = (t) => Uint8Array.from(atob(t), (c) => c.charCodeAt(0));
      const kinds = { uint8: Uint8Array, float64: Float64Array };
      const get = (name) => new kinds[texts[name][0]](
        bytes(texts[name][1]).buffer);
      const numbers = (SCRIPT)(get);
      const view = new Uint8Array(Float64Array.from(numbers).buffer);
      let text = "";
      for (const byte of view) text += String.fromCharCode(byte);
      return btoa(text);
    }""".replace("SCRIPT", script),
    [{n: [str(a.dtype), text(a)] for n, a in arrays.items()}],
  )
  return np.frombuffer(base64.b64decode(found), np.float64)


def test_bundled_numbers_are_those_on_file(page, mnist_split):
  for i, epoch in enumerate(snapshot.EPOCHS):
    found = numbers(page, f"() => book.theta({i})")
    np.testing.assert_array_equal(found, theta_of(epoch))
  for name, count in (("train", bundle.TRAINING), ("dev", bundle.DEVELOPMENT)):
    split = getattr(mnist_split, name)
    pixels = numbers(page, f"() => book.examples('{name}').pixels")
    assert np.array_equal(pixels, split.images[:count].ravel())
    labels = numbers(page, f"() => book.examples('{name}').labels")
    assert np.array_equal(labels, split.labels[:count])


def test_probabilities_are_those_of_jax(page, mnist_split):
  images = mnist_split.test.images[:1000]
  theta = theta_of(snapshot.EPOCHS[-1])
  expected = runner.probabilities(BOOK, snapshot.unflat(theta), images)
  found = numbers(
    page,
    "(get) => network.forward(get('theta'), network.scaled(get('x'))).a[3]",
    theta=theta.astype(np.float64),
    x=images.ravel(),
  )
  assert np.abs(found.reshape(-1, 10) - expected).max() < 1e-5
  assert found.reshape(-1, 10).argmax(axis=1).tolist() != [0] * 1000


def point(mnist_split, count=8):
  """theta, params, batch: after the first epoch, in float64."""
  theta = theta_of(1).astype(np.float64)
  batch = objective.Batch(
    jnp.asarray(mnist_split.train.images[:count] / 255.0),
    jnp.asarray(mnist_split.train.labels[:count]),
    jnp.ones(count),
  )
  return theta, jax.tree.map(jnp.asarray, snapshot.unflat(theta)), batch


def test_gradient_and_every_mistake_are_those_of_the_catalogue(
  page, mnist_split
):
  names = page.evaluate("Object.keys(mistakes.CATALOGUE)")
  assert len(names) > 12
  with precision.float64():
    theta, params, batch = point(mnist_split)
    right = objective.hand_value_and_grad(BOOK.activations)
    for name in ["", *names]:
      grad = right
      if name:
        fault = catalogue.find(name, BOOK.activations)
        grad = fault.value_and_grad(BOOK.activations)
      expected = snapshot.flat(grad(params, batch, None, None)[1])
      found = numbers(
        page,
        f"""(get) => {{
          const [theta, spoil] = [get("theta"), mistakes.spoil("{name}")];
          const pass = network.forward(theta, get("x"));
          return network.backward(theta, pass, get("y"), spoil).gradient;
        }}""",
        theta=theta,
        x=np.asarray(batch.images).ravel(),
        y=mnist_split.train.labels[:8].astype(np.uint8),
      )
      error = np.abs(found - expected).max()
      # A float32 number may be rounded the other way.
      assert error < (1e-7 if "float32" in name else 1e-12), name


def test_differences_are_those_of_two_losses(page, mnist_split):
  """The quick differences beside J(theta + h) - J(theta - h), some of each."""
  theta, _, _ = point(mnist_split)
  rng = np.random.default_rng(0)
  ends = np.r_[0, 50176, 50240, 51264, 51280, 51440, 51450]
  chosen = np.concatenate(
    [rng.integers(a, b, 40) for a, b in itertools.pairwise(ends)]
  )
  found = numbers(
    page,
    """(get) => {
      const [theta, x, y] = [get("theta"), network.scaled(get("x")), get("y")];
      const quick = network.numericGradient(theta, x, y, 1e-5);
      const loss = () => network.loss(network.forward(theta, x), y);
      return Array.from(get("chosen"), (i) => {
        const old = theta[i];
        theta[i] = old + 1e-5;
        const more = loss();
        theta[i] = old - 1e-5;
        const less = loss();
        theta[i] = old;
        return [quick[i], (more - less) / 2e-5];
      }).flat();
    }""",
    theta=theta,
    x=mnist_split.train.images[:8].ravel(),
    y=mnist_split.train.labels[:8].astype(np.uint8),
    chosen=chosen.astype(np.float64),
  ).reshape(-1, 2)
  assert np.abs(found[:, 0] - found[:, 1]).max() < 1e-9
  assert np.count_nonzero(found[:, 0]) > 200


def test_first_20_updates_are_those_of_jax(page, mnist_split):
  count, batch, updates, rate = bundle.TRAINING, 64, 20, 0.5
  order = data.epoch_order(3, 0, count)
  theta = theta_of(0).astype(np.float64)
  posted = page.evaluate(
    """([order, updates, batch, rate]) => new Promise((done) => {
      const worker = training.worker();
      const { pixels, labels } = book.examples("train");
      const losses = [];
      worker.onmessage = ({ data }) => {
        losses.push(...data.losses);
        if (data.ended) done([losses, Array.from(data.theta)]);
      };
      worker.postMessage({ type: "start", theta: book.theta(0).slice(),
        train: { pixels, labels }, dev: book.examples("test"), epochs: 40,
        rate, batch, updates, order });
    })""",
    [order.tolist(), updates, batch, rate],
  )
  losses, found = map(np.asarray, posted)
  split = data.Split(
    jnp.asarray(mnist_split.train.images[:count]),
    jnp.asarray(mnist_split.train.labels[:count]),
  )
  params = jax.tree.map(jnp.float32, snapshot.unflat(theta))
  settings = training.Settings(batch_size=batch, learning_rate=rate)
  config = settings.train_config()
  state = loop.init_state(config, 0)._replace(params=params)
  indices, weights = data.batch_indices(order, batch, False)
  plan = loop.EpochPlan(
    *map(jnp.asarray, (indices[:updates], weights[:updates])),
    jnp.full(updates, rate, jnp.float32),
  )
  state, expected = loop.scan_epoch(
    config, state, split, plan, settings.hparams()
  )
  assert len(losses) == updates
  assert np.abs(losses - expected).max() < 1e-4
  assert np.abs(found - snapshot.flat(state.params)).max() < 1e-4
  assert np.abs(found - theta).max() > 1e-2
