"""A catalogue of mistakes in the chapter's backward, each with a name.

What people get wrong in section 12.2's formulas: a term of one dropped,
doubled, of the wrong sign, transposed, off by a factor, of one example, one
unit or one pixel; a wrong residual or derivative; the mean over the batch, the
L2 term, the dropout masks; too short a precision. Made to see whether the
gradient check finds them, and to let a student plant one.

Names: the quantity with its number in the chapter, then what is wrong with it:
"dw2_sign" is -dW2.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mnist_jax.gradcheck._layout import flatten, flatten_like
from mnist_jax.gradcheck._report import Report, TensorReport
from mnist_jax.gradcheck.faults import backward, terms
from mnist_jax.model import mlp, objective
from mnist_jax.runtime.errors import InputError

# Tensors count as different beyond this part of their largest entry: some
# thousand roundings in float64, far below any mistake's effect.
_DIFFERENT = 1e-12


@dataclasses.dataclass(frozen=True)
class Fault:
  """One mistake."""

  name: str
  text: str  # what is computed instead, in the chapter's symbols
  formulas: backward.Formulas  # the backward with it
  # A regular expression that the right diagnosis matches; "" where two arrays
  # and the knowledge of the network cannot tell it: any cause were a guess.
  cause: str
  # Whether only who knows the network's formulas can tell it: the catalogue
  # serves as the list of candidates to compare with.
  modelled: bool

  def value_and_grad(
    self, activations: Sequence[mlp.Activation]
  ) -> objective.ValueAndGrad:
    """J and its gradient with the mistake in it.

    The same function object for the same fault, so that it is compiled once.
    """
    return _value_and_grad(tuple(activations), self.formulas)

  def named_in(self, report: Report, *, candidates: bool = True) -> bool:
    """Whether a report gives the right cause where the mistake begins.

    That is in the wrong layer nearest to the output: what is behind it is
    computed from what is wrong already. Each of its wrong tensors must name
    the cause, or none if none can be told; `candidates` is whether being in a
    list of known mistakes counts.
    """
    wrong = [t for t in report.tensors if t.path in report.wrong_tensors]
    layers = [int(t.path.strip("[").partition("]")[0]) for t in wrong]
    return bool(wrong) and all(
      self._names(tensor, candidates)
      for tensor, layer in zip(wrong, layers, strict=True)
      if layer == max(layers)
    )

  def _names(self, tensor: TensorReport, candidates: bool) -> bool:
    causes = [c for c in tensor.causes if candidates or c.kind != "candidate"]
    if not self.cause:
      return not causes
    return any(re.search(self.cause, cause.text) for cause in causes)


_Group = tuple[str, str, str, int | None, Iterable[terms.Row]]


def _groups(activations: tuple[mlp.Activation, ...]) -> Iterator[_Group]:
  """(name before "_", what stands left of "=", site, layer, rows)."""
  last = len(activations) + 1
  yield f"dz{last}", f"dZ{last}", "residual", last - 1, terms.RESIDUAL
  yield "mean", "each example's share", "shares", None, terms.SHARES
  for k in range(last, 0, -1):
    i = k - 1
    of_dw = (*terms.DW, *(terms.DW_LATER if i else terms.DW_FIRST))
    yield f"dw{k}", f"dW{k}", "dw", i, (*terms.ANY_TERM, *of_dw)
    yield f"db{k}", f"dB{k}", "db", i, (*terms.ANY_TERM, *terms.DB)
    yield f"l2w{k}", f"L2 term of dW{k}", "penalty_w", i, terms.L2
    yield f"l2b{k}", f"L2 term of dB{k}", "penalty_b", i, terms.L2_OF_BIAS
    if i:
      yield f"da{i}", f"dA{i}", "da", i, terms.DA
      yield f"mask{i}", f"dA{i} before dropout", "mask", i - 1, terms.MASK
      rows = terms.derivative(activations[i - 1])
      yield f"dz{i}", f"dZ{i} := dA{i} *", "derivative", i - 1, rows
  yield "l2", "L2 term", "penalty_w", None, terms.L2_OF_ALL
  yield "all", "the gradient", "result", None, terms.GRADIENT


_value_and_grad = functools.lru_cache(maxsize=512)(backward.make_value_and_grad)


def catalogue(activations: Sequence[mlp.Activation]) -> dict[str, Fault]:
  """All mistakes for a network with these hidden layers, by name.

  Some are none in some networks (the mask's without dropout, a derivative
  that happens to be the same): `differing` tells.
  """
  return dict(_catalogue(tuple(activations)))


@functools.lru_cache(maxsize=64)
def _catalogue(activations: tuple[mlp.Activation, ...]) -> dict[str, Fault]:
  faults = {}
  for prefix, left, site, layer, rows in _groups(activations):
    equals = left if left.endswith("*") else f"{left} :="
    j = -1 if layer is None else layer
    for row in rows:
      name = f"{prefix}_{row.suffix}"
      modelled = row.cause == terms.MODELLED
      faults[name] = Fault(
        name,
        f"{equals} {row.text.format(left, j=j, k=j + 1)}",
        backward.altered(site, row.change, layer),
        rf"^{name}: " if modelled else row.cause,
        modelled,
      )
  return faults


def find(name: str, activations: Sequence[mlp.Activation]) -> Fault:
  """The fault of that name.

  Raises:
    InputError: There is no such name; the message has the nearest one.
  """
  faults = catalogue(activations)
  if name not in faults:
    near = difflib.get_close_matches(name, faults, 1, 0)
    raise InputError(
      f"no fault is called {name!r}; the nearest name is {near[0]!r}"
    )
  return faults[name]


def known_mistakes(
  activations: Sequence[mlp.Activation],
) -> dict[str, Callable[..., mlp.Params]]:
  """For `gradcheck.check`'s candidates: what only the network's owner knows.

  By "name: formula", functions (params, batch, l2, masks) -> gradient.
  """

  return {
    f"{fault.name}: {fault.text}": functools.partial(
      lambda fault, *args: fault.value_and_grad(activations)(*args)[1], fault
    )
    for fault in catalogue(activations).values()
    if fault.modelled
  }


def differing(right: mlp.Params, faulty: mlp.Params) -> tuple[str, ...]:
  """Paths of the tensors in which two gradients truly differ, as "[0].w".

  Beyond 1e-12 of the tensor's largest entry, or by not being finite.
  """
  layout, a, _ = flatten(right, "right")
  b = flatten_like(layout, faulty, "faulty")
  return tuple(
    path
    for path, part in zip(layout.paths, layout.slices(), strict=True)
    # Written so that a NaN differs.
    if not np.abs(a[part] - b[part]).max()
    <= _DIFFERENT * max(np.abs(a[part]).max(), np.abs(b[part]).max())
  )
