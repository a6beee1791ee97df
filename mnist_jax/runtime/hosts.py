"""One program as several processes, on one host or many.

  from mnist_jax.runtime import hosts
  place = hosts.find()  # on a TPU slice or under srun; None if alone
  team = hosts.join(place, terms={"batch_size": 128})
  ...  # jax.devices() are those of all processes
  team.finish()

JAX's own `jax.distributed` does the work. Beside it the processes watch one
another, and one that is lost is named in a line, within a stated time.
"""

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.runtime import _watch
from mnist_jax.runtime.errors import InputError

TIMEOUT = 60.0  # seconds
EXIT_LOST = 4
_CLUSTERS = ("slurm", "gcetpu", "gketpu")  # by JAX's names
_LONGEST = 4096  # bytes of a text that process 0 gives the others


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a process stands among those of its job."""

  coordinator: str  # HOST:PORT, of process 0; a port that is free there
  num_processes: int
  process_id: int

  def __post_init__(self) -> None:
    """Raises InputError for a place that cannot be."""
    host, _, port = self.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise InputError(f"coordinator={self.coordinator}: expected HOST:PORT")
    if self.num_processes < 1:
      raise InputError(
        f"num_processes={self.num_processes}: expected at least 1"
      )
    if not 0 <= self.process_id < self.num_processes:
      raise InputError(
        f"process_id={self.process_id}: expected 0 to "
        f"{self.num_processes - 1} with num_processes={self.num_processes}"
      )

  @property
  def address(self) -> tuple[str, int]:
    """Host and port of the coordinator."""
    host, _, port = self.coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def find(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  timeout: float = TIMEOUT,
) -> Place | None:
  """The place of this process; None where it is alone.

  Without arguments it is asked of SLURM (a step of `srun` with more than one
  task) and of Cloud TPU (a slice of more than one host).

  Args:
    num_processes: 1 alone means alone, whatever the cluster says.

  Raises:
    InputError: Some of the arguments and not all, or one out of range.
  """
  given = (coordinator, num_processes, process_id)
  if given == (None, None, None):
    return _of_cluster(timeout)
  if coordinator is None and num_processes == 1 and not process_id:
    return None
  if coordinator is None or num_processes is None or process_id is None:
    names = ("coordinator", "num_processes", "process_id")
    there = [
      f"{k}={v}" for k, v in zip(names, given, strict=True) if v is not None
    ]
    lacking = [k for k, v in zip(names, given, strict=True) if v is None]
    raise InputError(
      f"{', '.join(there)}: expected {' and '.join(lacking)} too"
    )
  place = Place(coordinator, num_processes, process_id)
  return place if num_processes > 1 else None


def _of_cluster(timeout: float) -> Place | None:
  """As JAX finds it; what it has for that is not public."""
  if "COLAB_RELEASE_TAG" in os.environ:  # one host, which may lack metadata
    return None
  known = importlib.import_module("jax._src.clusters").ClusterEnv._cluster_types
  for cluster in known:
    if getattr(cluster, "name", None) not in _CLUSTERS:  # not all have one
      continue
    with contextlib.suppress(OSError, ImportError):  # no metadata, no slice
      if cluster.is_env_present() and cluster.get_process_count() > 1:
        return Place(
          _coordinator(cluster, timeout),
          cluster.get_process_count(),
          cluster.get_process_id(),
        )
  return None


def _coordinator(cluster: Any, timeout: float) -> str:
  find_it = cluster.get_coordinator_address
  wanted = inspect.signature(find_it).parameters
  arguments = {
    "timeout_secs": timeout,
    "override_coordinator_port": os.environ.get("JAX_COORDINATOR_PORT"),
  }
  return str(find_it(**{k: v for k, v in arguments.items() if k in wanted}))


def _end(text: str) -> None:
  """The main thread may wait for ever, so nothing gentler would end."""
  os.write(2, f"error: {text}\n".encode())
  os._exit(EXIT_LOST)


class Team:
  """The processes of a job while they work; from `join`."""

  def __init__(self, place: Place, watch: _watch.Watch):
    """Use `join`."""
    self.place = place
    self._watch = watch

  def finish(self) -> None:
    """Waits for all, and leaves `jax.distributed`; the work is done."""
    self._watch.finish(self.place.process_id == 0)
    jax.distributed.shutdown()

  def fail(self, text: str) -> None:
    """Tells the others that this one ends early.

    They end with this line unless they fail by themselves within the timeout.
    """
    self._watch.fail(text)

  def wait_for_loss(self, error: Exception) -> None:
    """Gives the watch the time to name the process that is gone.

    For a collective that broke, usually since its other end was closed; with
    any other error it returns at once.
    """
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
      self._watch.wait()


def join(
  place: Place,
  *,
  terms: dict[str, Any] | None = None,
  timeout: float = TIMEOUT,
  on_loss: Callable[[str], None] = _end,
) -> Team:
  """Starts `jax.distributed` once all have come, before jax is used.

  Args:
    terms: What must be alike in all processes, as JSON can hold it.
    timeout: The seconds within which all must come; and afterwards those of
      silence, as of a process that is stopped, before it counts as lost. One
      that is killed is noticed at once.
    on_loss: Gets the line that names a process lost while the work goes on,
      in another thread than the main one. By default the line is printed and
      the program ends, with code 4.

  Raises:
    InputError: The port is taken, or the terms differ; with that name.
    LostPeerError: A process did not come.
  """
  terms = json.loads(json.dumps({**(terms or {}), "jax": jax.__version__}))
  host, port = place.address
  if place.process_id == 0:
    links = _watch.gather(port, place.num_processes, terms, timeout)
    service = _free_port()
    for link in links.values():
      link.send({"port": service})
    through, peers = service, list(links.values())
  else:
    link, answer = _watch.call(
      place.address, place.process_id, place.num_processes, terms, timeout
    )
    through, peers = _watch.relay((host, answer["port"])), [link]
  watch = _watch.Watch(peers, timeout, on_loss)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    f"127.0.0.1:{through}",
    place.num_processes,
    place.process_id,
    initialization_timeout=int(10 * timeout) + 100,
    # Only the watch is to end it.
    heartbeat_timeout_seconds=int(10 * timeout) + 100,
  )
  return Team(place, watch)


def _free_port() -> int:
  with socket.create_server(("", 0)) as server:
    return int(server.getsockname()[1])


def is_first() -> bool:
  """Whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def from_first(text: str) -> str:
  """The text of process 0, in all processes; each must call it."""
  if jax.process_count() == 1:
    return text
  raw = np.zeros(_LONGEST, np.uint8)
  own = np.frombuffer(text.encode(), np.uint8)
  raw[: len(own)] = own
  found = np.asarray(multihost_utils.broadcast_one_to_all(raw), np.uint8)
  return found.tobytes().rstrip(b"\0").decode()


def any_of(flag: bool) -> bool:
  """Whether it is true in any process; each must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())
