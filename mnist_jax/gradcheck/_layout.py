"""A pytree as one vector theta, and the chapter's distance between two.

As in the chapter, all parameters are laid out in one vector. Shapes: P all
parameters.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree


class GradcheckError(ValueError):
  """What was handed to a gradient check cannot be checked; says which leaf."""


class Layout(NamedTuple):
  """Where each leaf of a pytree lies in theta; hashable."""

  treedef: Any
  paths: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]

  @property
  def sizes(self) -> tuple[int, ...]:
    """The number of entries of each leaf."""
    return tuple(math.prod(shape) for shape in self.shapes)

  def slices(self) -> list[slice]:
    """The part of theta that is each leaf's."""
    ends = np.cumsum((0, *self.sizes)).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(ends)))

  def unflatten(self, theta: Any) -> PyTree:
    """The pytree whose leaves are the parts of theta, [P] or [..., P]."""
    leaves = [
      theta[..., part].reshape((*theta.shape[:-1], *shape))
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

  Returns the layout, theta and the leaves' dtypes.

  Raises:
    GradcheckError: There are no leaves, or a leaf is empty, not an array or
      not of a real floating type; it is named by `what` and its path.
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


def flatten_like(
  expected: Layout, tree: PyTree, what: str = "grads"
) -> Float[np.ndarray, " P"]:
  """As `flatten`, of a pytree that must be laid out like params.

  GradcheckError also where it lacks a leaf of params, has one more, or has one
  of another shape or in another container.
  """
  found, vector, _ = flatten(tree, what)
  for path in expected.paths:
    if path not in found.paths:
      raise GradcheckError(f"{what}{path} is missing: params has this leaf")
  for path, shape in zip(found.paths, found.shapes, strict=True):
    if path not in expected.paths:
      raise GradcheckError(f"{what}{path} is extra: params has no such leaf")
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
  return vector


def vector_distance(
  a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]
) -> float:
  """As `distance`, between two vectors."""
  size = float(np.linalg.norm(a) + np.linalg.norm(b))
  return float(np.linalg.norm(a - b)) / size if size else 0.0


def distance(a: PyTree, b: PyTree) -> float:
  """The chapter's diff ||a - b|| / (||a|| + ||b||), and 0 for 0 / 0 (12.3).

  Args:
    a, b: Pytrees of real floating arrays, of the same structure and shapes.

  Returns:
    A number in [0, 1], or NaN where an entry is NaN.

  Raises:
    GradcheckError: The structures or shapes differ.
  """
  layout, left, _ = flatten(a, "a")
  return vector_distance(left, flatten_like(layout, b, "b"))
