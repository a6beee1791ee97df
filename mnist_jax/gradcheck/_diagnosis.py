"""Which simple mistake explains a wrong gradient tensor, if any does.

A cause is named only if the numeric gradient, changed as the mistake would
change it, gives the given tensor to within the error bars. What needs the
model to be known (say, a layer's missing activation derivative) cannot be
recognised from two arrays; for that the model's owner supplies candidates.
NumPy only.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mnist_jax.gradcheck._layout import norm

# Of entries that a kink may have spoiled, this part may stay unexplained.
_SPOILED = 0.005
_LONGEST_LIST = 4


@dataclasses.dataclass(frozen=True)
class Cause:
  """One explanation of a tensor's residual."""

  # "candidate", "dropped", "sign", "factor", "l2", "data factor", "parameter",
  # "transposed", "flipped", "shifted", "swapped", "localised", "factor per
  # index", "precision" or "offset".
  kind: str
  text: str  # a part of a sentence
  factor: float | None = None  # the number found, where there is one


class Guess(NamedTuple):
  """A cause, and what the given entries would be with it."""

  cause: Cause
  predicted: Float[np.ndarray, " n"]
  bar: Float[np.ndarray, " n"] | None = None  # the evidence's by default
  where: Bool[np.ndarray, " n"] | bool = True  # what is to be predicted


@dataclasses.dataclass(frozen=True)
class Evidence:
  """One tensor, as far as it was covered."""

  shape: tuple[int, ...]  # of the whole tensor
  given: Float[np.ndarray, " n"]  # the covered entries, in order
  numeric: Float[np.ndarray, " n"]
  bar: Float[np.ndarray, " n"]
  param: Float[np.ndarray, " n"]
  penalty: Float[np.ndarray, " n"] | None  # its gradient; None if 0 as well
  whole: bool  # whether all entries are covered, so that shapes mean something
  spoiled: bool  # whether steps crossed kinks: a few numeric values may be off
  batch_size: int | None  # the B of 1/B, to be recognised
  # The numeric gradients of other tensors of this size, by path.
  others: Mapping[str, Float[np.ndarray, " n"]]

  def explained_by(self, guess: Guess) -> bool:
    """Whether the guess predicts the given tensor to within the bars."""
    bar = self.bar if guess.bar is None else guess.bar
    misses = ~(np.abs(self.given - guess.predicted) <= bar) & guess.where
    allowed = int(_SPOILED * misses.size) if self.spoiled else 0
    return int(misses.sum()) <= allowed

  @property
  def tables(self) -> tuple[np.ndarray, ...]:
    """Given and numeric entries and bars in the tensor's shape, if whole."""
    vectors = self.given, self.numeric, self.bar
    return tuple(vector.reshape(self.shape) for vector in vectors)

  @property
  def live(self) -> int:
    """How many entries are distinguishable from zero."""
    return int(np.sum(np.abs(self.numeric) > self.bar))


def _meaning(factor: float, error: float, batch_size: int | None) -> str:
  """What a constant factor usually means; "" if it is no usual one."""
  usual: list[tuple[float, str]] = [
    (0.0, "dropped"),
    (-1.0, "wrong sign"),
    (2.0, "doubled"),
    (0.5, "halved"),
  ]
  if batch_size is not None and batch_size > 1:
    usual += [
      (batch_size, f"1/B missing, B = {batch_size}"),
      (1 / batch_size, f"1/B applied twice, B = {batch_size}"),
      (-batch_size, f"wrong sign and 1/B missing, B = {batch_size}"),
    ]
  return " or ".join(
    text
    for value, text in usual
    if abs(factor - value) <= error + 1e-9 * abs(value)
  )


def _with_meaning(text: str, meaning: str) -> str:
  return f"{text} ({meaning})" if meaning else text


def _slope(
  y: np.ndarray, x: np.ndarray, bar: np.ndarray
) -> tuple[float, float]:
  """Least-squares y = c x, and the error the bars allow in c."""
  size = norm(x)
  if size == 0:
    return 0.0, math.inf
  c = float(np.vdot(x / size, y / size))
  return c, (1 + abs(c)) * norm(bar) / size


