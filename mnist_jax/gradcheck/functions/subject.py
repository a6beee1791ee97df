"""A function of its leaves with derivatives, with its VJP and JVP by jax."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from mnist_jax.gradcheck._layout import GradcheckError
from mnist_jax.gradcheck._numeric.differences import blamed_on
from mnist_jax.gradcheck.functions.arguments import (
  Arguments,
  Named,
  Rest,
  has_derivative,
)

Outputs = Callable[[Named, Rest], list[Array]]  # those with derivatives
Pull = Callable[[Named, Rest, list[Any]], Named]
Push = Callable[[Named, Rest, Named], list[Array]]


@dataclasses.dataclass(frozen=True)
class Subject:
  """A function of params, and what it gives at them."""

  name: str  # as "the vjp of f"
  outputs: Outputs
  params: Named
  rest: Rest
  values: list[Array]  # in the caller's precision

  def pull(self, params: Named, rest: Rest, cotangents: list[Any]) -> Named:
    """The VJP by jax, which uses the rules of custom functions."""
    with blamed_on(f"the vjp of {self.name}"):
      values, back = jax.vjp(lambda p: self.outputs(p, rest), params)
      cast = [
        jnp.asarray(c).astype(value.dtype)
        for c, value in zip(cotangents, values, strict=True)
      ]
      (found,) = back(cast)
    return found

  def push(self, params: Named, rest: Rest, tangents: Named) -> list[Array]:
    """The JVP by jax."""
    with blamed_on(f"the jvp of {self.name}"):
      cast = jax.tree.map(
        lambda t, p: jnp.asarray(t).astype(p.dtype), tangents, params
      )
      return jax.jvp(lambda p: self.outputs(p, rest), (params,), (cast,))[1]

  def cotangents(self, seed: int, number: int) -> list[np.ndarray]:
    """Normal numbers of unit variance, more for an output of small numbers.

    So that the rounding of a large output does not hide a small one.
    """
    rng = np.random.default_rng([seed, number])
    sizes = [float(jnp.sqrt(jnp.mean(jnp.abs(v) ** 2))) for v in self.values]
    largest = max(sizes)
    return [
      np.asarray(_normal(rng, value) * (largest / size if size else 1.0))
      for value, size in zip(self.values, sizes, strict=True)
    ]

  def tangents(self, seed: int) -> Named:
    """Normal numbers of unit variance."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: _normal(rng, leaf), self.params)

  @property
  def here(self) -> tuple[Named, Rest]:
    """Params and rest as jax arrays, in the caller's precision.

    In the check they stay NumPy's: as long as a VJP made outside of float64
    lives, jax takes a NumPy array in it for one of 32 bits (0.10).
    """
    return jax.tree.map(
      lambda leaf: (
        jnp.asarray(leaf)
        if isinstance(leaf, np.ndarray) or has_derivative(leaf)
        else leaf
      ),
      (self.params, self.rest),
    )

  @property
  def in_float64(self) -> tuple[Named, Rest]:
    """As `here`, with params in float64; to be had in a scope of that."""
    params, rest = self.here
    return jax.tree.map(
      lambda a: a.astype(
        jnp.complex128 if jnp.iscomplexobj(a) else jnp.float64
      ),
      params,
    ), rest

  def of(self, name: str, outputs: Outputs) -> "Subject":
    """Another function of the same params."""
    with blamed_on(name):
      values = outputs(*self.here)
    return Subject(name, outputs, self.params, self.rest, values)


def _normal(rng: np.random.Generator, like: Any) -> np.ndarray:
  shape = np.shape(like)
  if jnp.iscomplexobj(like):
    real, imaginary = rng.standard_normal((2, *shape)) / np.sqrt(2)
    return real + 1j * imaginary
  return np.asarray(rng.standard_normal(shape))


def with_derivative(tree: PyTree) -> list[Array]:
  """The floating and complex leaves of what f returns, as arrays.

  Raises:
    GradcheckError: There are none.
  """
  leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
  found = [a for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
  if not found:
    raise GradcheckError("f returns no floating numbers; nothing to check")
  return found


def subject_of(f: Callable[..., Any], arguments: Arguments) -> Subject:
  """The function f of its params."""

  def outputs(params: Named, rest: Rest) -> list[Array]:
    return with_derivative(f(*arguments.merged(params, rest)))

  empty = Subject("f", outputs, arguments.params, arguments.rest, [])
  return empty.of("f", outputs)


def projection(cotangents: list[Any], values: list[Array]) -> Any:
  """Re sum(c f), in the precision of the values."""
  return sum(
    jnp.sum((jnp.asarray(c).astype(value.dtype) * value).real)
    for c, value in zip(cotangents, values, strict=True)
  )
