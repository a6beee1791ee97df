"""What all tests share: run-time shape checks, and the data read once."""

from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Every jaxtyping annotation in mnist_jax is checked at each call from here on.
install_import_hook("mnist_jax", "beartype.beartype")

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile("ci")


@pytest.fixture
def strict_promotion() -> Iterator[None]:
  """No silent promotion of types or ranks, as in Equinox's tests."""
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    yield


@pytest.fixture
def float64() -> Iterator[None]:
  """64-bit arrays while the test runs."""
  from mnist_jax.runtime import precision

  with precision.float64():
    yield


@pytest.fixture(scope="session")
def mnist():
  """The bundled data set; tests do not write to its arrays."""
  from mnist_jax import data

  return data.load("bundled")