def _robust_slope(evidence: Evidence) -> tuple[float, float]:
  """As `_slope`, without the entries that a kink spoiled."""
  y, x, bar = evidence.given, evidence.numeric, evidence.bar
  c, error = _slope(y, x, bar)
  if evidence.spoiled and x.size > 2:
    strong = np.abs(x) >= np.median(np.abs(x))
    strong &= x != 0
    if strong.any():
      c = float(np.median(y[strong] / x[strong]))
      keep = np.abs(y - c * x) <= (1 + abs(c)) * (bar + 1e-4 * np.abs(x))
      c, error = _slope(y[keep], x[keep], bar[keep])
  return c, error


def _factor(evidence: Evidence) -> Iterator[Guess]:
  """given = c numeric, with dropped and sign as c = 0 and c = -1."""
  if evidence.live and not evidence.given.any():
    text = "given is zero everywhere, numeric is not"
    yield Guess(Cause("dropped", text, 0.0), evidence.given)
  c, error = _robust_slope(evidence)
  if not error < 1e-2 or abs(c) <= error or abs(c - 1) <= error:
    return
  meaning = _meaning(c, error, evidence.batch_size)
  if meaning or evidence.live > 1:  # any one number is a multiple of any other
    kind = "sign" if meaning == "wrong sign" else "factor"
    text = _with_meaning(f"given = {c:.6g} x numeric", meaning)
    slack = (1 + abs(c)) * evidence.bar
    yield Guess(Cause(kind, text, c), c * evidence.numeric, slack)


def _penalty(evidence: Evidence) -> Iterator[Guess]:
  """given = a (numeric - penalty) + b penalty."""
  if evidence.penalty is None:
    return
  data, penalty = evidence.numeric - evidence.penalty, evidence.penalty
  yield Guess(Cause("l2", "the L2 term is missing", 0.0), data)
  for kind, name, part, rest in (
    ("l2", "the L2 term", penalty, data),
    ("data factor", "all but the L2 term", data, penalty),
  ):
    c, error = _slope(evidence.given - rest, part, evidence.bar)
    meaning = _meaning(c, error, evidence.batch_size)
    text = f"{name} is {c:.6g} times what it should be"
    cause = Cause(kind, _with_meaning(text, meaning), c)
    if meaning == "dropped":
      cause = Cause(kind, f"{name} is missing", 0.0)
    if meaning or evidence.live > 2:
      yield Guess(cause, rest + c * part, (1 + abs(c)) * evidence.bar)


def _parameter(evidence: Evidence) -> Iterator[Guess]:
  """given - numeric = b param: what an L2 term too few or too many does."""
  if evidence.penalty is None and evidence.live > 2:
    numeric, param = evidence.numeric, evidence.param
    b, _ = _slope(evidence.given - numeric, param, evidence.bar)
    text = f"given - numeric = {b:.6g} x parameter, as from an L2 term"
    yield Guess(Cause("parameter", text, b), numeric + b * param)


def _offset(evidence: Evidence) -> Iterator[Guess]:
  """given - numeric is one constant."""
  if evidence.given.size > 2:
    shift = float(np.median(evidence.given - evidence.numeric))
    text = f"given = numeric + {shift:.6g} everywhere"
    yield Guess(Cause("offset", text, shift), evidence.numeric + shift)


def _rearrangements(
  numeric: np.ndarray,
) -> Iterator[tuple[str, str, np.ndarray]]:
  """(kind, text, rearranged) of a tensor, the simplest first."""
  axes = range(numeric.ndim)
  if 2 <= numeric.ndim <= 5:
    for order in list(itertools.permutations(axes))[1:]:
      moved = numeric.transpose(order)
      how = "transposed"
      if numeric.ndim > 2:
        how += f" (axes {order})"
      if moved.shape != numeric.shape:
        how += " and read in this shape"
      yield "transposed", how, moved
  for count in range(1, min(numeric.ndim, 4) + 1):
    for some in itertools.combinations(axes, count):
      listed = ", ".join(map(str, some))
      yield "flipped", f"reversed along axis {listed}", np.flip(numeric, some)


