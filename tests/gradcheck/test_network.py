import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_jax import gradcheck
from mnist_jax.gradcheck._numeric.differences import METHODS
from mnist_jax.gradcheck.network import check as network_gradcheck
from mnist_jax.gradcheck.network import differences
from mnist_jax.model import losses, mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError

CORRECT = gradcheck.Verdict.CORRECT
WRONG = gradcheck.Verdict.WRONG
CHAPTER = ("sigmoid", "tanh")
rank_one = differences.rank_one_numeric_gradient


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def network(sizes, batch_size, seed=0, padding=0, zeros=0.3):
  """Float32 params with biases off zero, and a batch with some zero inputs."""
  rng = np.random.default_rng(seed)
  params = tuple(  # by NumPy: jax compiles a drawing for each shape
    mlp.Layer(
      jnp.asarray(rng.uniform(-1.2, 1.2, (m, n)), jnp.float32),
      jnp.asarray(0.2 * rng.standard_normal(n), jnp.float32),
    )
    for m, n in itertools.pairwise(sizes)
  )
  count = batch_size + padding
  images = rng.random((count, sizes[0])) * (
    rng.random((count, sizes[0])) > zeros
  )
  weights = np.arange(count) < batch_size
  return params, objective.Batch(
    jnp.asarray(images, jnp.float32),
    jnp.asarray(rng.integers(0, sizes[-1], count)),
    jnp.asarray(weights, jnp.float32),
  )


@settings(max_examples=6)
@given(
  hidden=st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(list(mlp.ACTIVATIONS))),
    max_size=3,
  ),
  inputs=st.integers(1, 6),
  classes=st.integers(2, 4),
  batch_size=st.integers(1, 4),
  padding=st.integers(0, 2),
  l2=st.sampled_from([None, 0.0, 0.1]),
  dropout=st.sampled_from([0.0, 0.5]),
  method=st.sampled_from(METHODS),
  elements=st.sampled_from([1, 500, 1 << 17]),
  seed=st.integers(0, 2**31),
)
def test_equals_the_general_differences(
  hidden,
  inputs,
  classes,
  batch_size,
  padding,
  l2,
  dropout,
  method,
  elements,
  seed,
):
  sizes = (inputs, *(size for size, _ in hidden), classes)
  activations = tuple(name for _, name in hidden)
  params, batch = network(sizes, batch_size, seed, padding)
  masks = None
  if dropout:
    masks = mlp.dropout_masks(
      jax.random.key(seed), params, batch_size + padding, dropout
    )
  step = 1e-4
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(differences, "_CHUNK_ELEMENTS", elements)
    fast = rank_one(params, activations, batch, l2, masks, step, method=method)
  with precision.float64():
    args = (
      differences.cast(batch),
      None if l2 is None else jnp.asarray(l2, jnp.float64),
      differences.cast(masks),
    )
  general = gradcheck.numeric_gradient(
    objective.make_objective(activations),
    params,
    step,
    method=method,
    args=args,
  )
  assert jax.tree.structure(fast) == jax.tree.structure(params)
  # The general one's rounding: a few roundings of a loss of order 5, over 2h.
  np.testing.assert_allclose(
    flat(fast), flat(general), rtol=1e-9, atol=60 * 2.2e-16 / step
  )


def test_chapter_network_on_mnist_is_within_1e_9(mnist):
  params = mlp.init(jax.random.key(0), (784, 64, 16, 10))
  batch = objective.Batch(
    jnp.asarray(mnist.train.images[:32], jnp.float32) / 255,
    jnp.asarray(mnist.train.labels[:32]),
    jnp.ones(32),
  )
  before = flat(params).copy()
  numeric = rank_one(params, CHAPTER, batch, 0.01, None, 2e-5)
  with precision.float64():
    _, hand = objective.hand_value_and_grad(CHAPTER)(
      differences.cast(params),
      differences.cast(batch),
      jnp.asarray(0.01),
      None,
    )
  assert flat(numeric).size == 51_450
  assert flat(numeric).dtype == np.float64
  assert gradcheck.distance(hand, numeric) < 1e-9
  np.testing.assert_array_equal(flat(params), before)
  assert params[0].w.dtype == jnp.float32


def test_a_loss_that_is_not_finite_gives_nan():
  params, batch = network((3, 2, 2), 2)
  broken = (params[0]._replace(b=jnp.full(2, jnp.nan)), params[1])
  numeric = rank_one(broken, ("tanh",), batch, None, None, 1e-4)
  assert np.all(np.isnan(flat(numeric)))


SIZES = (6, 5, 4, 3)


@pytest.fixture(scope="module")
def small():
  params, batch = network(SIZES, 5)
  masks = mlp.dropout_masks(jax.random.key(1), params, 5, 0.4)
  return params, batch, masks


