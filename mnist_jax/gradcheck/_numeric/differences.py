"""Finite differences of any scalar function of any pytree, compiled.

Section 12.3 gives two formulas for a derivative: the one-sided
(f(x + h) - f(x)) / h, whose error goes like h, and the two-sided
(f(x + h) - f(x - h)) / 2h, whose error goes like h^2. The entries of theta are
moved one at a time; a chunk of them is evaluated in one compiled call, so
memory is bounded.

Shapes: P all parameters, N points asked for, K steps, M directions.
"""

import contextlib
import dataclasses
import functools
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from mnist_jax.gradcheck._layout import GradcheckError, Layout, flatten
from mnist_jax.gradcheck._numeric.error_bars import Lines
from mnist_jax.runtime import precision

LossFn = Callable[..., Any]
METHODS = ("two_sided", "one_sided")

# A chunk holds this many doubles of perturbed parameters (16 MiB) at most.
_CHUNK_ELEMENTS = 1 << 21
_LARGEST_CHUNK = 128
_BLOCK = 512  # points per compiled call


def require_method(method: str) -> None:
  """Raises GradcheckError for an unknown method."""
  if method not in METHODS:
    raise GradcheckError(f"method is {method!r}; expected one of {METHODS}")


class Raised(GradcheckError):
  """A function that was handed over raised."""


@contextlib.contextmanager
def blamed_on(what: str) -> Iterator[None]:
  """A failure inside is the caller's function's, told in one line."""
  try:
    yield
  except GradcheckError:
    raise
  except Exception as error:
    text = (str(error).strip() or "no message").splitlines()[0]
    raise Raised(f"{what} raised {type(error).__name__}: {text}") from error


