"""Devices as one axis over which independent work is spread."""

import contextlib
import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "members"


def cores() -> int:
  """The number of CPU cores that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_all_cores() -> int:
  """Makes each CPU core this process may use a device of its own.

  Two programs of one thread each do more than one of two threads. It has to
  come before anything asks jax for a device; afterwards it does nothing.

  Returns:
    The number of devices there are now, of whichever kind.
  """
  with contextlib.suppress(RuntimeError):  # the backend has started
    jax.config.update("jax_num_cpu_devices", cores())
  return jax.device_count()


def mesh(count: int | None = None) -> Mesh:
  """The first `count` devices of this process, all by default, on one axis."""
  devices = jax.local_devices()[:count]
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def spread(on: Mesh) -> NamedSharding:
  """Leading axes cut over the mesh."""
  return NamedSharding(on, PartitionSpec(AXIS))


def copied(on: Mesh) -> NamedSharding:
  """A whole copy for each device."""
  return NamedSharding(on, PartitionSpec())