def _rearranged(evidence: Evidence) -> Iterator[Guess]:
  """Transposed or flipped as a whole."""
  _, numeric, bars = evidence.tables
  pairs = zip(_rearrangements(numeric), _rearrangements(bars), strict=True)
  for (kind, text, moved), (_, _, moved_bar) in pairs:
    cause = Cause(kind, f"given is numeric {text}")
    yield Guess(cause, moved.ravel(), evidence.bar + moved_bar.ravel())


def _shifted(evidence: Evidence) -> Iterator[Guess]:
  """given = numeric moved along one axis; what falls out may be anything."""
  given, numeric, bars = evidence.tables
  for axis, length in enumerate(evidence.shape):
    if length < 3:
      continue
    others = tuple(a for a in range(given.ndim) if a != axis)
    products = np.conj(np.fft.rfft(numeric, axis=axis))
    products = products * np.fft.rfft(given, axis=axis)
    match = np.fft.irfft(products.sum(axis=others), n=length)
    by = int(np.argmax(match))
    by = by - length if by > length // 2 else by
    origin = np.expand_dims(np.arange(length) - by, others)
    inside = (origin >= 0) & (origin < length)
    where = np.broadcast_to(inside, evidence.shape).ravel()
    moved = np.roll(numeric, by, axis).ravel()
    bar = evidence.bar + np.roll(bars, by, axis).ravel()
    # Zeros are always moved zeros.
    if by and np.abs(moved[where]).max() > bar[where].max():
      cause = Cause("shifted", f"shifted by {by} along axis {axis}", float(by))
      yield Guess(cause, moved, bar, where)


def _swapped(evidence: Evidence) -> Iterator[Guess]:
  """The given tensor is another tensor's gradient."""
  for path, other in evidence.others.items():
    cause = Cause("swapped", f"given is the numeric gradient of {path}")
    yield Guess(cause, other, 2 * evidence.bar)


def _part(evidence: Evidence, axis: int, index: int) -> str:
  """What is wrong with one slice; "" if nothing simple."""
  given, numeric, bar = (
    np.moveaxis(a[..., None], axis, 0) for a in evidence.tables
  )
  if not given[index].any():
    return "zero there"
  c, error = _slope(given[index], numeric[index], bar[index])
  slack = (1 + abs(c)) * bar[index]
  if error < 1e-2 and np.all(
    np.abs(given[index] - c * numeric[index]) <= slack
  ):
    meaning = _meaning(c, error, evidence.batch_size)
    if meaning or given[index].size > 1:
      return _with_meaning(f"{c:.6g} x numeric there", meaning)
  for other in range(evidence.shape[axis]):
    if other != index and np.all(
      np.abs(given[index] - numeric[other]) <= bar[index] + bar[other]
    ):
      return f"numeric's index {other} stands there"
  return ""


