"""What an installation may lack is imported so that a line names its extra."""

import ast
import importlib.metadata
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_layering import MODULES, ROOT, place

from mnist_jax import range_test, runtime
from mnist_jax.runtime import extras

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWNERS = importlib.metadata.packages_distributions()


def brought(extra=None):
  """The names of what is installed with an extra, or without any."""
  lists = PROJECT["optional-dependencies"]
  asked = map(Requirement, lists[extra] if extra else PROJECT["dependencies"])
  found = set()
  for each in asked:
    if each.name == PROJECT["name"]:
      found.update(*map(brought, each.extras))
    else:
      found.add(canonicalize_name(each.name))
  return found


def imports(node, extra=None):
  """(package, extra of the block it stands in) of what is imported to run."""
  if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
    return
  if isinstance(node, ast.With):
    (call,) = (item.context_expr for item in node.items[:1])
    if ast.unparse(getattr(call, "func", call)) == "extras.needed":
      extra = call.args[0].value
  names = []
  if isinstance(node, ast.Import):
    names = [alias.name for alias in node.names]
  elif isinstance(node, ast.ImportFrom):
    names = [node.module]
  yield from ((name.partition(".")[0], extra) for name in names)
  for child in ast.iter_child_nodes(node):
    yield from imports(child, extra)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_what_may_be_missing_is_imported_where_its_extra_is_named(path):
  for name, extra in imports(ast.parse(path.read_text())):
    if name in sys.stdlib_module_names or name == PROJECT["name"]:
      assert extra is None, name
    else:
      assert set(map(canonicalize_name, OWNERS[name])) & brought(extra), name


def test_a_missing_package_is_one_line_with_its_extra():
  with pytest.raises(ImportError) as caught, extras.needed("studies"):
    import no_such_package.part  # noqa: F401
  assert isinstance(caught.value, runtime.InputError)
  assert caught.value.__suppress_context__
  assert str(caught.value) == (
    "no_such_package is not installed: pip install 'mnist_jax[studies]'"
  )


def test_other_failures_of_an_import_stay_as_they_are(tmp_path, monkeypatch):
  (tmp_path / "broken_package.py").write_text("from os import no_such_name")
  monkeypatch.syspath_prepend(tmp_path)
  with (
    pytest.raises(ImportError, match="no_such_name") as caught,
    extras.needed("train"),
  ):
    import broken_package  # noqa: F401
  assert not isinstance(caught.value, runtime.InputError)


@pytest.mark.parametrize("package", [runtime, range_test])
def test_a_name_that_comes_late_is_that_of_its_module(package):
  assert dir(package) == sorted(package.__all__)
  late = package._NEED_JAX
  for name in package.__all__:
    found = getattr(package, name)
    if name in late:
      assert found.__module__ == f"{package.__name__}.{late[name]}"
  told = f"module '{package.__name__}' has no attribute 'finds'"
  with pytest.raises(AttributeError, match=told):
    package.finds  # noqa: B018
