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
    package = (error.name or "a package").partition(".")[0]
    raise MissingExtraError(
      f"{package} is not installed, expected it here: "
      f"pip install 'mnist_jax[{extra}]'",
      name=error.name,
    ) from None
