"""Checkpoints under SIGKILL, on other device counts, from two processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import two_processes

from mnist_jax.training.checkpoint import Checkpointer

ROOT = Path(__file__).parents[2]


# Children that restore and then save once. Each is killed at the next of the
# moments at which a save changes the directory (Python's audit events), until
# one gets through; the last ones at moments of the clock, which may fall into
# the writing itself. They are forked from a process that has imported
# everything but started nothing.
KILLED = """
import itertools, os, signal, sys, time, warnings
import numpy as np
import orbax.checkpoint
from pathlib import Path
from mnist_jax.training.checkpoint import Checkpointer
warnings.filterwarnings("ignore", message=".*fork")
directory, said = Path(sys.argv[1]), Path(sys.argv[2])
tree = lambda step: {"w": np.full(51450, step, np.float32)}
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copytree"}

def kill_at(moment):
  moments = itertools.count()
  def hook(event, args):
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if (event in CHANGES or writes) and next(moments) == moment:
      os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(hook)

def child(moment=None, seconds=None):
  with Checkpointer(directory) as checkpointer:
    restored = checkpointer.restore_newest(tree(0))
    step = restored.step if restored else 0
    if restored:
      assert (restored.tree["w"] == step).all()
      assert all("interrupted" in why for _, why in restored.rejected)
      assert step - int(said.read_text()) in (0, 1)
    said.write_text(str(step))
    if moment is not None:
      kill_at(moment)
    if seconds is not None:
      signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it as abruptly
      signal.setitimer(signal.ITIMER_REAL, seconds)
    checkpointer.save(step + 1, tree(step + 1), {"step": step + 1})

def run(**kwargs):
  if not (pid := os.fork()):
    try:
      child(**kwargs)
    except BaseException:
      import traceback
      traceback.print_exc()
      os._exit(1)
    os._exit(0)
  status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  assert status <= 0, kwargs
  return status

assert [run() for _ in range(4)] == [0] * 4
killed = 0
while run(moment=killed):
  killed += 1
for seconds in (0.002, 0.005, 0.008, 0.012):
  run(seconds=seconds)
print(killed)
"""


def run_python(script, *args, **env):
  return subprocess.run(
    [sys.executable, "-c", script, *map(str, args)],
    cwd=ROOT,
    env=os.environ | env,
    capture_output=True,
    text=True,
    check=False,
  )


def test_sigkill_at_any_moment_leaves_the_last_saved_step(tmp_path):
  directory, said = tmp_path / "checkpoints", tmp_path / "said"
  result = run_python(KILLED, directory, said)
  assert result.returncode == 0, result.stderr
  assert int(result.stdout) > 10  # mkdir, writes, rename, removals
  with Checkpointer(directory) as checkpointer:
    restored = checkpointer.restore_newest({"w": np.zeros(51450, np.float32)})
  assert restored.step - int(said.read_text()) in (0, 1)
  assert (restored.tree["w"] == restored.step).all()


DEVICES = """
import sys, jax, numpy as np
from pathlib import Path
from mnist_jax.training.checkpoint import Checkpointer, tree_digest
axis, spec = jax.sharding.AxisType.Auto, jax.sharding.PartitionSpec
x = np.arange(24, dtype=np.float32).reshape(8, 3)
with Checkpointer(Path(sys.argv[1])) as checkpointer:
  for step, count in enumerate((2, 4, 1)):
    devices = jax.devices()[:count]
    mesh = jax.make_mesh((count,), ("d",), axis_types=(axis,), devices=devices)
    sharding = jax.sharding.NamedSharding(mesh, spec("d"))
    target = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}
    if count == 2:
      checkpointer.save(1, {"x": jax.device_put(x, sharding)}, {})
    y = checkpointer.restore_newest(target).tree["x"]
    assert y.sharding == sharding
    np.testing.assert_array_equal(y, x)
    assert tree_digest({"x": y}) == tree_digest({"x": x})
"""


def test_restores_on_another_number_of_devices_without_a_word(tmp_path):
  flags = "--xla_force_host_platform_device_count=4"
  result = run_python(DEVICES, tmp_path, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


PROCESSES = """
import sys, jax, numpy as np
from pathlib import Path
directory, address, process = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(process))
from mnist_jax.training.checkpoint import Checkpointer, tree_digest, steps
axis, spec = jax.sharding.AxisType.Auto, jax.sharding.PartitionSpec
mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(axis,))
x = np.arange(24, dtype=np.float32).reshape(8, 3)
tree = {
  name: jax.make_array_from_callback(
    x.shape, jax.sharding.NamedSharding(mesh, spec(*axes)), lambda i: x[i]
  )
  for name, axes in {"replicated": (), "sharded": ("d",)}.items()
}
with Checkpointer(Path(directory)) as checkpointer:
  for step in (1, 2):
    checkpointer.save(step, tree, {"step": step})
    assert steps(Path(directory))[-1] == step
  restored = checkpointer.restore_newest(tree)
assert restored.step == 2
assert all(
  restored.tree[name].sharding == tree[name].sharding for name in tree
)
assert tree_digest(restored.tree) == tree_digest({k: x for k in tree})
print(jax.process_count(), "processes")
"""


def test_two_processes_save_one_checkpoint_and_both_restore_it(tmp_path):
  for code, out, err in two_processes.run(PROCESSES, tmp_path):
    assert code == 0, err
    assert "2 processes" in out
