"""Means over more examples than fit in memory at once.

N examples; a chunk is a slice of them along the first axis of every leaf.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from mnist_jax.runtime.errors import InputError

T = TypeVar("T")


def count(examples: PyTree) -> int:
  """N, the length that the first axes of all leaves share.

  Raises:
    InputError: no leaves, leaves without axes, or of different lengths.
  """
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(examples)]
  lengths = {shape[0] if shape else None for shape in shapes}
  if len(lengths) != 1 or lengths & {None, 0}:
    raise InputError(
      f"examples have leaves of shapes {shapes}, expected the same number of "
      "examples, at least one, on the first axis of each"
    )
  return lengths.pop() or 0


def mean(function: Callable[[Any], T], examples: PyTree, chunk: int, /) -> T:
  """The mean over N examples of what `function` averages over some.

  Exact for any function that is itself a mean over the examples it is given
  (a loss, its gradient, its Hessian times a vector): whole chunks count
  alike, and the rest is called on its own and counts by its length.

  Args:
    function: Of a pytree of k examples; it is called with k = chunk, and with
      k = N mod chunk where that is not 0.
    chunk: The most examples at once, at least 1.

  Raises:
    InputError: chunk below 1, or as `count`.
  """
  total = count(examples)
  if chunk < 1:
    raise InputError(f"chunk is {chunk}, expected at least 1")
  chunk = min(chunk, total)
  whole = total // chunk
  examples = jax.tree.map(jnp.asarray, examples)

  def one(i: Int[Array, ""]) -> T:
    begin = i * chunk
    return function(
      jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, begin, chunk), examples
      )
    )

  def add(so_far: T, i: Int[Array, ""]) -> tuple[T, None]:
    return jax.tree.map(jnp.add, so_far, one(i)), None

  numbers = jnp.arange(whole)
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, numbers[0])
  )
  sums, _ = jax.lax.scan(add, nothing, numbers)
  if whole * chunk == total:
    return jax.tree.map(lambda x: x / whole, sums)
  rest = function(jax.tree.map(lambda x: x[whole * chunk :], examples))
  share = chunk / total
  return jax.tree.map(
    lambda a, b: share * a + (1 - whole * share) * b, sums, rest
  )
