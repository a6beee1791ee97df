"""Finite differences of any scalar function of any pytree, compiled.

Section 12.3 gives two formulas for a derivative: the one-sided
(f(x + h) - f(x)) / h, whose error goes like h, and the two-sided
(f(x + h) - f(x - h)) / 2h, whose error goes like h^2. As in the chapter all
parameters are laid out in one vector theta, and its entries are moved one at a
time; a chunk of them is evaluated in one compiled call, so memory is bounded.

Shapes: P all parameters, N points asked for, K steps.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from mnist_jax.runtime import precision

LossFn = Callable[..., Any]

# A chunk holds this many doubles of perturbed parameters (16 MiB) at most.
_CHUNK_ELEMENTS = 1 << 21
_LARGEST_CHUNK = 128
_BLOCK = 512  # points per compiled call
_NOISE_DRAWN = 24  # coordinates of a tensor tried, and used, for the noise
_NOISE_LINES = 8


class GradcheckError(ValueError):
  """What was handed to a gradient check cannot be checked; says which leaf."""


class Layout(NamedTuple):
  """Where each leaf of a pytree lies in theta; hashable."""

  treedef: Any
  paths: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]

  @property
  def sizes(self) -> tuple[int, ...]:
    return tuple(math.prod(shape) for shape in self.shapes)

  def slices(self) -> list[slice]:
    ends = np.cumsum((0, *self.sizes))
    return [
      slice(int(start), int(stop)) for start, stop in itertools.pairwise(ends)
    ]

  def unflatten(self, theta: Any) -> PyTree:
    """The pytree whose leaves are the parts of theta [P]."""
    leaves = [
      theta[part].reshape(shape)
      for part, shape in zip(self.slices(), self.shapes, strict=True)
    ]
    return jax.tree_util.tree_unflatten(self.treedef, leaves)

  def locate(self, position: int) -> tuple[int, tuple[int, ...]]:
    """(number of the leaf, index in the leaf) of a position in theta."""
    ends = np.cumsum(self.sizes)
    leaf = int(np.searchsorted(ends, position, side="right"))
    within = position - int(ends[leaf]) + self.sizes[leaf]
    index = np.unravel_index(within, self.shapes[leaf])
    return leaf, tuple(int(i) for i in index)


def flatten(
  tree: PyTree, what: str
) -> tuple[Layout, Float[np.ndarray, " P"], tuple[Any, ...]]:
  """Copies a pytree of real floating leaves into one float64 vector.

  Args:
    what: how messages call the tree, "params" or "grads".

  Returns:
    The layout, theta [P], and the leaves' dtypes.

  Raises:
    GradcheckError: no leaves, or a leaf that is empty, not an array or not of
      a real floating type; it is named by its path.
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
  if not flat:
    raise GradcheckError(f"{what} has no leaves to check")
  paths, shapes, parts, dtypes = [], [], [], []
  for path, leaf in flat:
    name = what + jax.tree_util.keystr(path)
    try:
      array = np.asarray(leaf)
    except Exception as error:  # tracers, keys and arbitrary objects
      raise GradcheckError(
        f"{name} is a {type(leaf).__name__}, not an array of numbers"
      ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise GradcheckError(
        f"{name} has dtype {array.dtype}; a real floating dtype is needed"
      )
    if array.size == 0:
      raise GradcheckError(f"{name} is empty: its shape is {array.shape}")
    paths.append(jax.tree_util.keystr(path))
    shapes.append(array.shape)
    parts.append(array.astype(np.float64).ravel())
    dtypes.append(array.dtype)
  layout = Layout(treedef, tuple(paths), tuple(shapes))
  return layout, np.concatenate(parts), tuple(dtypes)


def require_same_structure(
  expected: Layout, found: Layout, what: str = "grads"
) -> None:
  """Raises GradcheckError where `found` is not laid out like `expected`."""
  for path in expected.paths:
    if path not in found.paths:
      raise GradcheckError(f"{what}{path} is missing: params has this leaf")
  for path in found.paths:
    if path not in expected.paths:
      raise GradcheckError(f"{what}{path} is extra: params has no such leaf")
  for path, shape in zip(found.paths, found.shapes, strict=True):
    wanted = expected.shapes[expected.paths.index(path)]
    if shape != wanted:
      raise GradcheckError(
        f"{what}{path} has shape {shape}, params{path} has {wanted}"
      )
  if expected.treedef != found.treedef:
    raise GradcheckError(
      f"{what} and params have the same leaves in different containers: "
      f"{found.treedef} and {expected.treedef}"
    )


@functools.lru_cache(maxsize=16)
def _program(loss_fn: LossFn, layout: Layout, chunk_size: int) -> Any:
  """The compiled loss at up to a block of points, each one entry moved.

  Kept for a few recent functions, so that checking the same one again does not
  compile again, and forgotten after, so that a thousand do not fill memory.
  """

  def moved(theta: Any, args: Any, position: Any, value: Any) -> Any:
    if chunk_size == 1:  # in place
      theta = jax.lax.dynamic_update_index_in_dim(theta, value, position, 0)
    else:  # under vmap a select fuses where a scatter would not
      theta = jnp.where(jnp.arange(theta.size) == position, value, theta)
    return loss_fn(layout.unflatten(theta), *args)

  chunk = moved
  if chunk_size > 1:
    chunk = jax.vmap(moved, in_axes=(None, None, 0, 0))

  def block(
    theta: Any, args: Any, positions: Any, values: Any, chunks: Any
  ) -> Any:
    # The number of chunks is data, so any number of points is one program.
    def body(k: Any, losses: Any) -> Any:
      found = chunk(theta, args, positions[k], values[k])
      return losses.at[k].set(found.astype(losses.dtype))

    return jax.lax.fori_loop(0, chunks, body, jnp.zeros_like(values))

  return jax.jit(block)


@dataclasses.dataclass
class Losses:
  """Evaluates one loss function around one theta.

  Attributes:
    loss_fn: loss_fn(params, *args) -> scalar.
    layout: of params.
    theta: [P], in the dtype in which the parameters are given to the loss.
    args: the further arguments, traced: other values do not compile again.
    chunk_size: moved copies of theta held at once; None for one on a CPU, else
      as many as fit 16 MiB, at most 128.
    grid: the dtype to which moved parameters are rounded; a loss that rounds
      its parameters to float32 must be given steps that float32 can take.
  """

  loss_fn: LossFn
  layout: Layout
  theta: Float[np.ndarray, " P"]
  args: tuple[Any, ...] = ()
  chunk_size: int | None = None
  grid: Any = np.float64

  def __post_init__(self) -> None:
    if self.chunk_size is None:
      # One CPU core computes one loss after the other fastest; an accelerator
      # wants many at once.
      fits = max(1, min(_LARGEST_CHUNK, _CHUNK_ELEMENTS // self.theta.size))
      self.chunk_size = 1 if jax.default_backend() == "cpu" else fits
    elif self.chunk_size < 1:
      raise GradcheckError(f"chunk_size is {self.chunk_size}, not positive")
    self._compile(self.chunk_size)

  def _compile(self, chunk_size: int) -> None:
    self._width = chunk_size
    try:
      self._block = _program(self.loss_fn, self.layout, chunk_size)
    except TypeError:  # an unhashable callable: compiled for this check only
      uncached = _program.__wrapped__
      self._block = uncached(self.loss_fn, self.layout, chunk_size)

  def round(self, values: np.ndarray) -> np.ndarray:
    """Values as the loss will see them, in theta's dtype."""
    return values.astype(self.grid).astype(self.theta.dtype)

  def at(self, theta: Float[np.ndarray, " P"]) -> float:
    """The loss at another theta."""
    return float(self._evaluate(theta, np.zeros(1, int), theta[:1])[0])

  def moved(
    self, positions: Int[np.ndarray, " N"], values: Float[np.ndarray, " N"]
  ) -> Float[np.ndarray, " N"]:
    """The losses at theta with theta[positions[n]] replaced by values[n]."""
    return self._evaluate(self.round(self.theta), positions, values)

  def _evaluate(
    self, theta: np.ndarray, positions: np.ndarray, values: np.ndarray
  ) -> np.ndarray:
    result = np.empty(len(positions))
    size = max(_BLOCK // self._width, 1) * self._width
    for start in range(0, len(positions), size):
      stop = min(start + size, len(positions))
      padding = (0, size - (stop - start))
      indices = np.pad(positions[start:stop].astype(np.int32), padding)
      numbers = np.pad(values[start:stop].astype(theta.dtype), padding)
      result[start:stop] = self._run(theta, indices, numbers, stop - start)
    return result

  def _run(
    self,
    theta: np.ndarray,
    positions: np.ndarray,
    values: np.ndarray,
    used: int,
  ) -> np.ndarray:
    shape = (-1,) if self._width == 1 else (-1, self._width)
    chunks = np.int32(-(-used // self._width))
    points = positions.reshape(shape), values.reshape(shape)
    try:
      losses = self._block(theta, self.args, *points, chunks)
    except Exception:
      if self._width == 1:
        raise
      # Some primitives (callbacks) have no batching rule: one after the other.
      self._compile(1)
      return self._run(theta, positions, values, used)
    return np.asarray(losses, dtype=np.float64).ravel()[:used]

  def sides(
    self, positions: Int[np.ndarray, " N"], step: float, backward: bool = True
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Losses at theta +- step in each position, and the steps really taken.

    In floating point (x + h) - x is not h; dividing by what it is removes the
    error (Press et al., Numerical Recipes, section 5.7).

    Returns:
      f(x + h), f(x - h), the step up and the step down, [N] each; without
      `backward` f(x) stands in place of f(x - h), and the step down is 0.
    """
    x = self.round(self.theta[positions])
    up = self.round(x + np.asarray(step, x.dtype))
    down = self.round(x - np.asarray(step, x.dtype)) if backward else x
    count = len(positions)
    others = positions if backward else positions[:1]
    losses = self.moved(
      np.concatenate([positions, others]),
      np.concatenate([up, down[: len(others)]]),
    )
    above, below = losses[:count], np.broadcast_to(losses[count:], (count,))
    wide = x.astype(np.float64)
    return above, below, up - wide, wide - down

  def differences(
    self, positions: Int[np.ndarray, " N"], step: float, method: str
  ) -> Float[np.ndarray, " N"]:
    """The chapter's numeric derivative in each position."""
    above, below, up, down = self.sides(
      positions, step, backward=method == "two_sided"
    )
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return (above - below) / (up + down)


METHODS = ("two_sided", "one_sided")


def require_method(method: str) -> None:
  """Raises GradcheckError for an unknown method."""
  if method not in METHODS:
    raise GradcheckError(f"method is {method!r}; expected one of {METHODS}")


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
    loss_fn: loss_fn(params, *args) -> scalar.
    step: h, positive, the same for all coordinates.
    method: "two_sided" (f(x+h) - f(x-h)) / 2h or "one_sided"
      (f(x+h) - f(x)) / h.
    dtype: in which the parameters are given to the loss: float64, in a scope
      of its own, or float32 under the caller's settings. The differences of
      the losses are always taken in float64.
    chunk_size: moved copies of params held at once, as for `Losses`.

  Returns:
    A pytree like params with NumPy float64 leaves.

  Raises:
    GradcheckError: params is not a pytree of floating arrays, or the method
      is unknown.
  """
  require_method(method)
  layout, theta, _ = flatten(params, "params")
  dtype = np.dtype(dtype)
  scope = (
    precision.float64() if dtype == np.float64 else contextlib.nullcontext()
  )
  with scope:
    losses = Losses(
      loss_fn, layout, theta.astype(dtype), tuple(args), chunk_size, dtype
    )
    numeric = losses.differences(np.arange(theta.size), step, method)
  return layout.unflatten(numeric)


def noise_level(
  losses: Losses,
  loss: float,
  epsilon: float,
  weights: Float[np.ndarray, " P"],
  seed: int,
) -> float:
  """The size of the rounding noise in the loss near theta.

  In every tensor some coordinates that move the loss are moved to nine equally
  spaced points; sixth differences take any smooth part away and leave the noise
  (More & Wild 2011, "Estimating computational noise", eq. 2.6). Too small a
  spacing may see less than there is, as neighbouring points round alike, and a
  large one may cross a kink: so of four spacings, and of a tensor's
  coordinates, the second largest answer counts; of the tensors the largest.

  Args:
    loss: the loss at theta.
    epsilon: unit round-off spacing (2.2e-16 for float64).
    weights: half of the coordinates are those of the largest weights.
    seed: of the choice of the others.

  Returns:
    A standard deviation, at least half the spacing of floats at `loss`.
  """
  rng = np.random.default_rng(seed)
  base = losses.round(losses.theta)
  measured = [epsilon / 2 * abs(loss)]
  for part in losses.layout.slices():
    order = np.argsort(-np.abs(weights[part]), kind="stable")
    drawn = part.start + np.concatenate(
      [order[: _NOISE_LINES // 2], rng.permutation(order)[:_NOISE_DRAWN]]
    )
    drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    moved = losses.moved(drawn, losses.round(base[drawn] + 0.01))
    spreads = _spreads(losses, drawn[moved != loss][:_NOISE_LINES], epsilon)
    if spreads.size:
      measured.append(float(np.sort(spreads)[-2:][0]))
  return max(measured)


def _spreads(
  losses: Losses, positions: Int[np.ndarray, " N"], epsilon: float
) -> Float[np.ndarray, " N"]:
  """Noise along each coordinate, for those where it is finite."""
  order, points = 6, np.arange(1, 10)  # theta itself may lie on a kink
  base = losses.round(losses.theta)
  where = np.repeat(positions, points.size)
  rows = []
  for power in (0.5, 0.42, 0.36, 0.3):
    shifts = epsilon**power * np.tile(points, positions.size)
    values = losses.moved(where, losses.round(base[where] + shifts))
    with np.errstate(invalid="ignore"):
      sixth = np.diff(values.reshape(-1, points.size), order, axis=1)
    rows.append(
      np.sqrt(np.mean(sixth**2, axis=1) / math.comb(2 * order, order))
    )
  spreads = np.sort(np.stack(rows), axis=0)[-2]
  return spreads[np.isfinite(spreads)]


def same_trace(loss_fn: LossFn, params: PyTree, args: tuple[Any, ...]) -> bool:
  """Whether two traces of the loss are the same program with the same data.

  A Python-side random mask is drawn while tracing and frozen by compilation,
  so only tracing (or running) a loss twice can reveal it.
  """

  def traced() -> Any:  # a new function each time: JAX keeps traces by function
    return jax.make_jaxpr(lambda *a: loss_fn(*a))(params, *args)

  first, second = traced(), traced()
  if str(first) != str(second):
    return False
  return all(
    a is b or _same_values(a, b)
    for a, b in zip(first.consts, second.consts, strict=True)
  )


def _same_values(a: Any, b: Any) -> bool:
  try:
    return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))
  except (TypeError, ValueError):
    return False
