"""A pytree as one vector theta, and the chapter's distance between two.

As in the chapter, all parameters are laid out in one vector. A complex leaf is
two tensors in it, its real and its imaginary part. Shapes: P all parameters,
where a complex one is two.
"""

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

_APART = (
  "; hand what has no derivative to the loss in args or by closure "
  "(equinox: eqx.partition, flax: nnx.split)"
)


class GradcheckError(ValueError):
  """What was handed to a gradient check cannot be checked; says which leaf."""


class Layout(NamedTuple):
  """Where each leaf of a pytree lies in theta; hashable."""

  treedef: Any
  # Of each tensor: a leaf, or the real or imaginary part of a complex one.
  paths: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  split: tuple[bool, ...]  # of each leaf, whether it is complex

  @property
  def sizes(self) -> tuple[int, ...]:
    """The number of entries of each tensor."""
    return tuple(math.prod(shape) for shape in self.shapes)

  def slices(self) -> list[slice]:
    """The part of theta that is each tensor's."""
    ends = np.cumsum((0, *self.sizes)).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(ends)))

  def unflatten(
    self, theta: Any, dtypes: Sequence[Any] | None = None
  ) -> PyTree:
    """The pytree whose leaves are the parts of theta, [P] or [..., P].

    In theta's dtype, or each tensor in its own of `dtypes`.
    """
    each = dtypes or [theta.dtype] * len(self.shapes)
    tensors = iter(
      [
        theta[..., part].reshape((*theta.shape[:-1], *shape)).astype(dtype)
        for part, shape, dtype in zip(
          self.slices(), self.shapes, each, strict=True
        )
      ]
    )
    leaves = [
      _joined(next(tensors), next(tensors)) if split else next(tensors)
      for split in self.split
    ]
    return jax.tree_util.tree_unflatten(self.treedef, leaves)

  def gradient(self, slopes: Any) -> PyTree:
    """The derivatives in theta as `jax.grad` returns them, df/dx - i df/dy."""
    return jax.tree.map(lambda leaf: leaf.conj(), self.unflatten(slopes))

  def locate(self, position: int) -> tuple[int, tuple[int, ...]]:
    """(number of the tensor, index in it) of a position in theta."""
    ends = np.cumsum(self.sizes)
    leaf = int(np.searchsorted(ends, position, side="right"))
    within = position - int(ends[leaf]) + self.sizes[leaf]
    index = np.unravel_index(within, self.shapes[leaf])
    return leaf, tuple(int(i) for i in index)


def _joined(real: Any, imaginary: Any) -> Any:
  if isinstance(real, np.ndarray):
    return real + 1j * imaginary
  return jax.lax.complex(real, imaginary)  # keeps the sign of a zero


def flatten_with_paths(
  tree: PyTree, what: str
) -> tuple[list[tuple[str, Any]], Any]:
  """The leaves with their paths, as "['w'][0]", and the tree's definition.

  Raises:
    GradcheckError: jax cannot flatten a container.
  """
  try:
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
  except Exception as error:  # of a container: keys that cannot be sorted
    raise GradcheckError(
      f"{what} has a container that jax cannot flatten; the keys of a dict, "
      "for one, must be of one type"
    ) from error
  return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat], treedef


def flatten(
  tree: PyTree, what: str, *, gradient: bool = False
) -> tuple[Layout, Float[np.ndarray, " P"], tuple[Any, ...]]:
  """Copies a pytree of floating leaves into one float64 vector.

  Of complex leaves of a `gradient`, which are df/dx - i df/dy by the convention
  of `jax.grad`, the vector has df/dx and df/dy.

  Returns the layout, theta and the tensors' dtypes, all of them real.

  Raises:
    GradcheckError: There are no leaves, or a leaf is empty, not an array or
      not of a floating type; it is named by `what` and its path.
  """
  flat, treedef = flatten_with_paths(tree, what)
  if not flat:
    raise GradcheckError(f"{what} has no leaves to check")
  paths, parts, split = [], [], []
  for name, leaf in flat:
    array = _array(leaf, what + name)
    split.append(bool(jnp.issubdtype(array.dtype, jnp.complexfloating)))
    if split[-1]:
      imaginary = -array.imag if gradient else array.imag
      paths += [f"{name}.real", f"{name}.imag"]
      parts += [array.real, imaginary]
    else:
      paths.append(name)
      parts.append(array)
  shapes = tuple(part.shape for part in parts)
  theta = np.concatenate([part.astype(np.float64).ravel() for part in parts])
  layout = Layout(treedef, tuple(paths), shapes, tuple(split))
  return layout, theta, tuple(part.dtype for part in parts)


