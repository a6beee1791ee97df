"""Float64 in a scope, or the caller's own precision in it."""

import contextlib
import importlib
from collections.abc import Iterator

import jax


def _forget_types() -> None:
  """Lets jax look anew at the types of NumPy arrays that it has seen.

  It remembers, by the array, how it took one of 64 bits, though that hangs on
  the setting: a loss that indexes with such an array fails after a change.
  """
  for module, name in _CACHES:
    found = getattr(importlib.import_module(module), name, None)
    if found is not None:
      found.cache_clear()


# These, and no other, are stale in jax 0.10 and 0.12; what is compiled stays.
_CACHES = (
  ("jax._src.pjit", "_infer_params_cached"),
  ("jax._src.interpreters.partial_eval", "trace_to_jaxpr"),
  ("jax._src.interpreters.pxla", "_dce_jaxpr"),
)


@contextlib.contextmanager
def x64(enabled: bool) -> Iterator[None]:
  """Sets whether 64 bits are had inside, where a NaN is no exception."""
  before = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
  enable_x64 = getattr(jax, "enable_x64", None)
  if enable_x64 is None:  # before jax 0.8
    enable_x64 = importlib.import_module("jax.experimental").enable_x64
  try:
    with enable_x64(enabled), jax.debug_nans(False), jax.debug_infs(False):
      yield
  finally:
    if enabled != before:
      _forget_types()


@contextlib.contextmanager
def float64() -> Iterator[None]:
  """Computes in float64 inside, whatever the global setting; restores it.

  Type promotion is the standard one inside, since data closed over in float32
  must meet float64 parameters; and a NaN is a value here, not an exception.
  """
  with x64(True), jax.numpy_dtype_promotion("standard"):
    yield
