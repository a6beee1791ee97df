"""`jax.test_util.check_grads` on the same cases, for comparison.

It compares the gradient with one central difference along one random
direction, within the tolerances of the dtype. The gradient under test is
handed over as numbers, so that a thousand of them are one compiled program.
"""

import contextlib
import functools
from collections.abc import Callable
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


@functools.lru_cache(maxsize=64)  # compiled once for each kind of network
def _with_given_gradient(
  activations: tuple[mlp.Activation, ...],
) -> Callable[..., Any]:
  """loss(params, given, args), whose derivative in params is `given`."""
  loss_fn = objective.make_objective(activations)

  @jax.custom_vjp
  def loss(params: Any, given: Any, args: Any) -> Any:
    return loss_fn(params, *args)

  def forward(params: Any, given: Any, args: Any) -> Any:
    return loss_fn(params, *args), given

  def backward(given: Any, cotangent: Any) -> Any:
    return jax.tree.map(lambda g: cotangent * g, given), None, None

  loss.defvjp(forward, backward)
  return jax.jit(loss)


class Peer:
  """check_grads at one network, for any number of gradients."""

  def __init__(self, subject: check.Subject) -> None:
    self._loss = _with_given_gradient(subject.activations)
    self._subject = subject

  def rejections(self, given: mlp.Params) -> dict[str, bool]:
    """By setting, whether check_grads calls the gradient wrong."""
    return {str(each): self._rejects(given, each) for each in SETTINGS}

  def _rejects(self, given: mlp.Params, setting: Setting) -> bool:
    wide = setting.dtype == "float64"
    with precision.float64() if wide else contextlib.nullcontext():
      params, grads, args = differences.cast(
        (self._subject.params, given, self._subject.args), setting.dtype
      )
      try:
        check_grads(
          lambda p: self._loss(p, grads, args),
          (params,),
          order=1,
          modes=("rev",),
          eps=setting.eps,
        )
      except AssertionError:
        return True
    return False