def _array(leaf: Any, name: str) -> np.ndarray:
  """The leaf as an array of floating numbers."""
  wanted = "floats"
  if name.startswith("grads"):
    wanted = "floats like params"
  elif name.startswith("params"):
    wanted = f"floats{_APART}"
  kind = f"{name} is a {type(leaf).__name__}, expected {wanted}"
  try:
    array = np.asarray(leaf)
  except Exception as error:  # tracers, keys and arbitrary objects
    raise GradcheckError(kind) from error
  if array.dtype.kind in "OSU":
    raise GradcheckError(kind)
  if not jnp.issubdtype(array.dtype, jnp.inexact):
    raise GradcheckError(f"{name} has dtype {array.dtype}, expected {wanted}")
  if array.size == 0:
    raise GradcheckError(f"{name} is empty: its shape is {array.shape}")
  return array


def flatten_like(
  expected: Layout,
  tree: PyTree,
  what: str = "grads",
  *,
  gradient: bool = True,
  like: str = "params",
) -> Float[np.ndarray, " P"]:
  """As `flatten`, of a pytree that must have the leaves of params.

  Params are called `like` in messages.

  The containers may be others (an OrderedDict for a dict, a tuple for a list)
  as long as the leaves have the same paths.

  Raises:
    GradcheckError: As `flatten`, and where the tree lacks a leaf of params, has
      one more, or has one of another shape, or a real one for a complex one.
  """
  try:
    return _flatten_like(expected, tree, what, gradient, like)
  except GradcheckError:
    fitting = _fitting_parts(expected, tree, what)
    if not fitting or not gradient:
      raise
  raise GradcheckError(
    f"{what} is a tuple of {len(tree)}, like params only in "
    f"{' and '.join(fitting)}; give the gradient alone: of what "
    "jax.value_and_grad returns [1], of jax.grad with argnums=(0, 1) or "
    "has_aux [0]"
  )


def _fitting_parts(expected: Layout, tree: PyTree, what: str) -> list[str]:
  """Which parts of a tuple are like params, as "[1]"."""
  fitting = []
  for k, part in enumerate(tree if isinstance(tree, tuple) else ()):
    with contextlib.suppress(GradcheckError):
      _flatten_like(expected, part, what, True, "params")
      fitting.append(f"[{k}]")
  return fitting


def _flatten_like(
  expected: Layout, tree: PyTree, what: str, gradient: bool, like: str
) -> Float[np.ndarray, " P"]:
  found, vector, _ = flatten(tree, what, gradient=gradient)
  for path in expected.paths:
    if path not in found.paths:
      _refuse_kind(path, found.paths, what, like)
      some = ", ".join(path or "an array" for path in found.paths[:3])
      more = ", ..." if len(found.paths) > 3 else ""
      raise GradcheckError(
        f"{what}{path} is missing: {like} has this leaf, {what} {some}{more}"
      )
  for path, shape in zip(found.paths, found.shapes, strict=True):
    if path not in expected.paths:
      raise GradcheckError(f"{what}{path} is extra: {like} has no such leaf")
    wanted = expected.shapes[expected.paths.index(path)]
    if shape != wanted:
      other = "; of another argument? (argnums)" if what == "grads" else ""
      raise GradcheckError(
        f"{what}{path} has shape {shape}, {like}{path} has {wanted}{other}"
      )
  if found.paths == expected.paths:
    return vector
  parts = dict(zip(found.paths, found.slices(), strict=True))
  return np.concatenate([vector[parts[path]] for path in expected.paths])


def _refuse_kind(path: str, found: Sequence[str], what: str, like: str) -> None:
  """Says so where a real leaf stands for a complex one, or the reverse."""
  whole = path.removesuffix(".real")
  wanted = {True: "", False: ""}
  if like == "params":
    wanted = {
      True: "; df/dx - i df/dy, as jax.grad returns it, is needed",
      False: "; its real part, as jax.grad returns it, is needed",
    }
  if whole != path and whole in found:
    raise GradcheckError(
      f"{what}{whole} is real where {like}{whole} is complex{wanted[True]}"
    )
  if f"{path}.real" in found:
    raise GradcheckError(
      f"{what}{path} is complex where {like}{path} is real{wanted[False]}"
    )


def vector_distance(
  a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]
) -> float:
  """As `distance`, between two vectors."""
  largest = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
  if 0 < largest < np.inf:
    a, b = a / largest, b / largest
  size = norm(a) + norm(b)
  return norm(a - b) / size if size else 0.0


def norm(a: Float[np.ndarray, "..."]) -> float:
  """The Euclidean norm, of which no square leaves the range of floats."""
  largest = float(np.abs(a).max(initial=0))
  if not 0 < largest < np.inf:
    return largest
  return largest * float(np.linalg.norm(a / largest))


def distance(a: PyTree, b: PyTree) -> float:
  """The chapter's diff ||a - b|| / (||a|| + ||b||), and 0 for 0 / 0 (12.3).

  Args:
    a, b: Pytrees of floating arrays, real or complex, with the same paths and
      shapes.

  Returns:
    A number in [0, 1], or NaN where an entry is NaN.

  Raises:
    GradcheckError: The paths or shapes differ.
  """
  layout, left, _ = flatten(a, "a")
  right = flatten_like(layout, b, "b", gradient=False, like="a")
  return vector_distance(left, right)
