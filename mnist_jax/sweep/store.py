"""The results of a sweep on the disk: cells filed by content, never lost.

  manifest.json   data digest, code version, versions and device
  cells/          one Parquet file a block: `pandas.read_parquet(DIR/cells)`
  blocks/         by block: seconds, members, compiles, device use

A block's file is replaced whole, so after a kill at any moment it is there
with all its cells or not at all.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_jax import data
from mnist_jax.runtime import code, extras, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import plan
from mnist_jax.training import settings
from mnist_jax.training.settings import Settings

if TYPE_CHECKING:
  import pandas as pd

_MANIFEST, _CELLS, _BLOCKS, _LOCK = "manifest.json", "cells", "blocks", ".lock"

# The files below mnist_jax/ that decide a cell's numbers.
_DECISIVE = (
  "data/batches",
  "data/dataset",
  "model/losses",
  "model/mlp",
  "model/objective",
  "runtime/fields",
  "schedules/batch_sizes",
  "schedules/catalogue",
  "schedules/config",
  "schedules/policies",
  "sweep/_block",
  "sweep/_program",
  "sweep/plan",
  "training/loop",
  "training/metrics",
  "training/optimizers",
  "training/settings",
)
_DTYPES: dict[str, str] = {
  **{name: each.dtype for name, each in settings.FIELDS.items()},
  "cell": "string",
  "step": "int64",
  "epoch": "float64",
  "rate": "float64",
  "batch_loss": "float64",
  **{f"{s}_{m}": "float64" for s in plan.SPLITS for m in plan.METRICS},
  "reached": "boolean",
  "diverged_step": "Int64",
  "budget": "string",
  "command": "string",
}
COLUMNS = tuple(_DTYPES)
State = tuple[tuple[str, int], ...]  # names and times of files
_NEWER = {
  name: each.default for name, each in settings.FIELDS.items() if each.newer
}


@functools.cache
def code_version() -> str:
  """12 hex digits over the code that decides a cell's numbers.

  Comments, docstrings, layout and imports do not count.
  """
  root = Path(__file__).parents[1]
  return code.digest(root / f"{name}.py" for name in _DECISIVE)


def frame(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
  """Rows as a table in which every column has the same type always."""
  with extras.needed("studies"):
    import pandas as pd

  found = list(rows)
  # `astype` of a frame of so many columns takes ten times as long.
  columns = {
    name: pd.array([row.get(name) for row in found], dtype=dtype)
    for name, dtype in _DTYPES.items()
  }
  return pd.DataFrame(columns, copy=False)


def setting_columns(cell: Settings) -> dict[str, Any]:
  """All settings of a cell, tuples as comma-separated text."""
  values = {name: getattr(cell, name) for name in settings.FIELDS}
  return {
    name: ",".join(map(str, value)) if isinstance(value, tuple) else value
    for name, value in values.items()
  }


def data_digest(dataset: data.Dataset) -> str:
  """SHA-256 in hex over the examples of the splits, as they are cut.

  `Dataset.digest` is over the source: that of another dev set is the same.
  """
  total = hashlib.sha256(dataset.digest.encode())
  for split in (dataset.train, dataset.dev, dataset.test):
    for array in map(np.asarray, split):
      total.update(f"{array.dtype} {array.shape}\n".encode())
      total.update(np.ascontiguousarray(array).data)
  return total.hexdigest()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
  with files.replacing(path) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _identity(manifest: Path) -> dict[str, str]:
  """The data and code of results; nothing if the file is no manifest."""
  try:
    found = json.loads(manifest.read_text("utf-8"))
    return {name: str(found[name]) for name in ("data_digest", "code_version")}
  except (ValueError, KeyError, TypeError):
    return {}


def is_alike(workdir: Path, data_digest: str, kind: str | None) -> bool:
  """Whether a directory has a sweep's results of this data and code.

  Args:
    kind: The machine that all of them have to be of; None for any.

  Raises:
    InputError: A block's note cannot be read.
  """
  manifest = workdir / _MANIFEST
  wanted = {"data_digest": data_digest, "code_version": code_version()}
  if not manifest.is_file() or _identity(manifest) != wanted:
    return False
  begun, notes = _kind(manifest), read_blocks(workdir / _BLOCKS)
  return kind is None or {n.get("kind", begun) for n in notes} == {kind}


def _kind(manifest: Path) -> str | None:
  """The machine on which results began, where it was recorded."""
  found: str | None = json.loads(manifest.read_text("utf-8")).get("kind")
  return found


class Store(contextlib.ExitStack):
  """A results directory, held by this process until the end of its context."""

  def __init__(
    self,
    workdir: Path,
    data_digest: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
    version: str | None = None,
  ):
    """Opens a directory for results of this data and code, or makes it.

    Args:
      about: What else a new manifest says, for the reader.
      overwrite: Whether to remove the results there, whatever they are of.
      version: Of the code that decides the numbers; by default of this one.

    Raises:
      InputError: The directory is of something else, has results of other
        data or of other code, or is in use by another process.
    """
    super().__init__()
    with extras.needed("studies"):
      import pyarrow  # noqa: F401 (pandas asks for it only at the first block)
    self.path = workdir
    version = version or code_version()
    identity = {"data_digest": data_digest, "code_version": version}
    try:
      self._check_kind(overwrite)
      (workdir / _CELLS).mkdir(parents=True, exist_ok=True)
      (workdir / _BLOCKS).mkdir(exist_ok=True)
      lock = files.take_lock(workdir / _LOCK)
    except OSError as error:
      raise InputError(
        f"workdir={workdir}: cannot be used: {error.strerror}"
      ) from None
    if lock is None:
      raise InputError(
        f"workdir={workdir}: is being written by another process"
      )
    self.callback(lock.release)
    try:
      self._open(identity, about, overwrite)
    except BaseException:
      self.close()
      raise

  def _check_kind(self, overwrite: bool) -> None:
    if not self.path.exists():
      return
    if not self.path.is_dir():
      raise InputError(f"workdir={self.path}: is a file, expected a directory")
    others = {
      name
      for name in os.listdir(self.path)
      if not (name.startswith(files.TEMPORARY) or files.is_litter(name))
    } - {_MANIFEST, _CELLS, _BLOCKS, _LOCK}
    manifest = self.path / _MANIFEST
    if others and not (manifest.is_file() and _identity(manifest)):
      raise InputError(
        f"workdir={self.path}: has {min(others)!r} but no results of a sweep,"
        " expected those, an empty directory or a new one"
      )
    if manifest.is_file() and not _identity(manifest) and not overwrite:
      raise InputError(
        f"{manifest}: is not the manifest of a sweep; overwrite=True begins "
        "afresh"
      )
    if not manifest.exists() and _cells(self.path) and not overwrite:
      raise InputError(
        f"workdir={self.path}: has cells but no {_MANIFEST}, so it is "
        "unknown of which data they are; overwrite=True begins afresh"
      )

  @property
  def kind(self) -> str | None:
    """The machine on which the results began, where it was recorded."""
    return _kind(self.path / _MANIFEST)

  def _open(
    self, identity: dict[str, str], about: Mapping[str, Any], overwrite: bool
  ) -> None:
    for folder in (self.path, self.path / _CELLS, self.path / _BLOCKS):
      files.remove_stale(folder)
    manifest = self.path / _MANIFEST
    if overwrite:
      notes = _own(self.path / _BLOCKS, "*.json")
      # The manifest last: cells without one are refused.
      for old in (*_cells(self.path), *notes, manifest):
        old.unlink(missing_ok=True)
    if manifest.exists():
      self._check_identity(manifest, identity)
      return
    _write_json(manifest, identity | dict(about))

  def _check_identity(self, manifest: Path, identity: dict[str, str]) -> None:
    found = _identity(manifest)
    for name, now in identity.items():
      if found[name] != now:
        raise InputError(
          f"{self.path}: has results of {name} {found[name]:.12}, now "
          f"{now:.12}; overwrite=True begins afresh, another workdir keeps both"
        )

  def table(self) -> "pd.DataFrame":
    """`read_table` of what is filed here."""
    return read_table(self.path)

  def taken(self, version: str) -> set[str]:
    """The keys of the cells whose runs another sweep made.

    Those that another version of the code took are removed.

    Raises:
      InputError: A block's note cannot be read.
    """
    found: set[str] = set()
    for path in _own(self.path / _BLOCKS, "*.json"):
      note = _note(path)
      if "taken" in note and note.get("taken_by") != version:
        (self.path / _CELLS / f"{path.stem}.parquet").unlink(missing_ok=True)
        path.unlink()
      else:
        found.update(note.get("taken", ()))
    return found

  def add(
    self, keys: Sequence[str], rows: "pd.DataFrame", about: Mapping[str, Any]
  ) -> None:
    """Files the rows of the cells with these keys, all at once."""
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    _write_json(self.path / _BLOCKS / f"{name}.json", about)
    with files.replacing(self.path / _CELLS / f"{name}.parquet") as temporary:
      # Without checksums a flipped bit is read as another number.
      rows.to_parquet(temporary, index=False, write_page_checksum=True)


def read_table(workdir: Path) -> "pd.DataFrame":
  """All rows of a results directory, in no stated order.

  Raises:
    InputError: A file cannot be read.
  """
  with extras.needed("studies"):
    import pandas as pd

  tables = [frame([])]
  for part in read_parts(workdir, _check_columns):
    # Filed before a setting was: its cells have it at its default.
    lacking = {n: v for n, v in _NEWER.items() if n not in part}
    tables.append(part.assign(**lacking)[list(COLUMNS)].astype(_DTYPES))
  return pd.concat(tables, ignore_index=True)


def read_parts(
  workdir: Path,
  check: Callable[[Sequence[str]], None] = lambda names: None,
  columns: Sequence[str] | None = None,
) -> "list[pd.DataFrame]":
  """All rows of a results directory, those of the same columns together.

  Args:
    check: Raises KeyError for columns that are not a result's.
    columns: Those to read; by default all.

  Raises:
    InputError: A file cannot be read.
  """
  with extras.needed("studies"):
    import pyarrow
    from pyarrow import parquet

  # One conversion for all files of the same columns takes a tenth as long.
  found: dict[tuple[str, ...], list[pyarrow.Table]] = {}
  for path in _cells(workdir):
    try:
      part = parquet.read_table(
        path,
        columns=None if columns is None else [*columns],
        page_checksum_verification=True,
      )
      check(part.column_names)
      found.setdefault(tuple(part.column_names), []).append(part)
    except (OSError, ValueError, KeyError) as error:
      reason = " ".join(str(error).split())
      raise InputError(
        f"{path}: cannot be read ({reason}); remove it to run its cells again"
      ) from None
  wholes = (
    pyarrow.concat_tables(same, promote_options="permissive")
    for same in found.values()
  )
  return [whole.to_pandas() for whole in wholes]


def _check_columns(names: Sequence[str]) -> None:
  for name in COLUMNS:
    if name not in names and name not in _NEWER:
      raise KeyError(name)


def _own(folder: Path, pattern: str) -> list[Path]:
  """The whole files of a sweep, and none of other writers at work."""
  return [
    path
    for path in sorted(folder.glob(pattern))
    if not (path.name.startswith(files.TEMPORARY) or files.is_litter(path.name))
  ]


def state(workdir: Path) -> State:
  """Which files of cells there are, and of when."""
  return tuple((p.name, p.stat().st_mtime_ns) for p in _cells(workdir))


def _cells(workdir: Path) -> list[Path]:
  return _own(workdir / _CELLS, "*.parquet")


def read_blocks(folder: Path) -> list[dict[str, Any]]:
  """What was noted about each block, from a directory's blocks/.

  Of runs that another sweep made: "taken", their keys, and "taken_from".

  Raises:
    InputError: A note cannot be read.
  """
  return [_note(path) for path in _own(folder, "*.json")]


def _note(path: Path) -> dict[str, Any]:
  try:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
  except ValueError as error:
    raise InputError(
      f"{path}: cannot be read ({error}); remove it, its cells stay"
    ) from None
  return found
