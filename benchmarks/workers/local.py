"""A Dask scheduler and its workers, as processes of this machine."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  # Blocks are no longer than their training, so that a kill hits that.
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@contextlib.contextmanager
def process(*line: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
  """A process that ends with the block."""
  with subprocess.Popen(
    [sys.executable, "-m", *line],
    env={**os.environ, **env},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as running:
    try:
      yield running
    finally:
      running.kill()


def scheduler(folder: Path) -> contextlib.AbstractContextManager[object]:
  """Its address is in folder/scheduler.json when it listens."""
  file = folder / "scheduler.json"
  return process(
    "distributed.cli.dask_scheduler",
    "--port=0",
    "--no-dashboard",
    "--host=127.0.0.1",
    f"--scheduler-file={file}",
  )


def worker(
  folder: Path, name: str = "0"
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
  """One process of one thread, and no nanny to start it again."""
  return process(
    "distributed.cli.dask_worker",
    f"--scheduler-file={folder / 'scheduler.json'}",
    f"--name={name}",
    "--nthreads=1",
    "--no-nanny",
    "--no-dashboard",
    "--memory-limit=0",
    f"--local-directory={folder}",
    JAX_COMPILATION_CACHE_DIR=str(folder / "cache"),
    **ENVIRONMENT,
  )
