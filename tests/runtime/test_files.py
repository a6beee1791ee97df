"""Files reach the disk, also where the file system does less than others."""

import errno
import fcntl
import os
import stat
import time

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
    files.take_lock(tmp_path / "lock").release()


def test_a_lock_is_held_until_it_is_released(tmp_path):
  path = tmp_path / "lock"
  lock = files.take_lock(path)
  assert files.take_lock(path) is None
  lock.release()
  files.take_lock(path).release()


def test_two_writers_share_no_temporary_name(tmp_path):
  path = tmp_path / "a.parquet"
  with files.replacing(path) as one, files.replacing(path) as other:
    assert one != other
    assert {one.suffix, other.suffix} == {".parquet"}
    one.write_text("one")
    other.write_text("other")
  assert path.read_text() == "one"  # whose block ends last
  assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]


def test_age_alone_tells_what_is_stale(tmp_path):
  for name, days in ((".tmp-old", 1.1), (".tmp-at-work", 0.9), ("old", 9)):
    (tmp_path / name).touch()
    then = time.time() - 86_400 * days
    os.utime(tmp_path / name, (then, then))
  files.remove_stale(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {".tmp-at-work", "old"}


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
