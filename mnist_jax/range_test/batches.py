"""What engineers keep batches in, as one stream of batches of arrays."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from mnist_jax.runtime.errors import InputError


def stream(batches: Any, count: int) -> Iterator[PyTree]:
  """The first `count` batches, every leaf an array.

  Args:
    batches: An iterator; a list, or a loader (whatever may be iterated over
      again), begun anew as often as it ends; a function of the step, from 0
      on; or a pytree of arrays (no list) whose rows are the batches.

  Raises:
    InputError: It is none of these, there are fewer than `count` batches, or
      a batch holds something else than arrays and numbers.
  """
  for taken, batch in enumerate(itertools.islice(_each(batches, count), count)):
    yield arrays(batch, f"batches: batch {taken}")


def arrays(batch: PyTree, name: str) -> PyTree:
  """The batch with every leaf an array; InputError if one is no such thing."""
  return jax.tree.map_with_path(
    lambda path, leaf: _as_array(name, path, leaf), batch
  )


def is_key(leaf: Any) -> bool:
  """Whether the leaf holds typed keys of jax.random."""
  return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def size(batch: PyTree) -> int:
  """B, the leading axis of the first leaf that has one and is no key, or 0."""
  shapes = (x.shape for x in jax.tree.leaves(batch) if not is_key(x))
  return next((shape[0] for shape in shapes if shape), 0)


def halves(batch: PyTree) -> tuple[PyTree, PyTree]:
  """The first B // 2 examples and the next; with keys apart for each."""
  whole = size(batch)

  def part(at: int, leaf: Any) -> Any:
    if is_key(leaf):
      return jax.vmap(jax.random.fold_in, (0, None))(leaf.ravel(), at).reshape(
        leaf.shape
      )
    if leaf.shape[:1] != (whole,):
      return leaf
    return leaf[at * (whole // 2) : (at + 1) * (whole // 2)]

  return tuple(
    jax.tree.map(functools.partial(part, at), batch) for at in range(2)
  )


def _each(batches: Any, count: int) -> Iterator[PyTree]:
  if hasattr(batches, "__next__"):
    return _whole(batches, count)
  if isinstance(batches, list):
    return _again(batches)
  # A registered node, dict or tuple is data even if it can be iterated over.
  leaves = jax.tree.leaves(batches)
  if hasattr(batches, "__array__") or (leaves and leaves[0] is not batches):
    return _rows(batches, count)
  if callable(batches):
    return map(functools.partial(_called, batches), itertools.count())
  if hasattr(batches, "__iter__") or hasattr(batches, "__getitem__"):
    return _again(batches)
  raise InputError(
    f"batches: found {type(batches).__name__}, expected an iterator, a list or "
    "loader of batches, a function of the step, or a pytree of arrays"
  )


def _whole(batches: Iterator[PyTree], count: int) -> Iterator[PyTree]:
  taken = 0
  for batch in batches:
    yield batch
    taken += 1
  raise InputError(
    f"the batches ended after {taken}, expected {count}: one for each update "
    "and one more; hand over what can be iterated over again, or fewer updates "
    "in ramp"
  )


def _called(batches: Callable[[int], PyTree], step: int) -> PyTree:
  try:
    return batches(step)
  except Exception as error:  # whatever the caller's function raises
    raise InputError(
      f"batches: the function of the step raised {type(error).__name__} at "
      f"step {step}: {error}"
    ) from error


def _again(batches: Any) -> Iterator[PyTree]:
  while True:
    empty = True
    for batch in batches:
      empty = False
      yield batch
    if empty:
      raise InputError("batches: found none, expected at least one")


def _rows(batches: PyTree, count: int) -> Iterator[PyTree]:
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
  if len(lengths) != 1 or () in lengths or min(lengths)[0] < count:
    found = " and ".join(str(*length) or "no" for length in sorted(lengths))
    raise InputError(
      f"the batches have {found or 'no'} rows, expected at least {count}, one "
      "for each update and one more, as many in every leaf; or hand over a "
      "list of batches"
    )
  for row in range(count):
    yield jax.tree.map(lambda leaf, row=row: leaf[row], batches)


def _as_array(name: str, path: Any, leaf: Any) -> Any:
  if isinstance(leaf, jax.Array):
    return leaf
  try:
    array = np.asarray(leaf)
  except Exception as error:  # whatever another library's tensor raises
    raise _no_array(name, path, leaf) from error
  if not jax.dtypes.issubdtype(array.dtype, np.number) and array.dtype != bool:
    raise _no_array(name, path, leaf)
  return array


def _no_array(name: str, path: Any, leaf: Any) -> InputError:
  place = jax.tree_util.keystr(path)
  return InputError(
    f"{name} holds {type(leaf).__name__}"
    f"{' at ' + place if place else ''}, expected arrays or numbers in tuples, "
    "lists or dicts"
  )
