"""What a run runs on: versions, device, commit; no host names, no paths."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "optax", "orbax-checkpoint", "numpy", "mnist_jax")


def _git(*arguments: str) -> str | None:
  here = Path(__file__).parent
  # A hook's or a caller's GIT_DIR would speak of another repository.
  env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
  with contextlib.suppress(OSError, subprocess.SubprocessError):
    return subprocess.run(
      ["git", "-C", str(here), *arguments],
      env=env,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()
  return None


def git_revision() -> str | None:
  """The commit of this code, "-dirty" added if the checkout has changes.

  None without git, outside a checkout, or when the code is not tracked by the
  repository around it (installed in an environment inside another project).
  """
  if not _git("ls-files", "--error-unmatch", Path(__file__).name):
    return None
  revision = _git("rev-parse", "HEAD")
  if revision is None:
    return None
  return revision + ("-dirty" if _git("status", "--porcelain") else "")


def describe() -> dict[str, Any]:
  """What config.json says of where a run ran; it starts jax's backend.

  Returns:
    "versions" (package -> version, None where not installed), "device"
    (platform, kind, count over all processes, processes), "git_revision".
  """
  versions: dict[str, str | None] = {"python": platform.python_version()}
  for package in _PACKAGES:
    versions[package] = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  device = jax.devices()[0]
  return {
    "versions": versions,
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
    },
    "git_revision": git_revision(),
  }
