"""The arguments of a function: the leaves with derivatives, and the rest."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.gradcheck import _inputs as inputs
from mnist_jax.gradcheck._layout import GradcheckError, flatten_with_paths

Rest = list[Any]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Named:
  """Arrays by name, as "x['w']": a pytree whose paths are the names."""

  names: tuple[str, ...]
  values: tuple[Any, ...]

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """For jax: the arrays with their keys, and the names."""
    keys = map(jax.tree_util.GetAttrKey, self.names)
    return tuple(zip(keys, self.values, strict=True)), self.names

  @classmethod
  def tree_unflatten(cls, names: tuple[str, ...], values: Any) -> "Named":
    """For jax: the inverse."""
    return cls(names, tuple(values))


@dataclasses.dataclass(frozen=True)
class Arguments:
  """What f is called with, its leaves taken apart."""

  names: tuple[str, ...]  # of each argument
  treedef: Any
  leaves: tuple[Any, ...]
  paths: tuple[str, ...]  # of each leaf
  owners: tuple[int, ...]  # the number of each leaf's argument
  chosen: tuple[int, ...]  # leaves by number: those with derivatives
  passed: tuple[int, ...]  # and those that need not be Python's own

  @property
  def params(self) -> Named:
    """The leaves with derivatives."""
    return Named(
      tuple(self.paths[i] for i in self.chosen),
      tuple(self.leaves[i] for i in self.chosen),
    )

  @property
  def rest(self) -> Rest:
    """The other leaves, less those of f's `nondiff_argnums`."""
    leaves = [self.leaves[i] for i in self.passed]
    # The caller's own may be held by a VJP of theirs; see `Subject.here`.
    return [a.copy() if isinstance(a, np.ndarray) else a for a in leaves]

  def merged(self, params: Named, rest: Rest) -> tuple[Any, ...]:
    """The arguments with these leaves."""
    leaves = list(self.leaves)
    for i, leaf in zip(self.chosen, params.values, strict=True):
      leaves[i] = leaf
    for i, leaf in zip(self.passed, rest, strict=True):
      leaves[i] = leaf
    return tuple(jax.tree.unflatten(self.treedef, leaves))

  def cotangents(self, found: Any) -> Named:
    """What a VJP by hand returned, as one would be of `params`."""
    count = len(self.names)
    differentiable = sorted({self.owners[i] for i in self.chosen})
    if count == 1 and not (isinstance(found, tuple) and len(found) == 1):
      found = (found,)
    if not isinstance(found, tuple) or len(found) not in (
      count,
      len(differentiable),
    ):
      size = len(found) if isinstance(found, tuple) else type(found).__name__
      raise GradcheckError(
        f"vjp returned {size}; a tuple with one cotangent for each of the "
        f"{count} arguments is needed"
      )
    each = range(count) if len(found) == count else differentiable
    params = self.params
    values: dict[str, Any] = {}
    for number, cotangent in zip(each, found, strict=True):
      name = self.names[number]
      if cotangent is None:  # zero, as in the rule of a jax.custom_vjp
        own = [i for i in self.chosen if self.owners[i] == number]
        values |= {self.paths[i]: np.zeros_like(self.leaves[i]) for i in own}
        continue
      leaves, _ = flatten_with_paths(cotangent, f"vjp's cotangent of {name}")
      values |= {name + path: leaf for path, leaf in leaves}
    other = set(self.paths) - set(params.names)
    names = [name for name in params.names if name in values]
    names += [n for n in values if n not in names and n not in other]
    return Named(tuple(names), tuple(values[name] for name in names))


def take_apart(
  f: Callable[..., Any], args: tuple[Any, ...], argnums: Any
) -> Arguments:
  """Takes the arguments apart."""
  if argnums is None:
    numbers = tuple(range(len(args)))
  else:
    numbers = tuple(np.atleast_1d(np.asarray(argnums, object)).tolist())
    if not all(inputs.is_whole(n) and 0 <= n < len(args) for n in numbers):
      raise GradcheckError(
        f"argnums is {argnums!r}, expected whole numbers from 0 to "
        f"{len(args) - 1}, those of f's arguments"
      )
  own = tuple(getattr(f, "nondiff_argnums", ()))  # of a jax.custom_vjp
  names = _names(f, len(args))
  flat = []
  for number, arg in enumerate(args):
    leaves, _ = flatten_with_paths(arg, names[number])
    flat += [(number, names[number] + path, leaf) for path, leaf in leaves]
  chosen = tuple(
    i
    for i, (number, _, leaf) in enumerate(flat)
    if number in numbers and number not in own and has_derivative(leaf)
  )
  if not chosen:
    found = [
      f"{name} is {getattr(leaf, 'dtype', type(leaf).__name__)}"
      for number, name, leaf in flat
      if number in numbers
    ]
    more = ", ..." if len(found) > 3 else ""
    what = ", ".join(found[:3]) or "no argument of f was chosen"
    raise GradcheckError(
      f"{what}{more}; expected floating numbers, of which alone there are "
      "derivatives"
    )
  return Arguments(
    names=names,
    treedef=jax.tree.structure(args),
    leaves=tuple(leaf for _, _, leaf in flat),
    paths=tuple(path for _, path, _ in flat),
    owners=tuple(number for number, _, _ in flat),
    chosen=chosen,
    passed=tuple(
      i
      for i, (number, _, _) in enumerate(flat)
      if i not in chosen and number not in own
    ),
  )


def _names(f: Callable[..., Any], count: int) -> tuple[str, ...]:
  """The arguments' names, by f's signature where it has them."""
  try:
    parameters = list(inspect.signature(f).parameters.values())
  except (TypeError, ValueError):  # of some built-in functions
    parameters = []
  positional = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
  )
  names = [p.name for p in parameters if p.kind in positional]
  return (*names, *(f"args[{i}]" for i in range(len(names), count)))[:count]


def has_derivative(leaf: Any) -> bool:
  """Whether it is a floating or complex number, or an array of some."""
  if isinstance(leaf, float | complex):
    return True
  dtype = getattr(leaf, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
    return False
  return np.size(leaf) > 0
