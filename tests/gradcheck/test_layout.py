"""Pytrees as vectors: complex leaves, containers with the same paths."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import gradcheck
from mnist_jax.gradcheck import Verdict
from mnist_jax.gradcheck._layout import flatten, flatten_like

COMPLEX = {"w": np.array([1.0, 2.0]), "z": np.array([[0.3 + 0.2j, 1j - 0.5]])}


def waves(params):
  z = params["z"]
  return jnp.sum(jnp.abs(jnp.exp(z)) ** 2 + jnp.imag(z**3)) * params["w"].sum()


def test_a_complex_leaf_is_two_tensors():
  layout, theta, dtypes = flatten(COMPLEX, "params")
  assert layout.paths == ("['w']", "['z'].real", "['z'].imag")
  assert theta.tolist() == [1, 2, 0.3, -0.5, 0.2, 1]
  assert set(dtypes) == {np.dtype(np.float64)}
  for back in (layout.unflatten(theta), layout.unflatten(jnp.asarray(theta))):
    assert gradcheck.distance(back, COMPLEX) < 1e-7
  many = layout.unflatten(np.stack([theta, theta]))
  assert many["z"].shape == (2, 1, 2)
  # A gradient holds df/dx - i df/dy.
  slopes = flatten_like(layout, COMPLEX)
  assert slopes.tolist() == [1, 2, 0.3, -0.5, -0.2, -1]
  np.testing.assert_array_equal(layout.gradient(slopes)["z"], COMPLEX["z"])


def test_complex_parameters_are_judged_by_the_convention_of_jax_grad():
  grads = jax.grad(waves)
  report = gradcheck.check(waves, COMPLEX, grads)
  assert report.verdict is Verdict.CORRECT, str(report)
  numeric = gradcheck.numeric_gradient(waves, COMPLEX, 1e-4)
  assert gradcheck.distance(numeric, grads(COMPLEX)) < 1e-6
  conjugate = gradcheck.check(
    waves, COMPLEX, lambda p: jax.tree.map(jnp.conj, grads(p))
  )
  assert conjugate.verdict is Verdict.WRONG
  assert conjugate.wrong_tensors == ("['z'].imag",)


@pytest.mark.parametrize(
  ("b", "message"),
  [
    ({"b": np.ones(2)}, r"b\['a'\] is missing: a has this leaf"),
    ({"a": np.ones(3)}, r"b\['a'\] has shape \(3,\), a\['a'\] has \(2,\)$"),
    ({"a": np.ones(2), "c": np.ones(1)}, r"a has no such leaf"),
    ({"a": 1j * np.ones(2)}, r"b\['a'\] is complex where a\['a'\] is real$"),
    ({"a": np.ones(2, int)}, r"b\['a'\] has dtype int64, expected floats$"),
  ],
)
def test_a_distance_names_its_own_arguments(b, message):
  with pytest.raises(gradcheck.GradcheckError, match=message):
    gradcheck.distance({"a": np.ones(2)}, b)


def test_containers_with_the_same_paths_are_the_same():
  def loss(params):
    return jnp.sum(params["a"] ** 2) + jnp.sum(jnp.sin(params["b"]))

  # An OrderedDict keeps its own order, a dict is sorted.
  ordered = collections.OrderedDict(b=np.array([0.3, 0.1]), a=np.ones(2))
  for params, other in (
    (ordered, dict),
    (dict(ordered), lambda grads: collections.OrderedDict(b=1, a=2) | grads),
  ):
    report = gradcheck.check(
      loss, params, lambda p, other=other: other(jax.grad(loss)(p))
    )
    assert report.verdict is Verdict.CORRECT, str(report)
  pair = [np.ones(2), np.ones(3)]
  assert gradcheck.distance(pair, tuple(pair)) == 0
