"""The order of the packages, their fences and their front doors.

The list reads from the ground up: a package imports only from lines above its
own, and from itself.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "mnist_jax"
ORDER = [
  "runtime",
  "model",
  "plotting",
  "data",
  "stats",
  "schedules",
  "gradcheck",
  "training",
  "analysis",
  "range_test",
  "sweep",
]
# Who may import what is slow, large or global.
FENCES = {
  "tensorflow_datasets": {"data/tfds"},
  "tensorflow": {"data/tfds"},
  "array_record": {"data/tfds"},
  "orbax": {"training/checkpoint"},
  "tensorboardX": {"training/events"},
  "matplotlib": {"plotting/axes"},
  "absl": {"data/tfds", "training/checkpoint"},  # to quieten it
  "dask": set(),
  "distributed": set(),
  "experiments": set(),
}
# They must not import their figures, nor gradcheck any model.
LIGHT = {"sweep": "plotting", "range_test": "plotting"}
APART = ("gradcheck/network/", "gradcheck/faults/")
MOST_ENTRIES = 13
MOST_LINES = 600

MODULES = sorted(LIBRARY.rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def place(path):
  return path.relative_to(LIBRARY).with_suffix("").as_posix()


def entries(folder):
  return [p for p in folder.iterdir() if p.name not in ("__pycache__",)]


def imports(path):
  """Dotted names of all imports in a file, those inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path):
  """The packages of the library that a file imports from."""
  for name in imports(path):
    head, _, rest = name.partition(".")
    if head == "mnist_jax":
      yield rest.split(".")[0]


def test_the_order_names_every_package():
  found = {p.parent.name for p in LIBRARY.glob("*/__init__.py")}
  assert found == set(ORDER)
  assert {p.name for p in LIBRARY.glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_imports_only_from_packages_above(path):
  own = path.relative_to(LIBRARY).parts[0]
  for name in packages(path):
    if own in ORDER and name != own:
      assert ORDER.index(name) < ORDER.index(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_fences(path):
  for name in imports(path):
    for fenced, allowed in FENCES.items():
      if f"{name}.".startswith(f"{fenced}."):
        assert place(path) in allowed, f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_gradcheck_knows_no_model(path):
  here = place(path)
  if here.startswith("gradcheck/") and not here.startswith(APART):
    assert set(packages(path)) <= {"gradcheck", "runtime"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_share_only_what_is_shared(path):
  inside = path.relative_to(ROOT / "experiments").parts
  allowed = {"_shared", inside[0]}
  if inside[0] == "chapter.py":  # runs them all and ends with the table
    allowed |= {"claims", "report"}
  if inside[0] == "report":  # shows what the claims came to
    allowed.add("claims")
  for name in imports(path):
    if name.startswith("experiments."):
      assert name.split(".")[1] in allowed, name
    assert not name.startswith("matplotlib")


def test_no_work_at_import():
  """Top levels hold definitions, constants and docstrings, no loose calls."""
  for path in MODULES:
    for node in ast.parse(path.read_text()).body:
      loose = isinstance(node, ast.Expr) and not isinstance(
        node.value, ast.Constant
      )
      assert not loose, f"{place(path)}:{node.lineno}"


@pytest.mark.parametrize("name", ORDER)
def test_a_package_lists_what_it_exports(name):
  """A docstring with an example, the exports, and every one documented."""
  package = importlib.import_module(f"mnist_jax.{name}")
  assert f"import {name}" in package.__doc__
  for export in package.__all__:
    found = getattr(package, export)
    if callable(found) and getattr(found, "__module__", "").startswith(
      "mnist_jax"
    ):
      assert found.__doc__, f"{name}.{export}"


@pytest.mark.parametrize("name", LIGHT)
def test_a_package_does_not_import_its_figures(name):
  seen, todo = set(), [f"mnist_jax/{name}/__init__.py"]
  while todo:
    path = todo.pop()
    if path in seen:
      continue
    seen.add(path)
    for dotted in imports(ROOT / path):
      stem = dotted.rpartition(".")[0].replace(".", "/")
      if stem.startswith(f"mnist_jax/{name}/"):
        todo.append(f"{stem}.py")
  assert f"mnist_jax/{name}/figures.py" not in seen


def test_folders_and_files_are_of_a_size_to_be_read():
  # experiments/ itself has an entry for each command.
  inside = (p for p in (ROOT / "experiments").rglob("*") if p.is_dir())
  for folder in {*(path.parent for path in MODULES), *inside}:
    assert len(entries(folder)) <= MOST_ENTRIES, folder
  for path in (*MODULES, *EXPERIMENTS):
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{path}: {lines} lines"


def test_tests_mirror_the_tree():
  homes = {*ORDER, "experiments", "__pycache__", "benchmarks", "gradcheck"}
  for path in (ROOT / "tests").iterdir():
    if path.is_dir():
      assert path.name in homes, path