def _localised(evidence: Evidence) -> Iterator[Guess]:
  """Only a few rows, columns, units or entries are wrong."""
  bad = np.abs(evidence.given - evidence.numeric) > evidence.bar
  count = int(bad.sum())
  if not evidence.shape or not 0 < count < bad.size:
    return
  places = np.nonzero(bad.reshape(evidence.shape))
  if count == 1 and len(places) > 1:
    entry = tuple(int(p[0]) for p in places)
    cause = Cause("localised", f"only entry {entry} is wrong")
    yield Guess(cause, evidence.given)
  found: list[tuple[float, int, list[int]]] = []
  for axis, length in enumerate(evidence.shape):
    indices = np.unique(places[axis]).tolist()
    if len(indices) <= max(1, min(_LONGEST_LIST, length // 4)) < length:
      found.append((len(indices) / length, axis, indices))
  if found:
    _, axis, indices = min(found)
    listed = ", ".join(map(str, indices))
    text = f"only index {listed} of axis {axis} is wrong ({count} entries)"
    parts = {_part(evidence, axis, index) for index in indices}
    if len(parts) == 1 and all(parts):
      text += f": {parts.pop()}"
    yield Guess(Cause("localised", text), evidence.given)


def _factor_per_index(evidence: Evidence) -> Iterator[Guess]:
  """given = numeric times one factor per index of an axis."""
  if len(evidence.shape) < 2:
    return
  given, numeric, bars = evidence.tables
  for axis, length in enumerate(evidence.shape):
    rest = tuple(a for a in range(given.ndim) if a != axis)
    if evidence.live < 3 * length:
      continue  # too few numbers to tell
    square = (numeric**2).sum(axis=rest, keepdims=True)
    product = (given * numeric).sum(axis=rest, keepdims=True)
    factors = np.divide(
      product, square, out=np.ones_like(square), where=square > 0
    )
    bar = ((1 + np.abs(factors)) * bars).ravel()
    span = f"{factors.min():.4g} to {factors.max():.4g}"
    text = f"given = numeric x a factor per index of axis {axis} ({span})"
    cause = Cause("factor per index", text)
    yield Guess(cause, (factors * numeric).ravel(), bar)


def _precision(evidence: Evidence) -> Iterator[Guess]:
  """The residual is what rounding to a shorter format leaves."""
  given = evidence.given
  size = float(np.abs(evidence.numeric).max())
  worst = float(np.abs(given - evidence.numeric).max())
  if size == 0 or not given.any():
    return
  for dtype in (np.float32, np.float16, jnp.bfloat16):
    epsilon = float(jnp.finfo(dtype).eps)
    with np.errstate(over="ignore"):
      rounded = given.astype(dtype).astype(np.float64)
    if np.array_equal(rounded, given) and worst <= 64 * epsilon * size:
      text = f"given values are {np.dtype(dtype).name} numbers"
      yield Guess(Cause("precision", text, epsilon), given)
  if worst <= 16 * 2.0**-23 * size:
    text = f"residual of {worst / size:.1e} of the largest entry, the size of"
    cause = Cause("precision", f"{text} float32 rounding", 2.0**-23)
    yield Guess(cause, given)


_Test = Callable[[Evidence], Iterator[Guess]]
_WHOLE: tuple[_Test, ...] = (
  _rearranged,
  _shifted,
  _swapped,
  _localised,
  _factor_per_index,
)


def _first(tests: Sequence[_Test], evidence: Evidence) -> Cause | None:
  guesses = itertools.chain.from_iterable(test(evidence) for test in tests)
  return next((g.cause for g in guesses if evidence.explained_by(g)), None)


def diagnose(evidence: Evidence) -> Cause | None:
  """The simplest cause that explains a wrong tensor to numeric error."""
  whole = _WHOLE if evidence.whole else ()
  tests = (_factor, _penalty, _precision, *whole, _parameter, _offset)
  cause = _first(tests, evidence)
  if (
    evidence.penalty is not None
    and evidence.whole
    and (cause is None or cause.kind == "localised")
  ):
    # A mistake in the data term is hidden by a right L2 term beside it.
    data = dataclasses.replace(
      evidence,
      given=evidence.given - evidence.penalty,
      numeric=evidence.numeric - evidence.penalty,
      penalty=None,
      others={},
    )
    found = _first(_WHOLE, data)
    if found is not None and (
      cause is None or len(found.text) > len(cause.text)
    ):
      text = f"{found.text} (the L2 term apart)"
      return dataclasses.replace(found, text=text)
  return cause


def matching_candidates(
  given: Sequence[Float[np.ndarray, " _"]],
  candidates: Mapping[str, Sequence[Float[np.ndarray, " _"]]],
  tolerance: Sequence[Float[np.ndarray, " _"]],
) -> list[list[Cause]]:
  """Which of the owner's candidates are the given gradient, for each tensor.

  Candidates that equal the given gradient in every tensor come alone where
  there are any; else those that equal it in the tensor.
  """
  matches = {
    name: list(map(_same, given, tensors, tolerance))
    for name, tensors in candidates.items()
  }
  entire = {name: same for name, same in matches.items() if all(same)}
  chosen = entire or matches
  return [
    [Cause("candidate", name) for name, same in chosen.items() if same[leaf]]
    for leaf in range(len(given))
  ]


def _same(given: np.ndarray, other: np.ndarray, tolerance: np.ndarray) -> bool:
  """Whether they differ by no more than rounding of their largest entry."""
  size, most = np.abs(given).max(), np.abs(other).max()
  slack = float(tolerance.max() / size) if size else 0.0
  return bool(np.all(np.abs(other - given) <= slack * max(most, size)))
