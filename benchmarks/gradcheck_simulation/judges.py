"""Three judges of the same gradient: ours, check_grads', torch's rule."""

import math
import time
import warnings
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

from benchmarks.gradcheck_simulation import cases
from benchmarks.gradcheck_simulation.cases import PRECISIONS, Case, Tree
from mnist_jax import gradcheck, runtime

ACCEPTED, REJECTED = "accepted", "rejected"
# torch.autograd.gradcheck's defaults, by its documentation.
_TORCH_EPS, _TORCH_ATOL, _TORCH_RTOL = 1e-6, 1e-5, 1e-3


def judge(case: Case) -> dict[str, Any]:
  """What was drawn, and what each judge says.

  Returns:
    The case's own record, and: "ours", a verdict, or "raised"; "reason" of
    what is neither correct nor wrong; "distance", "resolution" of the report;
    "check_grads" and "torch", ACCEPTED or REJECTED; "planted" and "rounding",
    the largest distances in a tensor, in [0, 1], between the gradient with and
    without the mistake, and between that without and the exact one. A mistake
    that changes nothing (in a tensor whose gradient is 0) is none.
  """
  made = cases.programs(case.family, case.precision)
  data = (case.data, case.mistake)
  with PRECISIONS[case.precision].scope():
    right = jax.tree.map(np.asarray, made.right(case.params, *data))
    given = jax.tree.map(np.asarray, made.given(case.params, *data))
    accepted = _check_grads(case, given)
  planted = _largest_distance(given, right)
  found = dict(case.told)
  if not planted:
    found |= {"kind": cases.RIGHT, "size": 0.0}
  return found | {
    "planted": planted,
    "rounding": _largest_distance(right, _exact(case)),
    **_ours(case, given),
    "check_grads": accepted,
    "torch": _torch(case, given),
  }


def _exact(case: Case) -> Tree:
  """The gradient by `jax.grad` of the same loss at the point, in float64."""
  wide = jax.tree.map(
    lambda x: np.asarray(x, np.float64), (case.params, case.data, case.mistake)
  )
  with runtime.float64():
    found = cases.programs(case.family, "float64").right(*wide)
  return jax.tree.map(np.asarray, found)


def _largest_distance(first: Tree, second: Tree) -> float:
  """The chapter's distance in the tensor where it is largest, in [0, 1]."""
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  return max(
    gradcheck.distance(x.astype(np.float64), y.astype(np.float64))
    for x, y in pairs
  )


def _ours(case: Case, given: Tree) -> dict[str, Any]:
  made = cases.programs(case.family, case.precision)
  grads = given if case.told["handed"] == "values" else made.given
  begun = time.perf_counter()
  found: dict[str, Any] = {}
  try:
    report = gradcheck.check(
      made.loss, case.params, grads, args=(case.data, case.mistake)
    )
  except Exception as error:  # a verdict too, and no reason to lose the others
    found = {"ours": "raised", "reason": f"{type(error).__name__}: {error}"}
  else:
    found = {
      "ours": str(report.verdict),
      "distance": _number(report.distance),
      "resolution": _number(report.resolution),
    }
    if found["ours"] not in ("correct", "wrong"):
      found["reason"] = report.reason
  return found | {"seconds": time.perf_counter() - begun}


def _number(value: float) -> float | None:
  """As JSON can hold it."""
  return float(value) if math.isfinite(value) else None


def _check_grads(case: Case, given: Tree) -> str:
  """jax.test_util.check_grads in the dtype of the parameters, its defaults."""
  made = cases.programs(case.family, case.precision)
  params = jax.tree.map(jax.numpy.asarray, case.params)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of numbers that are not finite
      check_grads(
        lambda p: made.with_given(p, given, case.data, case.mistake),
        (params,),
        order=1,
        modes=("rev",),
      )
  except AssertionError:
    return REJECTED
  return ACCEPTED


def _torch(case: Case, given: Tree) -> str:
  """The rule of torch.autograd.gradcheck, on parameters in float64.

  Each entry by itself, |given - numeric| <= atol + rtol |numeric|, numeric by
  a two-sided difference. By its documentation: torch is not needed.
  """
  leaves, treedef = jax.tree.flatten(case.params)
  theta = np.concatenate([np.ravel(x) for x in leaves]).astype(np.float64)
  move = _TORCH_EPS * np.eye(theta.size)
  ends = np.cumsum([x.size for x in leaves])[:-1]
  points = [
    part.reshape(-1, *leaf.shape)
    for leaf, part in zip(
      leaves,
      np.split(np.concatenate([theta + move, theta - move]), ends, axis=1),
      strict=True,
    )
  ]
  made = cases.programs(case.family, case.precision)
  with runtime.float64():
    losses = made.at_many(
      jax.tree.unflatten(treedef, points), case.data, case.mistake
    )
  above, below = np.split(np.asarray(losses, np.float64), 2)
  entries = np.concatenate([np.ravel(g) for g in jax.tree.leaves(given)])
  good = torch_accepts(
    entries.astype(np.float64), (above - below) / (2 * _TORCH_EPS)
  )
  return ACCEPTED if good else REJECTED


def torch_accepts(given: np.ndarray, numeric: np.ndarray) -> bool:
  """Whether torch's rule, with its defaults, accepts these derivatives."""
  allowed = _TORCH_ATOL + _TORCH_RTOL * np.abs(numeric)
  return bool(np.all(np.abs(given - numeric) <= allowed))
