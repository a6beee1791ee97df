"""The workers of a Dask scheduler, for the commands that run sweeps."""

import concurrent.futures as futures
import contextlib
import logging
from collections.abc import Iterator

from absl import flags

from mnist_jax.runtime import extras
from mnist_jax.runtime.errors import InputError

FLAGS = flags.FLAGS
_SECONDS = 20  # in which a scheduler has to answer


@contextlib.contextmanager
def executor() -> Iterator[futures.Executor | None]:
  """That of --scheduler; None without the flag.

  Raises:
    InputError: Nothing answers at the address.
  """
  if FLAGS.scheduler is None:
    yield None
    return
  with extras.needed("dask"):
    import distributed

  quieten()
  try:
    client = distributed.Client(FLAGS.scheduler, timeout=_SECONDS)
  except (OSError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise InputError(
      f"scheduler={FLAGS.scheduler}: no Dask scheduler answers ({reason})"
    ) from None
  try:
    # One block is not another, however alike they are.
    yield client.get_executor(pure=False)
  finally:
    with contextlib.suppress(OSError):  # of a scheduler that is gone
      client.close(timeout=_SECONDS)


def quieten() -> None:
  """Silences Dask's logs: what is lost is said once, by the sweep.

  Call it once `distributed` is imported, which gives its loggers own levels.
  """
  for name in ("distributed", *logging.root.manager.loggerDict):
    if name.partition(".")[0] == "distributed":
      logging.getLogger(name).setLevel(logging.CRITICAL)
