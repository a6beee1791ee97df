"""The ground under the rest: errors, files, devices, precision, versions.

Start with

  from mnist_jax import runtime
  runtime.use_all_cores()  # each CPU core a device; before jax is used
"""

import importlib
from typing import TYPE_CHECKING, Any

from mnist_jax.runtime.errors import InputError

if TYPE_CHECKING:
  from mnist_jax.runtime.devices import mesh, use_all_cores
  from mnist_jax.runtime.environment import describe
  from mnist_jax.runtime.precision import float64

__all__ = ["InputError", "describe", "float64", "mesh", "use_all_cores"]
_HOMES = {
  "describe": "environment",
  "float64": "precision",
  "mesh": "devices",
  "use_all_cores": "devices",
}


def __getattr__(name: str) -> Any:
  """What needs jax, loaded when asked for: figures and files do without."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
  return getattr(home, name)


def __dir__() -> list[str]:
  return __all__
