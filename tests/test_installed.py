"""The wheel, in an environment that has nothing else of this project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
TESTS = """
import jax
import jax.numpy as jnp
import pytest

from mnist_jax import gradcheck

PARAMS = {"w": jnp.array([0.1, -0.4, 2.0])}


def loss_fn(params):
  return jnp.sum(jnp.tanh(params["w"]) ** 2)


def test_right():
  gradcheck.assert_gradients(loss_fn, PARAMS, jax.grad(loss_fn)(PARAMS))


def test_wrong():
  with pytest.raises(AssertionError, match="WRONG"):
    gradcheck.assert_gradients(loss_fn, PARAMS, PARAMS)
"""
FIND = """
import jax.numpy as jnp
import optax
from mnist_jax import range_test

found = range_test.find(
  lambda params, batch: jnp.mean((params - batch) ** 2),
  jnp.zeros(5),
  [jnp.ones((32, 5)), jnp.ones((7, 5))],
  make_optimizer=optax.adam,
)
assert 1e-4 < found.rate < 10, found
"""
SHIPPED = """
import importlib.util
from importlib import resources
import mnist_jax
from mnist_jax import data

assert importlib.util.find_spec("experiments") is None
assert (resources.files(mnist_jax) / "py.typed").is_file()
assert len(data.load().train.labels) == 55000
"""
# What a user without extras may try, the package missed and the extra.
MISSED = {
  "from mnist_jax import plotting": ("matplotlib", "train"),
  FIND + "found.plot()": ("matplotlib", "train"),
  "from mnist_jax.data import picture": ("PIL", "train"),
  "from mnist_jax.training import checkpoint as c; c.Checkpointer('runs')": (
    "orbax",
    "train",
  ),
  "from mnist_jax.training import events as e; e.EventWriter('runs', 0)": (
    "tensorboardX",
    "train",
  ),
  "from mnist_jax import sweep as s; s.run(s.product(), s.Budget(epochs=1))": (
    "pandas",
    "studies",
  ),
  "from mnist_jax import sweep; sweep.replay({})": ("pandas", "studies"),
  "from mnist_jax import data; data.load('tfds', data_dir='none')": (
    "tensorflow_datasets",
    "tfds",
  ),
}
ASK = """
for program in {programs}:
  try:
    exec(program, {{}})
  except ImportError as error:
    print(error)
"""


def run(*line, cwd, **more):
  """Its output, of a command that succeeds."""
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    list(map(str, line)),
    cwd=cwd,
    env=environment | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def pinned():
  """The versions of the lock that this Python takes, as constraints."""
  lock = (ROOT / "requirements.lock").read_text()
  lines = re.findall(r"^(\S+==[^\\\n]+)", lock, re.M)
  asked = map(Requirement, lines)
  return [
    f"{each.name}{each.specifier}\n"
    for each in asked
    if each.marker is None or each.marker.evaluate()
  ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with an environment, venv, with the wheel and pytest in it."""
  folder = tmp_path_factory.mktemp("installed")
  source = folder / "source"
  shutil.copytree(
    ROOT / "mnist_jax",
    source / "mnist_jax",
    ignore=shutil.ignore_patterns("__pycache__"),
  )
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  run(*PIP, "wheel", "--no-deps", "--wheel-dir=wheel", "./source", cwd=folder)
  run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
  (folder / "constraints.txt").write_text("".join(pinned()))
  run(
    *(*PIP, "--python=venv/bin/python", "install"),
    *("--constraint=constraints.txt", "pytest"),
    *(folder / "wheel").glob("*.whl"),
    cwd=folder,
  )
  return folder


def python(folder, *arguments):
  return run("venv/bin/python", *arguments, cwd=folder)


def test_it_brings_what_it_needs_and_no_extra(folder):
  listed = run(*PIP, "--python=venv/bin/python", "freeze", cwd=folder)
  found = set(map(canonicalize_name, re.findall(r"^[\w.-]+", listed, re.M)))
  core, *extras = (
    {canonicalize_name(Requirement(text).name) for text in texts}
    for texts in (
      PROJECT["dependencies"],
      *PROJECT["optional-dependencies"].values(),
    )
  )
  assert core < found
  assert set.union(*extras) & found <= {"mnist-jax", "absl-py"}  # optax's own


def test_its_gradient_check_serves_in_a_test_of_pytest(folder):
  (folder / "test_mine.py").write_text(TESTS)
  said = python(folder, "-m", "pytest", "-q", "-W", "error", "test_mine.py")
  assert "2 passed" in said


def test_its_range_test_finds_a_rate_with_optax(folder):
  python(folder, "-c", FIND)


def test_it_has_mnist_and_types_and_no_experiments(folder):
  python(folder, "-c", SHIPPED)


def test_a_missing_extra_is_named_in_one_line(folder):
  said = python(folder, "-c", ASK.format(programs=list(MISSED)))
  assert said.splitlines() == [
    f"{package} is not installed: pip install 'mnist_jax[{extra}]'"
    for package, extra in MISSED.values()
  ]
