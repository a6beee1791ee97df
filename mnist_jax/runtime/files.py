"""Files replaced whole, and directories held by one process at a time."""

import contextlib
import errno
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

TEMPORARY = ".tmp-"  # prefix of a file that is being written
# Older than any that is still being written, the clocks of two machines aside.
_STALE = 86_400  # seconds
# Of the Finder, Windows, KDE, Synology, NFS and FUSE.
_LITTER = re.compile(
  r"\.DS_Store|\._.*|\.AppleDouble|Icon\r|thumbs\.db|desktop\.ini"
  r"|\.directory|@eaDir|\.nfs.*|\.fuse_hidden.*",
  re.IGNORECASE,
)
# What fsync and locks say where the file system does not have them.
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

  It has the same suffix and lies in the same directory, under a name that no
  other writer has. Both are flushed to the disk, so that a kill or a power cut
  leaves the old file or the new one. If the body raises, the old file stays.
  """
  own = secrets.token_hex(8)
  temporary = path.with_name(f"{TEMPORARY}{own}-{path.name}")
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


def remove_stale(folder: Path) -> None:
  """Removes what writers that were killed left in a directory.

  Age alone tells: a younger file may be another writer's, on this machine or
  on another one.
  """
  for left in folder.glob(f"{TEMPORARY}*"):
    with contextlib.suppress(FileNotFoundError):  # another one removes it too
      if left.stat().st_mtime < time.time() - _STALE:
        left.unlink()


def take_lock(path: Path) -> filelock.BaseFileLock | None:
  """Locks a file, made if missing; None if another process holds it.

  Where the file system has no locks, nobody is kept out, and a warning says so.

  Returns:
    The lock: `release` gives it up, and so does the death of the process.
  """
  lock = filelock.FileLock(path, thread_local=False)
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    return None
  except OSError as error:
    if error.errno not in _NOT_THERE:
      raise
    warnings.warn(
      f"{path.parent}: the file system has no locks, so make sure that no "
      "other process writes there",
      stacklevel=2,
    )
  return lock
