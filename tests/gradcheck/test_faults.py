"""The catalogue: every fault is one, is found, placed and named."""

import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from mnist_jax.gradcheck import Verdict
from mnist_jax.gradcheck.faults import backward, catalogue
from mnist_jax.gradcheck.network import check
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError

CHAPTER = ("sigmoid", "tanh")
CATALOGUE = catalogue.catalogue(CHAPTER)


def subject(sizes, activations, seed=0, scale=0.1):
  """Biases off zero, padding in the batch, the penalty and dropout on."""
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda w: w + scale * rng.standard_normal(w.shape),
    mlp.init(jax.random.key(seed), sizes),
  )
  examples, padding = 8, 2
  count = examples + padding
  batch = objective.Batch(
    rng.random((count, sizes[0])),
    rng.integers(0, sizes[-1], count),
    (np.arange(count) < examples).astype(np.float64),
  )
  masks = mlp.dropout_masks(jax.random.key(seed + 1), params, count, 0.3)
  return check.Subject(params, activations, batch, 0.01, masks)


def gradients(at, functions):
  """What each function (params, batch, l2, masks) -> grads gives there."""
  with precision.float64():
    return {name: f(at.params, *at.args) for name, f in functions.items()}


@pytest.fixture(scope="module")
def square():
  """A network whose layers are square; its gradients with each fault."""
  at = subject((7, 7, 7, 7), CHAPTER)
  faulty = gradients(
    at,
    {
      name: lambda *args, f=fault: f.value_and_grad(CHAPTER)(*args)[1]
      for name, fault in CATALOGUE.items()
    },
  )
  known = gradients(at, catalogue.known_mistakes(CHAPTER))
  right = at.gradient(check.value_and_grad_of("hand", CHAPTER))
  return at, right, faulty, known


# Sizes are all the same, so that few programs are compiled.
@settings(max_examples=10)
@given(
  hidden=st.lists(st.sampled_from(list(mlp.ACTIVATIONS)), max_size=3),
  seed=st.integers(0, 2**31),
)
def test_without_a_fault_it_is_the_hand_derived_gradient(hidden, seed):
  names = tuple(hidden)
  at = subject((7,) * (len(names) + 2), names, seed)
  made = backward.make_value_and_grad(names, backward.RIGHT)
  with precision.float64():
    loss, grads = made(at.params, *at.args)
    expected, hand = objective.hand_value_and_grad(names)(at.params, *at.args)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15),
      grads,
      hand,
    )
  assert catalogue.differing(hand, grads) == ()


def test_there_are_many_different_faults(square):
  _, _, faulty, _ = square
  different = []
  for grads in faulty.values():
    if all(catalogue.differing(other, grads) for other in different):
      different.append(grads)
  # Some are one mistake made in two places: before or after the derivative.
  assert 100 < len(different) <= len(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_is_found_placed_and_named(square, name):
  at, right, faulty, known = square
  wrong = catalogue.differing(right, faulty[name])
  if name.endswith("_saturated"):  # no pre-activation is large here
    assert wrong == ()
    return
  report = at.check(faulty[name], candidates=known)
  assert report.verdict is Verdict.WRONG
  assert set(report.wrong_tensors) == set(wrong)
  assert CATALOGUE[name].named_in(report)


@pytest.mark.parametrize("activations", [("relu", "relu"), ()])
def test_other_networks(activations):
  at = subject((7,) * (len(activations) + 2), activations, 3)
  right = at.gradient(check.value_and_grad_of("hand", activations))
  assert at.check(right).verdict is Verdict.CORRECT
  faults = catalogue.catalogue(activations)
  for name in list(faults)[::15]:
    given_grads = gradients(
      at, {name: faults[name].value_and_grad(activations)}
    )[name][1]
    wrong = catalogue.differing(right, given_grads)
    if wrong:
      assert at.check(given_grads).wrong_tensors == wrong, name


def test_a_saturated_unit_shows_once_weights_are_large():
  fault = catalogue.find("dz2_saturated", CHAPTER)
  for scale, tensors in ((0.1, ()), (6.0, ("[0].w", "[0].b", "[1].w"))):
    at = subject((7, 7, 7, 7), CHAPTER, 0, scale)
    right = at.gradient(check.value_and_grad_of("hand", CHAPTER))
    wrong = catalogue.differing(
      right, at.gradient(fault.value_and_grad(CHAPTER))
    )
    assert set(tensors) <= set(wrong)
    assert bool(wrong) == bool(tensors)


def test_a_misspelt_name_is_answered_with_the_nearest():
  with pytest.raises(InputError, match="nearest name is 'dw2_sign'"):
    catalogue.find("dw2_sing", CHAPTER)
  fault = catalogue.find("dw2_sign", CHAPTER)
  assert fault.text == "dW2 := -dW2"


def test_nan_differs():
  layer = mlp.Layer(jnp.ones((2, 2)), jnp.ones(2))
  other = layer._replace(b=jnp.full(2, jnp.nan))
  assert catalogue.differing((layer,), (other,)) == ("[0].b",)


def test_texts_are_one_line_each():
  for fault in CATALOGUE.values():
    assert re.fullmatch(r"[^\n]{5,90}", fault.text), fault.name
    re.compile(fault.cause)
