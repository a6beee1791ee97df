"""One model on several devices: eight of the host, in a process of their own.

The programs for CUDA and TPU are lowered here for eight devices as well.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mnist_jax import data
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import devices, loop

ROOT = Path(__file__).parents[2]

SETUP = """
import dataclasses, functools, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from mnist_jax import data, training
from mnist_jax.runtime import precision
from mnist_jax.training import devices, loop

bundled = data.load("bundled")
cut = lambda split, n: data.Split(*(x[:n] for x in split))
def dataset(train, dev):
  return dataclasses.replace(
    bundled, train=cut(bundled.train, train), dev=cut(bundled.dev, dev)
  )
small = dataset(203, 53)
SMALL = loop.TrainConfig((784, 8, 10), ("tanh",), batch_size=32)

def run(on, config=SMALL, dataset=small, dtype=np.float32, first=None, last=2,
        state=None, **kwargs):
  epochs = functools.partial(devices.epochs, on) if on else loop.epochs
  *_, (row, state) = epochs(
    config, dataset, loop.make_hparams(0, l2=1e-3, dtype=dtype),
    np.full(300, 0.3, dtype), state or loop.init_state(config, 0, dtype),
    seed=0, first=first, last=last, **kwargs
  )
  return row, jax.tree.map(np.asarray, state)

def mesh(n):
  return devices.mesh(devices.choose(n))

def distance(one, other):
  pairs = zip(*(jax.tree.leaves(x[1].params) for x in (one, other)))
  return max(np.abs(x - y).max() for x, y in pairs)

def rows_agree(one, other, tolerance=1e-5):
  (a, _), (b, _) = one, other
  assert [*a] == [*b]
  for name in a:
    close = a[name] == b[name] if "loss" not in name else (
      abs(a[name] - b[name]) < tolerance)
    assert close, (name, a[name], b[name])
"""


def in_eight(code):
  done = subprocess.run(
    [sys.executable, "-c", SETUP + code],
    cwd=ROOT,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_the_weights_are_those_of_one_device_to_rounding():
  # In float64 a wrong share, mask or mean is 1e-3 and rounding is 1e-15.
  in_eight("""
config = dataclasses.replace(SMALL, dropout_rate=0.2)
with precision.float64():
  alone = run(None, config, dtype=np.float64)
  for n in (3, 8):
    found = run(mesh(n), config, dtype=np.float64)
    rows_agree(found, alone, 1e-12)
    assert distance(found, alone) < 1e-13, (n, distance(found, alone))

alone, expected = run(None), run(mesh(4))
assert distance(run(mesh(1)), alone) == 0
assert 0 < distance(expected, alone) < 1e-6

explicit = Mesh(mesh(4).devices, ("x",), axis_types=(AxisType.Explicit,))
for around in (explicit, mesh(4)):
  with jax.set_mesh(around):
    found = run(around)
  assert distance(found, expected) == 0 and found[0] == expected[0]
""")


def test_odd_batches_and_sets():
  in_eight("""
replace = functools.partial(dataclasses.replace, SMALL)
for config, sets, kwargs in (
  (replace(batch_size=5), dataset(13, 1), {}),
  (replace(drop_last=True, optimizer="schedule_free"), small, {}),
  (SMALL, small, {"batch_size_at": lambda epoch: (1, 203)[epoch]}),
):
  alone = run(None, config, sets, **kwargs)
  found = run(mesh(3), config, sets, **kwargs)
  rows_agree(found, alone)
  assert distance(found, alone) < 1e-5
  assert found[1].step == alone[1].step
begun = run(mesh(3), last=1)[1]
whole = run(mesh(3))
again, elsewhere = run(mesh(3), state=begun, first=1), run(
  mesh(2), state=begun, first=1
)
assert distance(whole, again) == 0 and whole[0] == again[0]
rows_agree(whole, elsewhere)
assert distance(whole, elsewhere) < 1e-6
""")


def test_more_devices_than_there_are():
  there = jax.device_count()
  for wanted in (0, -1, there + 1, "some"):
    with pytest.raises(InputError, match=f"devices={wanted}: there "):
      devices.choose(wanted)
  assert devices.choose("all") == devices.choose(there) == jax.devices()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_programs_lower_for_eight_devices(platform):
  on = AbstractMesh((8,), (devices.AXIS,), axis_types=(AxisType.Auto,))
  config = loop.TrainConfig(dropout_rate=0.1, optimizer="adam")

  def shapes(tree, *axes):
    sharding = NamedSharding(on, PartitionSpec(*axes))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  split = data.Split(jnp.zeros((210, 784), jnp.uint8), jnp.zeros(210, int))
  state = shapes(loop.init_state(config, 0))
  plan = loop.plan_epoch(config, 0, 0, 210, np.full(2, 0.1, np.float32), 0)
  cut = shapes(plan[:2], None, devices.AXIS)
  plan = loop.EpochPlan(*cut, shapes(plan.learning_rates))
  hparams = shapes(loop.make_hparams(0))
  train, measure = devices.programs(on)
  for traced in (
    train.trace(config, state, shapes(split), plan, hparams),
    measure.trace(config, state, shapes(split)),
  ):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert re.search(r"num_partitions = 8", text)
    assert "dot_general" in text
