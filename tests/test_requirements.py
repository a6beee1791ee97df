"""The ranges of requirements.txt: pyproject's, a Colab image's, the locks'."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = next(p for p in Path(__file__).parents if (p / "Makefile").exists())
CORE = {"filelock", "jax", "jaxtyping", "numpy", "optax", "scipy"}
LOCKS = ("requirements.lock", "requirements-oldest.lock")

# The TPU runtime 2026.01 as Google publishes it (googlecolab/backend-info at
# bd8aaa4, pip-freeze.tpu.txt); the CPU and GPU runtime differs in pillow and
# pyarrow, which are older there.
PYTHON = "3.12"
IMAGE = {
  "absl-py": "1.4.0",
  "array-record": "0.8.3",
  "filelock": "3.32.0",  # that of the image of August 2026
  "importlib-resources": "6.5.2",
  "jax": "0.7.2",
  "matplotlib": "3.10.0",
  "numpy": "2.0.2",
  "optax": "0.2.6",
  "orbax-checkpoint": "0.11.31",
  "pandas": "2.2.2",
  "pillow": "11.3.0",
  "pyarrow": "18.1.0",
  "scipy": "1.16.3",
  "tensorflow-datasets": "4.9.9",
  "tqdm": "4.67.1",
}
# What pip has to bring. The image of August 2026 (Python 3.13; jax and absl-py
# as above) has no importlib_resources any more either.
LACKED = {"distributed", "jaxtyping", "tensorboardx"}
LACKED_IN_AUGUST = LACKED | {"importlib-resources"}


def listed():
  """The lines of requirements.txt."""
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  texts = (line.split("#")[0].strip() for line in lines)
  return [Requirement(text) for text in texts if text]


def requirements(python=PYTHON):
  """What requirements.txt asks of a Python, by name: a list of ranges."""
  found = {}
  for asked in listed():
    environment = {"python_version": python}
    if asked.marker is None or asked.marker.evaluate(environment):
      name = canonicalize_name(asked.name)
      found.setdefault(name, []).append(asked.specifier)
  return found


def test_the_library_and_its_extras_are_what_is_listed():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  core, extras = project["dependencies"], project["optional-dependencies"]
  assert {Requirement(text).name for text in core} == CORE
  asked = {Requirement(text) for text in sum(extras.values(), core)}
  own = {each for each in asked if each.name == project["name"]}
  assert asked - own == set(listed())
  assert all(each.extras <= set(extras) for each in own)


def test_a_colab_image_is_kept_and_lacks_few_packages():
  asked = requirements()
  assert set(asked) - set(IMAGE) == LACKED
  assert set(requirements("3.13")) >= LACKED_IN_AUGUST
  for name, version in IMAGE.items():
    for specifier in asked[name]:
      assert version in specifier, f"the image's {name} {version} is replaced"


def test_orbax_stays_below_its_other_interface():
  assert not any("1.0" in s for s in requirements()["orbax-checkpoint"])


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_oldest_tests_run_on_the_floors(python):
  """Lowest versions: a floor that was never run is a guess."""
  lock = (ROOT / "requirements-oldest.lock").read_text()
  for name, specifiers in requirements(python).items():
    floors = [
      s.version for one in specifiers for s in one if s.operator == ">="
    ]
    pinned = re.findall(rf"^{name}==(\S+)", lock, re.M)
    floor = max(floors, key=lambda text: list(map(int, text.split("."))))
    assert any(f"{version}.".startswith(f"{floor}.") for version in pinned), (
      name
    )


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_index_and_no_place(name):
  lock = (ROOT / name).read_text()
  assert "--hash=sha256:" in lock
  assert "://" not in lock
  assert not re.search(r"(^|\s|=)[~/]", lock)
