"""What a start loads: heavy libraries come when they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
  "absl",
  "matplotlib",
  "optax",
  "orbax",
  "pandas",
  "PIL",
  "pyarrow",
  "scipy.ndimage",
  "scipy.optimize",
  "scipy.signal",
  "scipy.special",
  "scipy.stats",
  "tensorboardX",
  "tensorflow_datasets",
  "tqdm",
}
# In this order in one process: what a group may be the first to load.
GROUPS = {
  "mnist_jax.gradcheck mnist_jax.gradcheck.network mnist_jax.runtime "
  "mnist_jax.model mnist_jax.data mnist_jax.stats mnist_jax.analysis": "",
  "mnist_jax.schedules mnist_jax.training mnist_jax.range_test "
  "mnist_jax.sweep": "optax absl",
  "experiments.train experiments.replay": "tqdm",
  "experiments.lr_range_test experiments.gradient_check.__main__": "",
  "experiments.predict": "PIL",
  "mnist_jax.plotting": "matplotlib",
}


@pytest.fixture(scope="module")
def loaded():
  """All that has been loaded when a module is imported, by its name."""
  names = " ".join(GROUPS).split()
  program = "import sys\n" + "".join(
    f"import {name}\nprint('{name}', *sys.modules)\n" for name in names
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  lines = map(str.split, done.stdout.splitlines())
  return {name: set(modules) for name, *modules in lines}


@pytest.mark.parametrize("group", GROUPS)
def test_an_import_loads_no_heavy_library_that_it_can_do_without(loaded, group):
  place = list(GROUPS).index(group)
  allowed = " ".join(list(GROUPS.values())[: place + 1]).split()
  for name in group.split():
    assert loaded[name] & HEAVY <= set(allowed), name


def modules(name):
  """All that is loaded once a module is."""
  done = subprocess.run(
    [sys.executable, "-c", f"import {name}, sys; print(*sys.modules)"],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  return set(done.stdout.split())


def test_a_single_run_loads_neither_the_range_test_nor_sweeps():
  found = modules("experiments.train")
  assert not found & {"mnist_jax.range_test", "mnist_jax.sweep"}


@pytest.mark.parametrize(
  "name", ["mnist_jax.plotting.run", "mnist_jax.range_test.conclusion"]
)
def test_what_a_run_ends_with_needs_no_jax(name):
  """It is done by a process of its own, whose start is to cost little."""
  assert "jax" not in modules(name)


def test_a_range_test_is_concluded_without_waiting_for_a_library():
  found = modules("mnist_jax.range_test.conclusion")
  assert {"matplotlib", "scipy.stats"} <= found


def test_the_gradient_check_loads_jax_numpy_and_jaxtyping_alone():
  """And what these load, so that it may be put into anyone's tests."""
  program = """
import jax, jaxtyping, numpy, sys, wadler_lindig  # which jaxtyping loads late
import jax.numpy, numpy.random
before = {name.partition(".")[0] for name in sys.modules}
from mnist_jax import gradcheck
after = {name.partition(".")[0] for name in sys.modules}
print(*after - before - sys.stdlib_module_names)
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  assert done.stdout == "mnist_jax\n"
