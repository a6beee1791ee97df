"""Packages that an installation may lack, and the extra that brings them.

`pip install .` brings what pyproject.toml lists under `dependencies`. What
else is imported stands in a block that names its extra:

  with extras.needed("train"):
    import matplotlib
"""

import contextlib
from collections.abc import Iterator

from mnist_jax.runtime.errors import InputError


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
