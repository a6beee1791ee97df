"""Files replaced whole, and directories held by one process at a time."""

import contextlib
import errno
import fcntl
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"  # prefix of a file that is being written
# Of the Finder, Windows, KDE, Synology, NFS and FUSE.
_LITTER = re.compile(
  r"\.DS_Store|\._.*|\.AppleDouble|Icon\r|thumbs\.db|desktop\.ini"
  r"|\.directory|@eaDir|\.nfs.*|\.fuse_hidden.*",
  re.IGNORECASE,
)
# What fsync and flock say where the file system does not have them.
_NOT_THERE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def expanded(path: str | os.PathLike[str]) -> Path:
  """The path, `~` at its start taken for the home directory.

  A shell leaves it in --flag=~/x, and pandas expands it where Path does not.
  """
  return Path(os.path.expanduser(path))


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
  """Says the file in errors that lack it, as those of a full disk do."""
  try:
    yield
  except OSError as error:
    if error.filename is None:
      error.filename = str(path)
    raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A path to write to, which then takes the place of `path`.

  It has the same suffix and lies in the same directory. Both are flushed to
  the disk, so that a kill or a power cut leaves the old file or the new one.
  If the body raises, the old file stays.
  """
  temporary = path.with_name(TEMPORARY + path.name)
  try:
    with named(path):
      yield temporary
      flush(temporary)
    temporary.replace(path)
    flush(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
  """Replaces a file by this text, in UTF-8."""
  with replacing(path) as temporary:
    temporary.write_text(text, "utf-8")


def flush(path: Path) -> None:
  """Brings a file, or the names in a directory, to the disk.

  SMB, VirtualBox's folders and some of FUSE cannot do so for a directory, or
  for anything: there it is as safe as they are.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _NOT_THERE:
      raise
  finally:
    os.close(descriptor)


def is_litter(name: str) -> bool:
  """Whether file managers and file systems leave files so named anywhere."""
  return _LITTER.fullmatch(name) is not None


def take_lock(path: Path) -> int | None:
  """Locks a file, made if missing; None if another process holds it.

  Where the file system has no locks, nobody is kept out, and a warning says so.

  Returns:
    A descriptor: closing it, or the death of the process, gives up the lock.
  """
  lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _NOT_THERE:
      warnings.warn(
        f"{path.parent}: the file system has no locks, so make sure that no "
        "other process writes there",
        stacklevel=2,
      )
      return lock
    os.close(lock)
    if isinstance(error, BlockingIOError):
      return None
    raise
  return lock
