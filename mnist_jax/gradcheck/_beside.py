"""A second look beside the point, where a kink at it may pass for a mistake.

At the start biases are 0 and inputs often are, so that units stand exactly on
the kink of relu, several at once. A derivative by the chain rule, with any
convention for relu'(0), need not lie between the one-sided derivatives there
(relu(x) - relu(-x) is x, and the chain rule with relu'(0) = 0 gives 0): the
gradient is no derivative, though the code that computes it is right. A small
random move takes all parameters off their kinks, and leaves a mistake one.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from mnist_jax.gradcheck._report import Report, TensorReport, Verdict

_MOVE = 1e-2  # in parts of the parameters' root mean square


def moved(theta: Float[np.ndarray, " P"], seed: int) -> Float[np.ndarray, " P"]:
  """Theta with a small random part added to every entry."""
  size = float(np.sqrt(np.mean(theta**2))) or 1.0
  rng = np.random.default_rng(seed)
  return theta + _MOVE * size * rng.standard_normal(theta.size)


def _freed(tensor: TensorReport, beside: TensorReport) -> TensorReport:
  """A wrong tensor that is right beside the point has a kink at it."""
  if tensor.verdict is not Verdict.WRONG or beside.verdict is Verdict.WRONG:
    return tensor
  return dataclasses.replace(
    tensor,
    verdict=Verdict.KINK,
    wrong=0,
    kinks=tensor.kinks + tensor.wrong,
    causes=(),
  )


def reconcile(report: Report, beside: Report) -> Report:
  """The report at the point, corrected by what was found beside it.

  Tensors that are wrong at the point and right beside it are at a kink; if
  that clears all of them, so is the gradient, which is said in the reason.
  """
  if not beside.tensors or report.verdict is not Verdict.WRONG:
    return report
  tensors = tuple(map(_freed, report.tensors, beside.tensors))
  freed = {
    new.path
    for old, new in zip(report.tensors, tensors, strict=True)
    if new is not old
  }
  if not freed and report.wrong_tensors:
    return report
  entries = tuple(
    dataclasses.replace(entry, state="kink")
    if entry.path in freed and entry.state == "wrong"
    else entry
    for entry in report.worst
  )
  report = dataclasses.replace(report, tensors=tensors, worst=entries)
  if report.wrong_tensors or beside.verdict is Verdict.WRONG:
    return report
  return dataclasses.replace(
    report,
    verdict=Verdict.KINK,
    reason=(
      f"no derivative at the point in {', '.join(sorted(freed))}, where the "
      "gradient agrees beside it: every parameter moved a little, it is right"
    ),
  )
