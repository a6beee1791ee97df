"""Planted faults: found, placed in their tensor and named."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradcheck_examples import (
  at,
  exact,
  penalty,
  smooth,
  smooth_point,
)

from mnist_jax.gradcheck import Verdict, check


def fault(kind, params):
  """The gradient of `smooth` with one mistake, and the cause's kind."""
  grads = exact(smooth, params)
  data = grads["w"] - 0.1 * params["w"]
  rolled = np.roll(grads["w"], 1, 0)
  one_row, one_entry, swapped_row = (grads["w"].copy() for _ in range(3))
  one_row[2] = 0
  one_entry[1, 3] *= 1.01
  swapped_row[1] = grads["w"][3]
  short = grads["w"].astype(np.float32)
  noisy = grads["w"] * (1 + 5e-8 * np.cos(np.arange(25).reshape(5, 5)))
  columns = grads["w"] * np.array([0.3, 1.0, 2.0, 0.7, 1.4])
  return {
    "factor": {"w": 1.25 * grads["w"]},
    "batch": {"b": 8 * grads["b"]},
    "batch twice": {"b": grads["b"] / 8},
    "doubled": {"b": 2 * grads["b"]},
    "sign": {"b": -grads["b"]},
    "dropped": {"b": np.zeros_like(grads["b"])},
    "transposed": {"w": grads["w"].T},
    "transposed data": {"w": data.T + 0.1 * params["w"]},
    "flipped": {"w": grads["w"][:, ::-1]},
    "shifted": {"w": rolled},
    "no l2": {"w": data},
    "l2 twice": {"w": grads["w"] + 0.1 * params["w"]},
    "data factor": {"w": 3 * data + 0.1 * params["w"]},
    "bias decay": {"b": grads["b"] + 0.1 * params["b"]},
    "row": {"w": one_row},
    "entry": {"w": one_entry},
    "row twice": {"w": swapped_row},
    "float32": {"w": short.astype(np.float64)},
    "float32 inside": {"w": noisy},
    "columns": {"w": columns},
    "offset": {"w": grads["w"] + 0.01},
    "nothing simple": {"w": grads["w"] + 0.1 * np.sin(9 * params["w"])},
  }[kind]


CAUSES = {
  "factor": ("factor", "1.25 x numeric"),
  "batch": ("factor", "1/B missing, B = 8"),
  "batch twice": ("factor", "1/B applied twice, B = 8"),
  "doubled": ("factor", "doubled"),
  "sign": ("sign", "wrong sign"),
  "dropped": ("dropped", "zero everywhere"),
  "transposed": ("transposed", "transposed"),
  "transposed data": ("transposed", "the L2 term apart"),
  "flipped": ("flipped", "reversed along axis 1"),
  "shifted": ("shifted", "shifted by 1 along axis 0"),
  "no l2": ("l2", "L2 term is missing"),
  "l2 twice": ("l2", "doubled"),
  "data factor": ("data factor", "3 times"),
  "bias decay": ("parameter", "0.1 x parameter"),
  "row": ("localised", "only index 2 of axis 0 is wrong (5 entries): zero"),
  "entry": ("localised", "only entry (1, 3)"),
  "row twice": ("localised", "numeric's index 3 stands there"),
  "float32": ("precision", "float32 numbers"),
  "float32 inside": ("precision", "float32 rounding"),
  "columns": ("factor per index", "index of axis 1"),
  "offset": ("offset", "+ 0.01"),
}


@pytest.mark.parametrize("kind", [*CAUSES, "nothing simple"])
def test_faults_are_found_placed_and_named(kind):
  params = smooth_point()
  change = fault(kind, params)
  (name,) = change
  report = check(
    smooth,
    params,
    exact(smooth, params) | change,
    penalty_fn=penalty,
    batch_size=8,
  )
  assert report.verdict is Verdict.WRONG, str(report)
  assert report.wrong_tensors == (f"['{name}']",)
  causes = [c for t in report.tensors for c in t.causes]
  if kind == "nothing simple":
    assert causes == []
    assert "no simple cause found" in str(report)
  else:
    expected, text = CAUSES[kind]
    assert [c.kind for c in causes] == [expected], str(report)
    assert text in causes[0].text


def test_reshaped_transpose_and_l2_without_the_penalty():
  params = smooth_point(4, 6)
  grads = exact(smooth, params)
  wrong = grads | {"w": grads["w"].T.reshape(4, 6)}
  (cause,) = check(smooth, params, wrong).tensors[1].causes
  assert cause.text == "given is numeric transposed and read in this shape"
  wrong = grads | {"w": grads["w"] - 0.1 * params["w"]}
  (cause,) = check(smooth, params, wrong).tensors[1].causes
  assert cause.kind == "parameter"
  assert cause.factor == pytest.approx(-0.1)


def test_gradients_of_two_tensors_exchanged():
  def loss(params):
    u, v = params
    return jnp.sum(jnp.sin(u) * jnp.arange(1.0, 4.0)) + jnp.sum(jnp.exp(v))

  params = (np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.5, -1.0]))
  right = exact(loss, params)
  report = check(loss, params, right[::-1])
  assert report.tensors[0].causes[0].text.endswith("gradient of [1]")
  assert report.tensors[1].causes[0].kind == "swapped"


def test_candidates_name_what_the_owner_knows():
  params = smooth_point()
  grads = exact(smooth, params)

  def no_derivative(p):
    x = jnp.linspace(0.2, 1.7, 5)
    dz = 2 * jnp.tanh(x @ p["w"] + p["b"])
    return {"w": jnp.outer(x, dz) + 0.1 * p["w"], "b": dz}

  given_grads = jax.tree.map(np.array, at(no_derivative, params))
  other = {"w": given_grads["w"], "b": grads["b"]}
  report = check(
    smooth,
    params,
    no_derivative,
    candidates={"tanh' missing": no_derivative, "only in w": other},
  )
  assert report.wrong_tensors == ("['b']", "['w']")
  for tensor in report.tensors:
    names = [c.text for c in tensor.causes if c.kind == "candidate"]
    assert names == ["tanh' missing"]
  # A candidate that is not it is not named.
  wrong = {"w": grads["w"], "b": 0 * grads["b"]}
  report = check(smooth, params, no_derivative, candidates={"other": wrong})
  kinds = [c.kind for t in report.tensors for c in t.causes]
  assert "candidate" not in kinds


def test_one_scalar_is_no_evidence_for_a_factor():
  report = check(lambda x: jnp.sin(x), 0.3, 0.5 + math.cos(0.3))
  assert report.verdict is Verdict.WRONG
  assert report.tensors[0].causes == ()


def test_small_wrong_tensor_is_not_hidden_by_a_large_one():
  def loss(p):
    return jnp.sum(p["large"] ** 2) + 1e-4 * jnp.sum(jnp.sin(p["small"]))

  params = {"large": np.full(50, 3.0), "small": np.array([0.3, 0.6])}
  grads = exact(loss, params)
  grads["small"] = grads["small"] * 1.01
  report = check(loss, params, grads)
  assert report.distance < 1e-7
  assert report.wrong_tensors == ("['small']",)