def test_three_ways_agree_on_every_term(small):
  params, batch, masks = small
  reports = network_gradcheck.check_network(
    params, CHAPTER, batch, 0.01, masks, dropout_rate=0.4
  )
  assert list(reports) == ["data", "l2", "dropout", "whole"]
  for term in reports.values():
    assert term.hand.verdict is CORRECT, str(term.hand)
    assert term.autodiff.verdict is CORRECT, str(term.autodiff)
    assert term.hand.distance < 1e-9
    assert term.between < 1e-14
    assert term.hand.checked == term.hand.total == flat(params).size
    assert term.to_dict()["hand"]["verdict"] == "correct"
  # The penalty alone: 0.01 w, nothing of the data.
  weight = reports["l2"].hand.tensors[0]
  norm = 0.01 * np.linalg.norm(np.asarray(params[0].w, np.float64))
  assert weight.norm_numeric == pytest.approx(norm, rel=1e-9)
  # Frozen masks change the data term.
  assert reports["dropout"].hand.loss != reports["data"].hand.loss
  total = reports["dropout"].hand.loss + reports["l2"].hand.loss
  assert reports["whole"].hand.loss == pytest.approx(total, rel=1e-12)


def test_terms_not_asked_for_are_left_out(small):
  params, batch, _ = small
  plain = network_gradcheck.check_network(params, CHAPTER, batch)
  assert list(plain) == ["data"]


def hand(params, batch, l2, masks):
  return objective.hand_value_and_grad(CHAPTER)(params, batch, l2, masks)


def without_l2_on_w2(params, batch, l2, masks):
  loss, grads = hand(params, batch, l2, masks)
  if l2 is None:
    return loss, grads
  fault = grads[1]._replace(w=grads[1].w - l2 * params[1].w)
  return loss, (grads[0], fault, grads[2])


def without_masks(params, batch, l2, masks):
  return hand(params, batch, l2, None)


def without_sigmoid_derivative(params, batch, l2, masks):
  logits, residuals = mlp.forward(params, CHAPTER, batch.images, masks)
  cotangent = losses.softmax_cross_entropy_cotangent(logits, batch.labels)
  shares = batch.weights / jnp.maximum(batch.weights.sum(), 1)
  dz = cotangent * shares[:, None]
  residuals = residuals._replace(
    outputs=(jnp.full_like(residuals.outputs[0], 0.5), residuals.outputs[1])
  )
  grads = mlp.backward(params, CHAPTER, residuals, dz)
  if l2 is not None:
    grads = tuple(
      g._replace(w=g.w + l2 * p.w) for g, p in zip(grads, params, strict=True)
    )
  return jnp.zeros(()), grads


@pytest.mark.parametrize(
  ("fault", "terms", "tensors"),
  [
    (without_l2_on_w2, {"l2", "whole"}, {"[1].w"}),
    (without_masks, {"dropout", "whole"}, None),
    (without_sigmoid_derivative, {"data", "dropout", "whole"}, None),
  ],
)
def test_a_fault_shows_in_its_terms_alone(small, fault, terms, tensors):
  params, batch, masks = small
  reports = network_gradcheck.check_network(
    params, CHAPTER, batch, 0.01, masks, value_and_grad=fault
  )
  wrong = {n for n, t in reports.items() if t.hand.verdict is WRONG}
  assert wrong == terms
  for name, term in reports.items():
    assert term.autodiff.verdict is CORRECT
    assert (term.between > 1e-6) == (name in terms)
    if tensors and name in terms:
      found = {path.replace("/", ".") for path in term.hand.wrong_tensors}
      assert found == tensors
      causes = [c.text for t in term.hand.tensors for c in t.causes]
      missing = "the L2 term is missing"
      expected = {"l2": "given is zero everywhere", "whole": missing}
      assert any(expected[name] in text for text in causes)


def test_a_candidate_is_named(small):
  params, batch, masks = small
  reports = network_gradcheck.check_network(
    params,
    CHAPTER,
    batch,
    None,
    masks,
    value_and_grad=without_masks,
    candidates={"masks left out": lambda *a: without_masks(*a)[1]},
  )
  assert "masks left out" in str(reports["dropout"].hand)


def test_dropout_without_frozen_masks_is_refused(small):
  params, batch, _ = small
  with pytest.raises(InputError, match=r"not well defined.*12\.3") as caught:
    network_gradcheck.check_network(params, CHAPTER, batch, dropout_rate=0.5)
  assert "\n" not in str(caught.value)


def test_bad_input_is_named(small):
  params, batch, masks = small
  check = network_gradcheck.check_network
  with pytest.raises(InputError, match="dropout_rate is 1"):
    check(params, CHAPTER, batch, masks=masks, dropout_rate=1.0)
  with pytest.raises(InputError, match="activations has 1 names; expected 2"):
    check(params, ("tanh",), batch)
  with pytest.raises(InputError, match="'swish'"):
    check(params, ("tanh", "swish"), batch)
  with pytest.raises(InputError, match="masks has shapes"):
    check(params, CHAPTER, batch, masks=masks[:1])
  with pytest.raises(InputError, match="step is 0"):
    rank_one(params, CHAPTER, batch, None, None, 0.0)
  with pytest.raises(gradcheck.GradcheckError, match="method"):
    rank_one(params, CHAPTER, batch, None, None, 1e-4, method="three")
