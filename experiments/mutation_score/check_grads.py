"""`jax.test_util.check_grads` on the same cases, for comparison.

It compares the gradient with one central difference along one random
direction, within the tolerances of the dtype. The gradient under test is
handed over as numbers, so that a thousand of them are one compiled program.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.test_util import check_grads

from mnist_jax.gradcheck.network import check, differences
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision


class Setting(NamedTuple):
  """How check_grads is called; eps None is its default."""

  dtype: str
  eps: float | None

  def __str__(self) -> str:
    step = "defaults" if self.eps is None else f"eps = {self.eps:g}"
    return f"{self.dtype}, {step}"


SETTINGS = (
  Setting("float32", None),
  *(Setting("float64", eps) for eps in (None, 1e-2, 1e-3, 1e-6)),
)


@functools.lru_cache(maxsize=64)
def _with_given_gradient(
  activations: tuple[mlp.Activation, ...],
) -> Callable[..., Any]:
  """loss(params, given, args), whose derivative in params is `given`."""
  # Compiled inside: jax would compile a whole with a rule of its own anew for
  # each derivative that is taken of it.
  compiled = jax.jit(objective.make_objective(activations))

  @jax.custom_vjp
  def loss(params: Any, given: Any, args: Any) -> Any:
    return compiled(params, *args)

  def forward(params: Any, given: Any, args: Any) -> Any:
    return compiled(params, *args), given

  def backward(given: Any, cotangent: Any) -> Any:
    return jax.tree.map(lambda g: cotangent * g, given), None, None

  loss.defvjp(forward, backward)
  return loss


def rejections(
  subject: check.Subject, gradients: Sequence[mlp.Params]
) -> list[dict[str, bool]]:
  """Of each gradient at a network, by setting, whether it is called wrong."""
  loss = _with_given_gradient(subject.activations)
  found: list[dict[str, bool]] = [{} for _ in gradients]
  # All of a precision together: what jax has traced is lost with a scope.
  for dtype in ("float32", "float64"):
    settings = [each for each in SETTINGS if each.dtype == dtype]
    wide = dtype == "float64"
    with precision.float64() if wide else contextlib.nullcontext():
      params, args = differences.cast((subject.params, subject.args), dtype)
      for given, rejected in zip(gradients, found, strict=True):
        point = params, differences.cast(given, dtype), args
        for setting in settings:
          rejected[str(setting)] = _rejects(loss, *point, setting.eps)
  return found


def _rejects(
  loss: Callable[..., Any],
  params: mlp.Params,
  given: mlp.Params,
  args: Any,
  eps: float | None,
) -> bool:
  try:
    check_grads(
      lambda p: loss(p, given, args),
      (params,),
      order=1,
      modes=("rev",),
      eps=eps,
    )
  except AssertionError:
    return True
  return False
