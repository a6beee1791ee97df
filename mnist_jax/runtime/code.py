"""What a file of Python does, as a digest, and which files it rests on.

Comments, docstrings, layout and import lines do not count: a file that moves
does what it did. What it imports counts by itself.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_DIGITS = 12  # hexadecimal
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


class _Stripped(ast.NodeTransformer):
  """Takes docstrings and imports out of a syntax tree."""

  def visit_Import(self, node: ast.AST) -> None:
    return None

  visit_ImportFrom = visit_Import

  def generic_visit(self, node: ast.AST) -> ast.AST:
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False):
      node.body = node.body[1:] or [ast.Pass()]
    return super().generic_visit(node)


def digest(paths: Iterable[Path]) -> str:
  """12 hex digits over what these files do, in the order given."""
  total = hashlib.sha256()
  for path in paths:
    tree = _Stripped().visit(ast.parse(path.read_text("utf-8")))
    total.update(ast.dump(tree).encode())
  return total.hexdigest()[:_DIGITS]


def imported(path: Path, root: Path) -> Iterator[Path]:
  """The files below `root` that a file imports, in functions too.

  No import in them is relative (`tests/test_layering.py`). A package is its
  `__init__.py`, and so is each package on the way to a module, since Python
  runs those as well.
  """
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      yield from _files(name.split("."), root)


def _files(parts: list[str], root: Path) -> Iterator[Path]:
  place = root
  for part in parts:
    module, place = place / f"{part}.py", place / part
    if (place / "__init__.py").is_file():
      yield place / "__init__.py"
    elif module.is_file():
      yield module


def rests_on(path: Path, root: Path) -> list[Path]:
  """The file itself and all files below `root` behind its imports, sorted."""
  todo, seen = [path], set()
  while todo:
    file = todo.pop()
    if file not in seen:
      seen.add(file)
      todo += imported(file, root)
  return sorted(seen)
