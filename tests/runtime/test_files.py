"""Files reach the disk, also where the file system does less than others."""

import errno
import fcntl
import os
import stat

import pytest

from mnist_jax.runtime import files


def failing_fsync(number, of_directories):
  """fsync on a file system that has none, for directories or for all."""
  whole = os.fsync

  def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode) or not of_directories:
      raise OSError(number, os.strerror(number))
    whole(descriptor)

  return fsync


@pytest.mark.parametrize("of_directories", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_will_do(
  tmp_path, monkeypatch, number, of_directories
):
  monkeypatch.setattr(os, "fsync", failing_fsync(number, of_directories))
  files.write_text(tmp_path / "a", "text")
  assert (tmp_path / "a").read_text() == "text"


def test_a_failing_disk_is_said(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "fsync", failing_fsync(errno.EIO, True))
  with pytest.raises(OSError, match="Input/output"):
    files.write_text(tmp_path / "a", "text")


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
  def flock(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", flock)
  with pytest.warns(UserWarning, match="has no locks"):
    os.close(files.take_lock(tmp_path / "lock"))


@pytest.mark.parametrize(
  ("path", "expected"),
  [("~/a", "/home/me/a"), ("a/~", "a/~"), ("~nobody-here/a", "~nobody-here/a")],
)
def test_home(monkeypatch, path, expected):
  monkeypatch.setenv("HOME", "/home/me")
  assert str(files.expanded(path)) == expected


@pytest.mark.parametrize(
  ("name", "litter"),
  [
    (".DS_Store", True),
    ("._meta.json", True),
    ("Thumbs.db", True),
    ("desktop.ini", True),
    (".nfs0000000002", True),
    ("thumbs.db.txt", False),
    (".zarray", False),
    ("0", False),
  ],
)
def test_litter(name, litter):
  assert files.is_litter(name) == litter
