"""What all tests share: shape checks, compiled programs, the data read once."""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Most of the time goes into compiling, and much of that into programs that some
# other file, worker or process of the tests compiles as well. JAX's own cache
# shares them: it keys a program by its text, its flags and the version of XLA,
# and what comes out of it is the machine code that was put in. It is trusted
# code, so nobody else may read or write it.
CACHE = Path(__file__).parents[1] / ".cache" / "jax" / jaxlib.__version__
CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
for entry in CACHE.iterdir():  # drawn shapes pile up: none lives a fortnight
  if entry.stat().st_mtime < time.time() - 14 * 86_400:
    entry.unlink(missing_ok=True)
for name, value in (
  ("jax_compilation_cache_dir", str(CACHE)),
  ("jax_persistent_cache_min_compile_time_secs", 0),
  ("jax_persistent_cache_min_entry_size_bytes", -1),
):
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)  # the processes that tests start

# Every jaxtyping annotation in mnist_jax is checked at each call from here on.
install_import_hook("mnist_jax", "beartype.beartype")

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_freed() -> Iterator[None]:
  """A worker would keep every program of every file: several GiB at the end."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture
def strict_promotion() -> Iterator[None]:
  """No silent promotion of types or ranks, as in Equinox's tests."""
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    yield


@pytest.fixture
def unchecked() -> Iterator[None]:
  """Without the check of annotations, as whoever hands over anything has it."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


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