def split(
  args: tuple[Any, ...],
) -> tuple[list[Any], Callable[[list[Any]], tuple[Any, ...]]]:
  """The arrays among the args, and what makes args of such arrays again."""
  leaves, treedef = jax.tree_util.tree_flatten(args)
  traced = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

  def joined(arrays: list[Any]) -> tuple[Any, ...]:
    given = iter(arrays)
    full = [
      next(given) if t else a for t, a in zip(traced, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(treedef, full)

  return [a for t, a in zip(traced, leaves, strict=True) if t], joined


def _program(
  loss_fn: LossFn,
  unflatten: Callable[[Any], PyTree],
  width: int,
  args: tuple[Any, ...],
) -> tuple[Any, list[Any]]:
  """The compiled loss at up to a block of points, each one entry moved.

  Comes with the arrays among the args, which it is handed as data. The others
  (bools, words, sizes) are the program's own, as Python code may branch on
  them. A loss may read more than its arguments (attributes, globals), so the
  program is good for one check: only what XLA made of it is kept.
  """
  arrays, joined = split(args)

  def block(
    theta: Any, arrays: Any, positions: Any, entries: Any, chunks: Any
  ) -> Any:
    rest = joined(arrays)

    # The number of chunks is data, so any number of points is one program.
    def body(k: Any, losses: Any) -> Any:
      if width == 1:  # in place
        moved = jax.lax.dynamic_update_index_in_dim(
          theta, entries[k], positions[k], 0
        )
        found = loss_fn(unflatten(moved), *rest)
      else:  # many at once: a select fuses where a scatter would not
        here = jnp.arange(theta.size)[None] == positions[k][:, None]
        moved = jnp.where(here, entries[k][:, None], theta[None])
        many = jax.vmap(loss_fn, in_axes=(0, *[None] * len(rest)))
        found = many(unflatten(moved), *rest)
      return losses.at[k].set(found.astype(losses.dtype))

    return jax.lax.fori_loop(0, chunks, body, jnp.zeros_like(entries))

  # Unused operands are kept for `compiled` to count.
  return jax.jit(block, keep_unused=True), arrays


class Progress:
  """Says on stderr how far the work of a check is, past the first seconds."""

  _QUIET, _EVERY = 5.0, 2.0  # seconds

  def __init__(self) -> None:
    self.begun = time.monotonic()
    self._next = self.begun + self._QUIET

  def say(self, done: int, total: int) -> None:
    """So many losses out of those of the work at hand."""
    now = time.monotonic()
    if now >= self._next and total > 1:
      self._next = now + self._EVERY
      print(
        f"gradient check: {now - self.begun:.0f} s, {done} of {total} losses "
        "of this part",
        file=sys.stderr,
        flush=True,
      )


_kept: dict[str, Any] = {}
_MOST_KEPT = 16


def compiled(lowered: Any, operands: tuple[Any, ...]) -> Any:
  """Compiles a program, or takes the one made of the very same text.

  The text holds all that was read while tracing, constant arrays to the last
  bit, so that an equal one computes the same. Not so that of a callback, which
  names a Python function by its address, nor one with more parameters than
  operands: jax has made constants of the loss parameters, of values unsaid.
  Nor does it say on which devices: those are where the operands lie, or else
  the default.
  """
  text, leaves = lowered.as_text(), jax.tree.leaves(operands)
  (main,) = re.findall(r"func public @main\(.*", text)
  hidden = len(re.findall(r"%arg\d+: ", main)) != len(leaves)
  if "callback" in text or hidden:
    return lowered.compile()
  default = jax.config.jax_default_device  # type: ignore[attr-defined]
  places = [getattr(leaf, "sharding", None) for leaf in leaves]
  key = hashlib.sha256(f"{default} {places} {text}".encode()).hexdigest()
  found = _kept.pop(key, None) or lowered.compile()
  _kept[key] = found  # the most recent last
  if len(_kept) > _MOST_KEPT:
    del _kept[next(iter(_kept))]
  return found


@dataclasses.dataclass
class Losses:
  """Evaluates one loss function around one theta."""

  loss_fn: LossFn  # loss_fn(params, *args) -> scalar
  layout: Layout
  theta: Float[np.ndarray, " P"]  # in the dtype that the loss is given
  args: tuple[Any, ...] = ()  # as the caller gave them
  chunk_size: int | None = None  # moved copies of theta held at once
  # In which the loss is given its parameters, by tensor; theta's where None.
  dtypes: tuple[Any, ...] | None = None
  # Moved parameters are rounded to them, by tensor; a loss that rounds its
  # parameters to float32 must be given steps that float32 can take.
  grids: tuple[Any, ...] = ()
  x64: bool = True  # the caller's setting, where dtypes are given
  progress: Progress = dataclasses.field(default_factory=Progress)
  # By width; `dataclasses.replace` shares them among the points of one check.
  _programs: dict[int, Any] = dataclasses.field(default_factory=dict)
  _ready_made: dict[int, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if not self.grids:
      own = (self.theta.dtype,) * len(self.layout.shapes)
      self.grids = tuple(map(np.dtype, self.dtypes or own))
    if self.chunk_size is None:
      # One CPU core computes one loss after the other fastest; an accelerator
      # wants many at once.
      fits = max(1, min(_LARGEST_CHUNK, _CHUNK_ELEMENTS // self.theta.size))
      self.chunk_size = 1 if jax.default_backend() == "cpu" else fits
    elif self.chunk_size < 1:
      raise GradcheckError(f"chunk_size is {self.chunk_size}, not positive")
    self._width = self.chunk_size

  def _ready(self, *operands: Any) -> Any:
    """The losses of a block; compiled for such operands, once in a check."""
    width = self._width
    if width not in self._programs:
      self._programs[width] = _program(
        self.loss_fn, self.unflatten, width, self.args
      )
    block, arrays = self._programs[width]
    operands = (operands[0], arrays, *operands[1:])
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
      return block, operands
    if width not in self._ready_made:
      lowered = block.lower(*operands)
      self._ready_made[width] = compiled(lowered, operands)
    return self._ready_made[width], operands

  def scope(self) -> contextlib.AbstractContextManager[None]:
    """That in which the loss is to be computed."""
    wide = self.dtypes is None
    return precision.float64() if wide else precision.x64(self.x64)

  def loss(self, params: PyTree) -> Any:
    """The loss as the caller wrote it, not compiled."""
    return self.loss_fn(params, *self.args)

  def unflatten(self, theta: Any) -> PyTree:
    """Theta, [P] or [..., P], as the pytree that the loss is given."""
    return self.layout.unflatten(theta, self.dtypes)

  def params(self) -> PyTree:
    """Theta as the pytree that the loss is given."""
    return self.unflatten(jnp.asarray(self.theta))

  @functools.cached_property
  def epsilons(self) -> Float[np.ndarray, " P"]:
    """The relative spacing of the numbers to which each entry is rounded."""
    each = [float(jnp.finfo(grid).eps) for grid in self.grids]
    return np.repeat(each, self.layout.sizes)

  def round(
    self, values: np.ndarray, positions: Int[np.ndarray, " N"] | None = None
  ) -> np.ndarray:
    """Values [..., N] of entries as the loss will see them, like theta."""
    result = values.astype(self.theta.dtype)
    epsilons = self.epsilons if positions is None else self.epsilons[positions]
    for grid in set(self.grids) - {self.theta.dtype}:
      with np.errstate(over="ignore"):
        short = values.astype(grid).astype(self.theta.dtype)
      result = np.where(epsilons == float(jnp.finfo(grid).eps), short, result)
    return result

  def at(
    self,
    theta: Float[np.ndarray, " P"],
    positions: Int[np.ndarray, " N"] | None = None,
    entries: Float[np.ndarray, " N"] | None = None,
  ) -> Float[np.ndarray, " N"]:
    """The loss at theta, [1]; or with each entry alone at its position, [N]."""
    if positions is None or entries is None:
      positions, entries = np.zeros(1, int), theta[:1]
    result = np.empty(len(positions))
    size = max(_BLOCK // self._width, 1) * self._width
    shape = (-1,) if self._width == 1 else (-1, self._width)
    for start in range(0, len(positions), size):
      indices = positions[start : start + size].astype(np.int32)
      values = entries[start : start + size].astype(theta.dtype)
      used = len(indices)
      points = [
        np.pad(row, (0, size - used)).reshape(shape)
        for row in (indices, values)
      ]
      chunks = np.int32(-(-used // self._width))
      try:
        with blamed_on("loss_fn"):
          block, operands = self._ready(theta, *points, chunks)
          losses = block(*operands)
      except GradcheckError:
        if self._width == 1:
          raise
        # Some primitives (callbacks) have no batching rule: one by one.
        self._width = 1
        return self.at(theta, positions, entries)
      found = np.asarray(losses, dtype=np.float64).ravel()
      result[start : start + used] = found[:used]
      self.progress.say(start + used, len(positions))
    return result

  def lines(
    self,
    positions: Int[np.ndarray, " N"],
    steps: Sequence[float],
    scale: Float[np.ndarray, " N"] | float = 1.0,
    *,
    backward: bool = True,
  ) -> Lines:
    """The losses at theta +- each step in each position, [K, N].

    Steps are in units of the scale, none below a few spacings of its entry.
    In floating point (x + h) - x is not h; the lines hold the steps really
    taken (Press et al., Numerical Recipes, section 5.7). Unless `backward` is
    wanted, f(x) stands in the place of f(x - h).
    """
    base = self.round(self.theta)
    x = base[positions]
    h = np.asarray(steps)[:, None] * scale
    wide = x.astype(np.float64)
    h = np.maximum(h, 4 * self.epsilons[positions] * np.abs(wide))
    up, down = (self.round(wide + s * h, positions) for s in (1, -1))
    entries = np.stack([up, down] if backward else [up])
    count = entries.size // max(len(positions), 1)
    losses = self.at(base, np.tile(positions, count), entries.ravel())
    middle = float(self.at(base)[0])
    above, *below = losses.reshape(entries.shape)
    return Lines(
      tuple(steps),
      above,
      below[0] if backward else np.full_like(above, middle),
      up - wide,
      wide - down,
      middle,
    )

  def along(
    self, vectors: Float[np.ndarray, "M P"], steps: tuple[float, ...]
  ) -> Lines:
    """The losses at theta +- each step along each direction, [K, M]."""
    base = self.round(self.theta)
    above, below = np.empty((2, len(steps), len(vectors)))
    for k, step in enumerate(steps):
      for m, vector in enumerate(vectors):
        above[k, m] = self.at(self.round(base + step * vector))[0]
        below[k, m] = self.at(self.round(base - step * vector))[0]
      self.progress.say(2 * (k + 1) * len(vectors), 2 * above.size)
    taken = np.broadcast_to(np.array(steps)[:, None], above.shape)
    return Lines(steps, above, below, taken, taken, float(self.at(base)[0]))


def numeric_gradient(
  loss_fn: LossFn,
  params: PyTree,
  step: float,
  *,
  method: str = "two_sided",
  args: Sequence[Any] = (),
  dtype: Any = np.float64,
  chunk_size: int | None = None,
) -> PyTree:
  """The chapter's numeric gradient (section 12.3) in every coordinate.

  Args:
    loss_fn: The loss, loss_fn(params, *args) -> scalar.
    params: A pytree of real floating arrays of any shapes.
    step: The step h, positive, the same for all coordinates.
    method: The formula, "two_sided" (f(x+h) - f(x-h)) / 2h or "one_sided"
      (f(x+h) - f(x)) / h.
    args: Further arguments of the loss, passed as they are.
    dtype: The type in which the loss is given the parameters: float64, in a
      scope of its own, or float32 under the caller's settings. The differences
      of the losses are always taken in float64.
    chunk_size: As for `check`.

  Returns:
    A pytree like params with NumPy float64 leaves.

  Raises:
    GradcheckError: `params` is not a pytree of floating arrays, the method is
      unknown, `chunk_size` is not positive, or the loss raises.
  """
  require_method(method)
  layout, theta, _ = flatten(params, "params")
  dtype = np.dtype(dtype)
  scope = (
    precision.float64() if dtype == np.float64 else contextlib.nullcontext()
  )
  with scope:
    losses = Losses(
      loss_fn, layout, theta.astype(dtype), tuple(args), chunk_size
    )
    lines = losses.lines(
      np.arange(theta.size), (step,), backward=method == "two_sided"
    )
  return layout.gradient(lines.differences(method)[0])
