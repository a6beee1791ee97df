"""The chapter's gradient check of the chapter's network, term by term.

`check_network` compares the hand-derived gradient, `jax.grad` and the numeric
one of section 12.3, for each term of the objective by itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import gradcheck
from mnist_jax.gradcheck._report import plain
from mnist_jax.gradcheck.network import differences
from mnist_jax.model import losses, mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class TermReport:
  """One term of the objective, three ways."""

  hand: gradcheck.Report  # the gradient under test against the numeric one
  autodiff: gradcheck.Report  # that of `jax.grad` against the numeric one
  between: float  # the chapter's diff of those two, in [0, 1]; 0 if both are 0

  def to_dict(self) -> dict[str, Any]:
    """All of it in lists, strings and numbers that JSON can hold."""
    sides = {"hand": self.hand.to_dict(), "autodiff": self.autodiff.to_dict()}
    return plain(sides | {"between": self.between})


# One function object for each network and kind, so that it is compiled once.
objective_of = functools.lru_cache(maxsize=64)(objective.make_objective)
value_and_grad_of = functools.lru_cache(maxsize=64)(
  objective.make_value_and_grad
)


@functools.lru_cache(maxsize=64)
def gradient_of(
  value_and_grad: objective.ValueAndGrad,
) -> Callable[..., mlp.Params]:
  """Its gradient alone, compiled: (params, batch, l2, masks) -> grads."""
  return jax.jit(lambda *args: value_and_grad(*args)[1])


@jax.jit
def _penalty(params: mlp.Params, l2: objective.Scalar) -> objective.Scalar:
  return l2 * losses.l2_penalty([layer.w for layer in params])


_Args = tuple[objective.Batch, Any, objective.Masks]


def _terms(
  batch: objective.Batch, l2: differences.L2, masks: objective.Masks
) -> dict[str, _Args]:
  """The objective's arguments that leave one term, or all."""
  terms: dict[str, _Args] = {"data": (batch, None, None)}
  if l2 is not None:
    # With nothing but padding the data term is exactly 0.
    empty = batch._replace(weights=jnp.zeros_like(batch.weights))
    terms["l2"] = (empty, l2, None)
  if masks is not None:
    terms["dropout"] = (batch, None, masks)
  if l2 is not None:
    terms["whole"] = (batch, l2, masks)
  return terms


def check_network(
  params: mlp.Params,
  activations: Sequence[mlp.Activation],
  batch: objective.Batch,
  l2: differences.L2 = None,
  masks: objective.Masks = None,
  *,
  value_and_grad: objective.ValueAndGrad | None = None,
  dropout_rate: float = 0.0,
  steps: Sequence[float] | float | None = None,
  candidates: Mapping[str, Callable[..., mlp.Params]] | None = None,
  seed: int = 0,
  worst: int = 8,
) -> dict[str, TermReport]:
  """Hand-derived, `jax.grad` and numeric gradient compared, term by term.

  All in float64 in a scope of its own; the arrays handed over stay as they
  are. Every parameter is checked, by `gradcheck.check` with
  `rank_one_numeric_gradient`.

  Args:
    params, activations, batch, l2, masks: The network and what it is given, as
      for `rank_one_numeric_gradient`.
    value_and_grad: The gradient under test, (params, batch, l2, masks) ->
      (loss, grads); `objective.hand_value_and_grad` by default. Examples of
      weight 0 must count nowhere: the L2 term is what is left without others.
    dropout_rate: The rate with which the network trains, in [0, 1).
    steps, candidates, seed, worst: Options of `gradcheck.check`; a candidate is
      a function (params, batch, l2, masks) -> gradient.

  Returns:
    By term: "data"; "l2" (the penalty alone) if l2 is given; "dropout" (the
    data term under the masks) if masks are; and "whole", the objective with
    all that was given, if l2 is (without it one of the others is that).

  Raises:
    InputError: There is dropout without frozen masks, whose randomness leaves
      J undefined (section 12.3); the rate is out of range; activations or masks
      do not fit params.
    GradcheckError: As `gradcheck.check`.
  """
  if not 0 <= dropout_rate < 1:
    raise InputError(
      f"dropout_rate is {dropout_rate}; expected a number in [0, 1)"
    )
  if dropout_rate > 0 and masks is None:
    raise InputError(
      f"dropout_rate is {dropout_rate} but masks is None: dropout keeps units "
      "at random, so the objective J is not well defined and its gradient "
      "cannot be checked (section 12.3); expected frozen masks, one per hidden "
      "layer"
    )
  differences.require_network(params, activations, batch, masks)
  names = tuple(activations)
  if value_and_grad is None:
    value_and_grad = value_and_grad_of("hand", names)
  autodiff = value_and_grad_of("autodiff", names)
  options: dict[str, Any] = {"steps": steps, "seed": seed, "worst": worst}
  reports = {}
  for name, args in _terms(batch, l2, masks).items():
    subject = Subject(params, names, *args)
    reports[name] = TermReport(
      subject.check(
        gradient_of(value_and_grad), candidates=candidates, **options
      ),
      subject.check(gradient_of(autodiff), **options),
      gradcheck.distance(
        subject.gradient(value_and_grad), subject.gradient(autodiff)
      ),
    )
  return reports


class Subject:
  """One network at one point, whose numeric gradient is found once.

  Any number of gradients can be held against it. The network and what it is
  given are as for `rank_one_numeric_gradient`.
  """

  def __init__(
    self,
    params: mlp.Params,
    activations: Sequence[mlp.Activation],
    batch: objective.Batch,
    l2: differences.L2 = None,
    masks: objective.Masks = None,
  ) -> None:
    self.activations = tuple(activations)
    with precision.float64():
      self.params = differences.cast(params)
      self.args: _Args = differences.cast((batch, l2, masks))
    self._found: dict[float, mlp.Params] = {}

  def numeric(self, step: float) -> mlp.Params:
    """The two-sided numeric gradient here, computed once for each step h.

    Raises:
      InputError: The step is not positive.
    """
    return self._numeric(self.params, step)

  def _numeric(self, params: mlp.Params, step: float) -> mlp.Params:
    """For `gradcheck.check`, which also looks beside this point."""
    same = jax.tree.map(np.array_equal, params, self.params)
    here = all(jax.tree.leaves(same))
    if here and step in self._found:
      return self._found[step]
    numeric = differences.rank_one_numeric_gradient(
      params, self.activations, *self.args, step
    )
    if here:
      self._found[step] = numeric
    return numeric

  def gradient(self, value_and_grad: objective.ValueAndGrad) -> mlp.Params:
    """The gradient that it gives here, like params, in float64."""
    with precision.float64():
      return gradient_of(value_and_grad)(self.params, *self.args)

  def check(
    self, gradient: mlp.Params | Callable[..., mlp.Params], **options: Any
  ) -> gradcheck.Report:
    """`gradcheck.check` of a gradient, of every parameter, with its options.

    The gradient is a pytree like params, or (params, batch, l2, masks) -> one.

    Raises:
      GradcheckError: As `gradcheck.check`.
    """
    batch, l2, _ = self.args
    if l2 is not None:
      options["penalty_fn"] = lambda params: _penalty(params, l2)
    return gradcheck.check(
      objective_of(self.activations),
      self.params,
      gradient,
      args=self.args,
      numeric_fn=self._numeric,
      # m of the mean: padding does not count.
      batch_size=int(np.count_nonzero(batch.weights)) or None,
      **options,
    )
