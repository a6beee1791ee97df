"""The chapter's network, its gradient check and its learning-rate studies."""

from typing import Any


def __getattr__(name: str) -> Any:
  """`__version__`, read when asked for."""
  if name != "__version__":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from importlib import metadata

  try:
    return metadata.version(__name__)
  except metadata.PackageNotFoundError:  # a checkout that is not installed
    return "unknown"
