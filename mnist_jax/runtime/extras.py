"""What is loaded late, and packages that an installation may lack.

`pip install .` brings what pyproject.toml lists under `dependencies`. What
else is imported stands in a block that names its extra:

  with extras.needed("train"):
    import matplotlib
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mnist_jax.runtime.errors import InputError


def late(
  package: str, exported: list[str], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """`__getattr__` and `__dir__` of a package whose names are loaded late.

  That is when they are asked for (PEP 562).

  Args:
    exported: All names of the package, its `__all__`.
    homes: The late ones, and the module of the package that each comes from.
  """

  def load(name: str) -> Any:
    if name not in homes:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

  return load, lambda: exported


class MissingExtraError(ImportError, InputError):
  """A package that is not installed; the message names the extra with it."""


def missing(
  module: str, extra: str, project: str = "mnist_jax"
) -> MissingExtraError:
  """The error of a module that cannot be found, for someone to raise.

  Args:
    project: What pip is to install with the extra; "." in a clone.
  """
  package = module.partition(".")[0]
  return MissingExtraError(
    f"{package} is not installed: pip install '{project}[{extra}]'",
    name=module,
  )


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
  """Makes one line of an import in this block that finds no package.

  Args:
    extra: That of pyproject.toml which brings what is imported here.

  Raises:
    MissingExtraError: A package is not installed.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise missing(error.name or "a package", extra) from None
