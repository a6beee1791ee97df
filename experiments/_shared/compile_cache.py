"""Programs compiled by earlier commands, kept in a directory of this user.

JAX's own persistent cache keeps them; here is where, and for whom. A program
that comes out of it is the machine code that was put in, so results are the
same bit for bit. JAX's key has the version of XLA and the kind of processor in
it, but not the number of cores, on which the code depends as well.
"""

import functools
import os
import re
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jaxlib
from absl import flags

from mnist_jax.runtime import devices
from mnist_jax.runtime.errors import InputError

FLAG = "compile_cache"
LIMIT = 64 * 2**20  # bytes; a program takes 6 KB
_FAILED = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '(.*?)': "
  r"(.*)",
  re.DOTALL,
)

flags.DEFINE_boolean(FLAG, True, "reuse what earlier commands compiled")


def use() -> None:
  """Turns the cache on, before anything is compiled.

  It does nothing where jax has a directory already, as by
  JAX_COMPILATION_CACHE_DIR. Where there can be no cache, a line on stderr says
  why.
  """
  if jax.config.values["jax_compilation_cache_dir"] is not None:
    return
  try:
    root = _root()
    place = _made(root / f"jaxlib-{jaxlib.__version__}-{devices.cores()}-cores")
    _prune(root)
  except (InputError, OSError, RuntimeError) as error:
    _say(str(error))
    return
  _mend(place)
  jax.config.update("jax_compilation_cache_dir", str(place))
  # The many small programs of a start take most of its time.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@functools.cache  # a full disk is one line, not one for each program
def _say(why: str) -> None:
  print(f"programs are not kept for the next command: {why}", file=sys.stderr)


def _root() -> Path:
  """Where the XDG specification has it, which passes over relative paths.

  Raises:
    RuntimeError: This user has no home directory.
  """
  base = Path(os.environ.get("XDG_CACHE_HOME", ""))
  if not base.is_absolute():
    base = Path("~/.cache").expanduser()
  return base / "mnist_jax" / "compiled"


def _made(path: Path) -> Path:
  """The directory, made if missing, its path free of symbolic links.

  What is in it is run, so nobody else may be able to change or exchange it.

  Raises:
    InputError: Somebody else is.
    OSError: It cannot be made.
  """
  before = os.umask(0o077)
  try:
    path.mkdir(parents=True, exist_ok=True)
  finally:
    os.umask(before)
  path = path.resolve(strict=True)
  for place in (path, *path.parents):
    found = place.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.getuid()):
      raise InputError(f"{place} belongs to user {found.st_uid}")
    if place == path and mode & 0o077:
      raise InputError(f"{place} has mode {mode:o}, expected 700")
    if mode & 0o022 and not mode & stat.S_ISVTX:
      raise InputError(f"{place} has mode {mode:o}: others can write to it")
  return path


def _prune(root: Path) -> None:
  """Removes what was read longest ago, until the rest is within the limit."""
  found = []
  for folder, _, names in os.walk(root):
    for name in names:
      path = Path(folder, name)
      try:
        status = path.lstat()
      except FileNotFoundError:  # another process prunes as well
        continue
      found.append((status.st_atime, status.st_size, path))
  total = 0
  for _, size, path in sorted(found, reverse=True):
    total += size
    if total > LIMIT:
      path.unlink(missing_ok=True)


def _mend(place: Path) -> None:
  """Has JAX's warnings of unreadable entries mended instead of shown.

  A kill or a full disk leaves half an entry, and JAX does not replace what is
  there: it would warn, and compile, in every later run. Its warning comes
  before it compiles, so that it files a new entry in this one.
  """
  show = warnings.showwarning

  def shown(message: Warning | str, *where: Any, **more: Any) -> None:
    failed = _FAILED.fullmatch(str(message))
    if failed is None:
      show(message, *where, **more)
      return
    what, name, why = failed.groups()
    for path in place.glob(f"{name}-*"):
      path.unlink(missing_ok=True)
    if what == "writing":
      _say(why)

  warnings.showwarning = shown
