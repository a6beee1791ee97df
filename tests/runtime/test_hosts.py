"""Where a process stands, and jobs of two real processes over gloo."""

import pytest
import two_processes

from mnist_jax.runtime import hosts
from mnist_jax.runtime.errors import InputError

SLURM = {
  "SLURM_JOB_ID": "4097",
  "SLURM_STEP_NODELIST": "node[07-09],node12",
  "SLURM_NTASKS": "4",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
  for name in (*SLURM, "COLAB_RELEASE_TAG"):
    monkeypatch.delenv(name, raising=False)


def test_alone():
  assert hosts.find() is None
  assert hosts.find(num_processes=1) is None
  assert hosts.find("a:1", 1, 0) is None


def test_as_it_was_given():
  place = hosts.find("[::1]:80", 3, 2)
  assert place == hosts.Place("[::1]:80", 3, 2)
  assert place.address == ("::1", 80)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ((None, 2, None), "num_processes=2: expected coordinator and process_id"),
    (("a:1", 2, None), "coordinator=a:1, num_processes=2: expected process_id"),
    (("a", 2, 0), "coordinator=a: expected HOST:PORT"),
    (("a:70000", 2, 0), "coordinator=a:70000: expected HOST:PORT"),
    (("a:1", 0, 0), "num_processes=0: expected at least 1"),
    (("a:1", 2, 2), "process_id=2: expected 0 to 1 with num_processes=2"),
    (("a:1", 2, -1), "process_id=-1: expected 0 to 1"),
  ],
)
def test_what_cannot_be(given, message):
  with pytest.raises(InputError, match=message):
    hosts.find(*given)


def test_a_step_of_slurm_is_found(monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  place = hosts.find()
  assert (place.num_processes, place.process_id) == (4, 2)
  assert place.address == ("node07", 65535 - 4096 + 1 + 4097 % 4096)
  monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
  assert hosts.find() is None
  monkeypatch.delenv("COLAB_RELEASE_TAG")
  monkeypatch.setenv("SLURM_NTASKS", "1")
  assert hosts.find() is None


JOIN = """
import os, signal, sys
import jax
directory, address, process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
from mnist_jax.runtime import hosts
process = int(process)
team = hosts.join(
  hosts.find(address, 2, process), terms={"sizes": (3, 2)}, timeout=20
)
"""
TRAINED = (
  JOIN
  + """
import dataclasses
import numpy as np
from mnist_jax import data, training
from mnist_jax.training import checkpoint, devices, loop
assert jax.device_count() == 4 and jax.process_count() == 2
assert hosts.from_first(f"text of {process}") == "text of 0"
assert hosts.any_of(process == 1) and not hosts.any_of(False)
config = loop.TrainConfig((784, 8, 10), ("tanh",), dropout_rate=0.2)
bundled = data.take(data.load("bundled"), 203)
dataset = dataclasses.replace(
  bundled, dev=data.Split(*(x[:51] for x in bundled.dev))
)
def run(epochs, **kwargs):
  state = loop.init_state(config, 0)
  *_, (row, state) = epochs(
    config, dataset, loop.make_hparams(0), np.full(4, 0.3, np.float32),
    state, seed=0, last=2, **kwargs
  )
  return row, jax.tree.map(np.asarray, state.params)
row, params = run(
  lambda *a, **k: devices.epochs(devices.mesh(devices.choose("all")), *a, **k)
)
alone, expected = run(loop.epochs)
jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
             params, expected)
assert [*row] == [*alone]
assert row.pop("dev_accuracy") == alone.pop("dev_accuracy")
np.testing.assert_allclose([*row.values()], [*alone.values()], rtol=1e-5)
print(checkpoint.tree_digest(params))
team.finish()
"""
)
LOST = (
  JOIN
  + """
hosts.any_of(True)
if process == 0:
  os.kill(os.getpid(), signal.SIGKILL)
try:
  while True:
    hosts.any_of(True)
except Exception as error:
  team.wait_for_loss(error)
raise SystemExit("nobody was missed")
"""
)


def test_two_processes_train_as_one_does(tmp_path):
  (code, out, err), (other, same, more) = two_processes.run(TRAINED, tmp_path)
  assert (code, other) == (0, 0), (err, more)
  assert out.splitlines()[-1] == same.splitlines()[-1]  # to the bit


def test_a_killed_process_0_is_named_in_one_line(tmp_path):
  (code, *_), (other, _, said) = two_processes.run(LOST, tmp_path)
  assert (code, other) == (-9, hosts.EXIT_LOST), said
  lines = [line for line in said.splitlines() if "[Gloo]" not in line]
  assert len(lines) == 1
  assert lines[0].startswith("error: process 0 on localhost is lost: ")
