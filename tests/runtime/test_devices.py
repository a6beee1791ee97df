"""Devices as one axis, and CPU cores as devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from mnist_jax.runtime import devices

CODE = """
import os
from mnist_jax.runtime import devices
import jax
import numpy as np
cores = len(os.sched_getaffinity(0))
assert devices.use_all_cores() == cores == jax.device_count()
assert devices.use_all_cores() == cores  # too late, and no error
mesh = devices.mesh()
assert mesh.size == cores and mesh.axis_names == (devices.AXIS,)
x = jax.device_put(np.arange(2 * cores), devices.spread(mesh))
assert [s.data.shape for s in x.addressable_shards] == [(2,)] * cores
y = jax.device_put(np.arange(3), devices.copied(mesh))
assert [s.data.shape for s in y.addressable_shards] == [(3,)] * cores
assert devices.mesh(1).size == 1
print("good", cores)
"""


def test_every_core_becomes_a_device():
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    cwd=Path(__file__).parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.startswith("good"), done.stderr


def test_after_the_start_the_devices_stay():
  before = jax.device_count()
  assert devices.use_all_cores() == before
  assert devices.mesh().size == len(jax.local_devices())
  one = devices.mesh(1)
  x = jax.device_put(np.arange(3), devices.spread(one))
  assert x.sharding.is_equivalent_to(devices.spread(one), 1)
