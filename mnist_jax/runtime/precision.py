"""Float64 in a scope, or the caller's own precision in it."""

import contextlib
import importlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def x64(enabled: bool) -> Iterator[None]:
  """Sets whether 64 bits are had inside, where a NaN is no exception."""
  enable_x64 = getattr(jax, "enable_x64", None)
  if enable_x64 is None:  # before jax 0.8
    enable_x64 = importlib.import_module("jax.experimental").enable_x64
  with enable_x64(enabled), jax.debug_nans(False), jax.debug_infs(False):
    yield


@contextlib.contextmanager
def float64() -> Iterator[None]:
  """Computes in float64 inside, whatever the global setting; restores it.

  Type promotion is the standard one inside, since data closed over in float32
  must meet float64 parameters; and a NaN is a value here, not an exception.
  """
  with x64(True), jax.numpy_dtype_promotion("standard"):
    yield
