"""The flags of many devices and hosts, and how a program on them ends."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import runtime
from mnist_jax.runtime import hosts
from mnist_jax.runtime.errors import LostPeerError
from mnist_jax.training import devices

FLAGS = flags.FLAGS
ALL = "all"


class _DevicesParser(flags.ArgumentParser):
  """A number of devices, or the word all."""

  syntactic_help = "a whole number or all"

  def parse(self, argument: str | int) -> str | int:
    text = str(argument)
    if text == ALL:
      return ALL
    if not text.isdecimal() or int(text) < 1:
      raise ValueError(f"must be a whole number >= 1, or {ALL}")
    return int(text)


def use() -> None:
  """Gives the calling experiment the flags."""
  flags.DEFINE(
    _DevicesParser(),
    "devices",
    None,
    "that share a batch, or all (default: 1, or all of several processes)",
    serializer=flags.ArgumentSerializer(),
  )
  flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0 (default: from the cluster)"
  )
  flags.DEFINE_integer("num_processes", None, "processes that share the run")
  flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
  flags.DEFINE_float(
    "peer_timeout",
    hosts.TIMEOUT,
    "seconds until a process that does not come, or is silent, is lost",
    lower_bound=1,
  )
  for name in (
    "devices",
    "coordinator",
    "num_processes",
    "process_id",
    "peer_timeout",
  ):
    shared.list_in_help(name)


def mesh() -> Mesh | None:
  """The devices that --devices asks for; None for one, as without the flag.

  Raises:
    InputError: More than there are.
  """
  wanted = FLAGS.devices or (ALL if jax.process_count() > 1 else 1)
  if wanted == 1 and jax.process_count() == 1:
    return None
  return devices.mesh(devices.choose(wanted))


def _make_cores_devices() -> None:
  """CPU cores as devices, unless the user has set their number."""
  set_by_user = "xla_force_host_platform_device_count" in os.environ.get(
    "XLA_FLAGS", ""
  )
  number: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
  if number < 0 and not set_by_user:
    runtime.use_all_cores()


@contextlib.contextmanager
def joined(terms: dict[str, Any]) -> Iterator[None]:
  """With the other processes of the job, if there are any.

  Of several, one that fails ends here: what JAX does at the exit waits for
  the others.

  Args:
    terms: What must be alike in all.
  """
  timeout = FLAGS.peer_timeout
  place = hosts.find(
    FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, timeout=timeout
  )
  if FLAGS.devices not in (None, 1) or (place and FLAGS.devices is None):
    _make_cores_devices()
  if place is None:
    yield
    return
  terms = {**terms, "devices": FLAGS.devices}
  try:
    team = hosts.join(place, terms=terms, timeout=timeout)
  except LostPeerError as error:
    app.fail(str(error), hosts.EXIT_LOST)
  code: Any = 1
  try:
    with app.mistakes_told():
      yield
    team.finish()
    return
  except SystemExit as end:
    code = end.code
  except Exception as error:  # a collective that another left, or a bug
    team.wait_for_loss(error)
    traceback.print_exc()
  team.fail(f"process {place.process_id} ended with exit code {code}")
  sys.stdout.flush()
  os._exit(code if isinstance(code, int) else 1)
