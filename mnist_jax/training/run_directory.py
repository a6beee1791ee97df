"""The run directory: configuration, metric rows, summary, figures.

  config.json    flags, seed, data digest; versions, device, git; sessions
  metrics.jsonl  one row per epoch
  summary.json   what the run came to; written at its end
  events/        the rows again, for TensorBoard, by `training.events`
  checkpoints/   the states, by `training.checkpoint`

Every file is replaced whole (written beside, flushed, renamed), so that a
kill at any moment leaves the old one or the new one. Numbers that JSON lacks
are the strings "NaN", "Infinity" and "-Infinity", and read back as numbers.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError

Row = dict[str, Any]

# What may differ between the sessions of one run: the keys of
# `runtime.environment.describe`.
ENVIRONMENT = ("versions", "device", "git_revision")

_CONFIG, _METRICS, _SUMMARY = "config.json", "metrics.jsonl", "summary.json"
_LOCK, _FILES = ".lock", ".files"
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_OURS_INSIDE = {  # what --overwrite may remove of a subdirectory
  "checkpoints": re.compile(r"[0-9]+(\.tmp|\.damaged-[0-9]+)?"),
  "events": re.compile(r"events\.out\.tfevents\..*"),
}


def _plain(value: Any) -> Any:
  """NumPy and JAX arrays and scalars as lists and numbers."""
  if isinstance(value, Mapping):
    return dict(value)
  if hasattr(value, "tolist"):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")


def _encode(value: Any) -> Any:
  """The value as strict JSON can hold it, its NaN and infinities as words."""
  return json.loads(json.dumps(value, default=_plain), parse_constant=str)


def _decode(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _decode(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_decode(v) for v in value]
  return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def dumps(value: Any, indent: int | None = None) -> str:
  """Strict JSON: NaN and infinities are words, arrays are lists.

  Raises:
    TypeError: A value that JSON cannot hold.
  """
  return json.dumps(_encode(value), ensure_ascii=False, indent=indent)


def _line(row: Row) -> str:
  return dumps(row) + "\n"


def _read(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(text: bytes, where: str) -> dict[str, Any]:
  try:
    value = _decode(json.loads(text))
  except ValueError:  # no UTF-8 or no JSON
    value = None
  if not isinstance(value, dict):
    raise InputError(f"{where}: found {text[:20]!r}, expected a JSON object")
  return value


def _read_rows(path: Path) -> list[Row]:
  lines = _read(path).splitlines() if path.exists() else []
  return [_parse(line, f"{path}:{i}") for i, line in enumerate(lines, start=1)]


def _read_config(workdir: Path) -> dict[str, Any]:
  path = workdir / _CONFIG
  if not path.is_file():
    raise InputError(f"{workdir}: has no {_CONFIG}, expected a run")
  config = _parse(_read(path), str(path))
  missing = {"flags", "sessions"} - set(config)
  if missing:
    raise InputError(f"{path}: has no {min(missing)!r}, expected a run's")
  return config


@dataclasses.dataclass(frozen=True)
class Run:
  """A run as it was recorded."""

  path: Path
  config: dict[str, Any]
  rows: tuple[Row, ...]
  summary: dict[str, Any] | None  # None while the run is not finished


def read_run(path: str | os.PathLike[str]) -> Run:
  """Reads a run directory, finished or not; changes nothing, starts no device.

  Raises:
    InputError: No run there, or one of its files cannot be read.
  """
  path = files.expanded(path)
  if not path.is_dir():
    raise InputError(f"{path}: is no directory, expected a run")
  config, rows = _read_config(path), tuple(_read_rows(path / _METRICS))
  last = path / _SUMMARY
  summary = _parse(_read(last), str(last)) if last.exists() else None
  return Run(path, config, rows, summary)


class RunDirectory(contextlib.AbstractContextManager["RunDirectory"]):
  """A run being written; from `open_run`. A context manager, or `close` it.

  Under several processes only the first writes; in the others the same calls
  do nothing but keep `rows` the same.
  """

  def __init__(
    self,
    path: Path,
    writes: bool,
    lock: filelock.BaseFileLock | None = None,
  ):
    """Use `open_run`."""
    self.path = path
    self.writes = writes  # whether this process is the one that writes
    self.checkpoints = path / "checkpoints"  # for checkpoint.Checkpointer
    self.events = path / "events" if writes else None  # for events.EventWriter
    self._lock = lock
    self._rows = _read_rows(path / _METRICS)
    self._lines = [_line(row) for row in self._rows]

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def close(self) -> None:
    """Gives up the lock; the operating system does so when a process dies."""
    if self._lock is not None:
      self._lock.release()
      self._lock = None

  def write_bytes(self, name: str, data: bytes) -> None:
    """Replaces a file, by its plain name; if that fails, the old one stays."""
    if not name or Path(name).name != name or name.startswith("."):
      raise ValueError(f"{name!r} is no plain file name")
    if not self.writes:
      return
    # Noted as ours before it exists, so that overwriting finds it.
    claimed = _claimed(self.path)
    if name not in [*claimed, _CONFIG, _METRICS, _SUMMARY]:
      files.write_text(self.path / _FILES, "\n".join([*claimed, name, ""]))
    with files.replacing(self.path / name) as temporary:
      temporary.write_bytes(data)

  def write_json(self, name: str, value: Any) -> None:
    """Replaces a JSON file; keys keep their order, arrays become lists.

    Raises:
      TypeError: A value that JSON cannot hold.
    """
    self.write_bytes(name, (dumps(value, indent=2) + "\n").encode())

  def rows(self) -> tuple[Row, ...]:
    """The metric rows so far, oldest first."""
    return tuple(self._rows)

  def append_row(self, row: Mapping[str, Any]) -> None:
    """Adds a row, with an "epoch" above the last row's, to metrics.jsonl.

    Raises:
      ValueError: The epoch already has a row, or a later one has.
      TypeError: A value that JSON cannot hold; no row is added.
    """
    encoded = _decode(_encode(row))
    if self._rows and encoded["epoch"] <= self._rows[-1]["epoch"]:
      raise ValueError(
        f"{self.path}: a row for epoch {encoded['epoch']} after one for "
        f"{self._rows[-1]['epoch']}"
      )
    self._rows.append(encoded)
    self._lines.append(_line(encoded))
    self._write_rows()

  def truncate_rows(self, last_epoch: int) -> int:
    """Drops the rows after an epoch; returns how many there were."""
    kept = [row for row in self._rows if row["epoch"] <= last_epoch]
    dropped = len(self._rows) - len(kept)
    if dropped:
      self._rows = kept
      self._lines = [_line(row) for row in kept]
      self._write_rows()
    return dropped

  def _write_rows(self) -> None:
    self.write_bytes(_METRICS, "".join(self._lines).encode())


def open_run(
  workdir: str | os.PathLike[str],
  config: Mapping[str, Any],
  *,
  overwrite: bool = False,
  growable: Sequence[str] = ("epochs",),
) -> RunDirectory:
  """Makes a run directory, or opens the one that has this configuration.

  Under several processes all of them must call it: the first decides and
  writes, the others wait for it.

  Args:
    workdir: The directory: new, empty, or a run.
    config: What must be the same for the run to go on: "flags" (only those
      that change the result), "seed", "data_digest" and others; and what
      `environment.describe` gives, which may differ: config.json has the first
      session's at its top and every session's under "sessions".
    overwrite: Whether to remove what a run wrote there, and nothing else.
    growable: The flags that count epochs and may change, but not to fewer than
      the run has rows for.

  Raises:
    InputError: Another configuration (each difference is listed), a directory
      that is no run, one in use by another process, or not writable.
  """
  import jax

  error = lock = None
  workdir = files.expanded(workdir)
  if jax.process_index() == 0:
    try:
      lock = _prepare(workdir, _decode(_encode(config)), overwrite, growable)
    except OSError as e:
      error = InputError(f"workdir={workdir}: cannot be used: {e.strerror}")
    except InputError as e:
      error = e
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    refused = multihost_utils.broadcast_one_to_all(int(error is not None))
    if refused and error is None:
      error = InputError(f"workdir={workdir}: refused by process 0")
  if error is not None:
    raise error
  run = RunDirectory(workdir, jax.process_index() == 0, lock)
  if jax.process_count() > 1:  # none writes before all have read the rows
    multihost_utils.sync_global_devices("run opened")
  return run


def _prepare(
  workdir: Path, config: Row, overwrite: bool, growable: Sequence[str]
) -> filelock.BaseFileLock:
  """Leaves the directory with this config.json; returns the lock."""
  _check_ours(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  lock = files.take_lock(workdir / _LOCK)
  if lock is None:
    raise InputError(f"workdir={workdir}: is being written by another process")
  try:
    _check_ours(workdir)  # another process may have been here in between
    files.remove_stale(workdir)
    session = {
      "started": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
      **{k: config["flags"][k] for k in growable if k in config["flags"]},
      **{k: config[k] for k in ENVIRONMENT if k in config},
    }
    sessions = []
    if (workdir / _CONFIG).exists():
      recorded = _read_config(workdir)
      if overwrite:
        _remove(workdir)
      else:
        _check_same(workdir, recorded, config, growable)
        config = recorded | {"flags": config["flags"]}
        sessions = recorded["sessions"]
    text = dumps({**config, "sessions": [*sessions, session]}, indent=2)
    files.write_text(workdir / _CONFIG, text + "\n")
  except BaseException:
    lock.release()
    raise
  return lock


def _check_ours(workdir: Path) -> None:
  if workdir.exists() and not workdir.is_dir():
    raise InputError(f"workdir={workdir}: is a file, expected a directory")
  names = sorted(os.listdir(workdir)) if workdir.exists() else []
  if _CONFIG in names:
    _read_config(workdir)
    return
  for name in names:
    own = name == _LOCK or name.startswith(files.TEMPORARY)
    if not own and not files.is_litter(name):
      raise InputError(
        f"workdir={workdir}: is no run but has {name!r}, expected a run, an "
        "empty directory or a new one"
      )


def _check_same(
  workdir: Path, recorded: Row, config: Row, growable: Sequence[str]
) -> None:
  rows = _read_rows(workdir / _METRICS)
  trained = rows[-1].get("epoch", 0) if rows else 0
  free = {"flags", "sessions", *ENVIRONMENT}
  before, after = (
    side["flags"] | {k: v for k, v in side.items() if k not in free}
    for side in (recorded, config)
  )
  differences = []
  for name in sorted({*before, *after}):
    values = (side.get(name, "absent") for side in (before, after))
    old, new = (v if isinstance(v, str) else dumps(v) for v in values)
    if old == new:
      continue
    if name not in growable:
      differences.append(f"{name}={old} in {workdir}, now {new}")
    elif after.get(name, 0) < trained:
      differences.append(f"{name}={trained} done in {workdir}, now {new}")
  if differences:
    raise InputError(
      f"{'; '.join(differences)} (overwrite=true begins afresh, "
      "another workdir keeps both)"
    )


def _remove(workdir: Path) -> None:
  """Removes what a run wrote, but config.json, which is replaced last."""
  for name, ours in _OURS_INSIDE.items():
    inside = workdir / name
    for path in inside.glob("*"):
      if ours.fullmatch(path.name) and path.is_dir():
        shutil.rmtree(path)
      elif ours.fullmatch(path.name):
        path.unlink()
    with contextlib.suppress(OSError):  # not there, or not ours alone
      inside.rmdir()
  for name in [*_claimed(workdir), _METRICS, _SUMMARY, _FILES]:
    (workdir / name).unlink(missing_ok=True)


def _claimed(workdir: Path) -> list[str]:
  """The names of the files that a run wrote, in the order of their first."""
  with contextlib.suppress(FileNotFoundError):
    return (workdir / _FILES).read_text(encoding="utf-8").splitlines()
  return []
