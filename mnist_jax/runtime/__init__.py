"""The ground under the rest: errors, files, devices, precision, versions.

Start with

  from mnist_jax import runtime
  runtime.use_all_cores()  # each CPU core a device; before jax is used
"""

from typing import TYPE_CHECKING

from mnist_jax.runtime import extras
from mnist_jax.runtime.errors import InputError

if TYPE_CHECKING:
  from mnist_jax.runtime.devices import mesh, use_all_cores
  from mnist_jax.runtime.environment import describe
  from mnist_jax.runtime.precision import float64

__all__ = ["InputError", "describe", "float64", "mesh", "use_all_cores"]
_NEED_JAX = {
  "describe": "environment",
  "float64": "precision",
  "mesh": "devices",
  "use_all_cores": "devices",
}
__getattr__, __dir__ = extras.late(__name__, __all__, _NEED_JAX)
