"""Checkpoints that are whole or are not there; the only file that knows orbax.

A step is one directory, named by its number:

  430/state/       orbax's: the leaves' bytes, joined end to end
  430/meta.json    the caller's meta; the leaves' names, types and digest
  430/SHA256SUMS   every other file's sha256 (`sha256sum -c` reads it too)

It is written as `430.tmp`, flushed to the disk and renamed: the rename is the
moment at which it is saved, so SIGKILL leaves the old steps or the new one.
Orbax itself restores a flipped byte, and a missing chunk as zeros, without an
error; so every file is compared with SHA256SUMS before it is read, and the
leaves' own digest with meta.json after.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.runtime import extras, files
from mnist_jax.runtime.errors import InputError

Pytree = Any

_STEP = re.compile(r"0|[1-9][0-9]*")
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
_UNFINISHED = re.compile(r"(0|[1-9][0-9]*)\.tmp")


class Restored(NamedTuple):
  """What `Checkpointer.restore_newest` found."""

  step: int  # updates, as given to save
  tree: Pytree  # in the target's structure
  meta: dict[str, Any]  # as given to save, after a round trip through JSON
  rejected: tuple[tuple[int, str], ...]  # newer steps and what is wrong there


class _Leaf(NamedTuple):
  name: str  # "params.0.w"
  dtype: str  # "float32"
  shape: tuple[int, ...]

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _named_leaves(tree: Pytree) -> list[tuple[_Leaf, Any]]:
  """Each leaf with its description."""
  named = []
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if not hasattr(leaf, "dtype") or leaf.dtype == np.dtype(object):
      raise TypeError(f"leaf {name!r} is no array but {type(leaf).__name__}")
    named.append((_Leaf(name, str(leaf.dtype), tuple(leaf.shape)), leaf))
  if len({leaf.name for leaf, _ in named}) < len(named):
    raise ValueError(f"two leaves of {jax.tree.structure(tree)} share a name")
  return named


def _host_array(leaf: Any) -> np.ndarray:
  """The whole array in host memory; a collective when no process has it all."""
  if isinstance(leaf, jax.Array) and not (
    leaf.is_fully_addressable or leaf.is_fully_replicated
  ):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def _digest(leaves: list[tuple[_Leaf, np.ndarray]]) -> str:
  digest = hashlib.sha256()
  for leaf, array in leaves:
    # One JSON line, then as many bytes as it announces: no two trees share it.
    digest.update(json.dumps([*leaf]).encode() + b"\n")
    digest.update(array.tobytes())
  return digest.hexdigest()


def tree_digest(tree: Pytree) -> str:
  """The sha256, in hex, over all leaves: name, dtype, shape and bytes.

  It depends on the values alone, not on the device, the sharding, the process
  or the containers' types; -0.0 and 0.0 differ, as their bytes do (row-major,
  little-endian as on every platform of JAX). Under several processes with
  sharded leaves all of them must call it.

  Raises:
    TypeError: a leaf that is no array of numbers, such as a Python number or a
      typed key.
  """
  return _digest([(n, _host_array(leaf)) for n, leaf in _named_leaves(tree)])


def _aside(damaged: Path) -> Path:
  names = (f"{damaged.name}.damaged-{n}" for n in itertools.count(1))
  return next(p for p in map(damaged.with_name, names) if not p.exists())


def steps(directory: Path) -> tuple[int, ...]:
  """The steps saved in a directory, ascending, sound or not; () without it."""
  names = os.listdir(directory) if directory.is_dir() else []
  return tuple(sorted(int(name) for name in names if _STEP.fullmatch(name)))


def _sums(step_dir: Path) -> str:
  """What SHA256SUMS must say: a line for every other file."""
  paths = (path.relative_to(step_dir) for path in step_dir.rglob("*"))
  names = sorted(
    path.as_posix()
    for path in paths
    if not (step_dir / path).is_dir()
    and path.name != "SHA256SUMS"
    and not any(map(files.is_litter, path.parts))
  )
  return "".join(
    f"{hashlib.sha256((step_dir / name).read_bytes()).hexdigest()}  {name}\n"
    for name in names
  )


def _file_damage(step_dir: Path) -> str | None:
  """What is wrong with a step's files, or None."""
  try:
    # Compared whole, so that a change in SHA256SUMS itself shows too.
    saved = (step_dir / "SHA256SUMS").read_bytes().decode(errors="replace")
    found = _sums(step_dir)
  except OSError as error:
    name = Path(error.filename or step_dir).name
    return f"{name} cannot be read: {error.strerror}"
  if found == saved:
    return None
  lines = set(found.split("\n")) ^ set(saved.split("\n"))
  names = sorted({line[66:] for line in lines})
  for name in names:
    if not (step_dir / name).exists():
      return f"{name!r} is in SHA256SUMS but missing"
  return f"{names[0]!r} is not as SHA256SUMS has it"


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
  """Turns what tensorstore makes of the system's errors back into them."""
  try:
    yield
  except ValueError as error:
    code = _OS_ERROR.search(str(error))
    if code is None:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps orbax's chatter off the terminal; what matters it raises."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


def _place(array: np.ndarray, target: Any) -> Any:
  """One restored leaf where and as the target leaf is."""
  if isinstance(target, np.ndarray | np.generic):
    return array
  # An uncommitted array must come back uncommitted: a committed one is another
  # signature to jit, and the step would compile a second time.
  free = isinstance(target, jax.Array) and not target.committed
  sharding = None if free else getattr(target, "sharding", None)
  return jnp.array(array, device=sharding)


def _split(
  joined: np.ndarray, leaves: list[_Leaf]
) -> list[tuple[_Leaf, np.ndarray]]:
  """The leaves from their bytes, joined end to end."""
  sizes = [
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves
  ]
  parts = np.split(joined, np.cumsum(sizes)[:-1])
  return [
    (leaf, part.copy().view(leaf.dtype).reshape(leaf.shape))
    for leaf, part in zip(leaves, parts, strict=True)
  ]


class Checkpointer(contextlib.AbstractContextManager["Checkpointer"]):
  """Saves to and restores from one directory of steps, in a with block.

  One writer at a time (the run directory's lock sees to it); readers need no
  care. Under several processes each calls the same methods with the same
  arguments; process 0 writes and all must see the directory.
  """

  def __init__(self, directory: Path, keep: int = 3):
    """Keeps the newest `keep` steps; the first save makes the directory."""
    # Half a second, which those who save and restore nothing need not wait.
    with extras.needed("train"):
      import orbax.checkpoint as ocp

    if keep < 1:
      raise ValueError(f"keep is {keep}, expected at least 1")
    self.directory = files.expanded(directory)
    self.keep = keep
    self._damaged: list[int] = []
    process = jax.process_index()
    # Each process is on its own: orbax then waits for no other. Plain files
    # (no OCDBT) take orbax half the time at this size, and by the handler alone
    # three fifths of it: `_write` makes a step whole, no Checkpointer. Weights
    # can hardly be compressed, and `_write_state` wants them as they are.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=process, active_processes={process}
    )
    self._save_arguments = ocp.args.PyTreeSave
    self._orbax = ocp.PyTreeCheckpointHandler(
      use_ocdbt=False, use_compression=False, multiprocessing_options=alone
    )
    # A state's files: None for the one that is the leaves' bytes, of this size.
    self._files: dict[Path, bytes | None] = {}
    self._size = -1

  def __exit__(self, *exc_info: object) -> None:
    self._orbax.close()

  def save(self, step: int, tree: Pytree, meta: dict[str, Any]) -> None:
    """Saves a step; it is on the disk when this returns.

    Steps that this object's `restore_newest` found damaged are first renamed
    to `<step>.damaged-<n>`: nothing is lost, and nothing newer stands in the
    way. After the save the oldest steps beyond `keep` are removed.

    Args:
      step: The number of updates, larger than every step saved so far.
      meta: Anything that JSON can hold; no NaN or infinity.

    Raises:
      ValueError: the step, or a newer one, is already saved.
      TypeError: a leaf that is no array of numbers.
      OSError: it cannot be written; what was saved before is as it was.
    """
    leaves = [(leaf, _host_array(array)) for leaf, array in _named_leaves(tree)]
    names = [leaf for leaf, _ in leaves]
    record = {"meta": meta, "digest": _digest(leaves), "leaves": names}
    text = json.dumps(record, allow_nan=False) + "\n"
    if jax.process_index() == 0:
      for damaged in (self.directory / str(step) for step in self._damaged):
        if damaged.exists():
          damaged.rename(_aside(damaged))
      newest = max(steps(self.directory), default=-1)
      if step <= newest:
        raise ValueError(
          f"step {step} cannot be saved in {self.directory}: it has {newest}"
        )
      # A save's time goes by its number of files, so all leaves are one array
      # of bytes; with several, orbax also leaves reads behind where one fails.
      joined = b"".join(array.tobytes() for _, array in leaves)
      self._write(step, joined, text)
      self._prune()
    self._damaged = []
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"checkpoint {step}")

  def _write(self, step: int, joined: bytes, text: str) -> None:
    self.directory.mkdir(parents=True, exist_ok=True)
    unfinished = self.directory / f"{step}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
      with files.named(unfinished), _system_errors():
        self._write_state((unfinished / "state").absolute(), joined)
        (unfinished / "meta.json").write_text(text)
        (unfinished / "SHA256SUMS").write_text(_sums(unfinished))
        for path in unfinished.rglob("*"):
          files.flush(path)
        files.flush(unfinished)
    except OSError:  # a full disk needs the room
      shutil.rmtree(unfinished, ignore_errors=True)
      raise
    unfinished.rename(self.directory / str(step))
    files.flush(self.directory)

  def _write_state(self, state: Path, joined: bytes) -> None:
    """By orbax, whose files serve again while the states' size stays the same.

    But for the leaves' bytes they are the same, and orbax takes longer than all
    the rest of a save.
    """
    if len(joined) == self._size:
      for name, data in self._files.items():
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_bytes(joined if data is None else data)
      return
    state.mkdir()
    tree = {"leaves": np.frombuffer(joined, np.uint8)}
    with _quiet():
      self._orbax.save(state, args=self._save_arguments(tree))
    paths = [path for path in state.rglob("*") if path.is_file()]
    found = {path.relative_to(state): path.read_bytes() for path in paths}
    if [*found.values()].count(joined) == 1:  # not cut up, nor left out
      self._size = len(joined)
      self._files = {n: None if d == joined else d for n, d in found.items()}

  def _prune(self) -> None:
    for step in steps(self.directory)[: -self.keep]:
      shutil.rmtree(self.directory / str(step))
    for step in self._unfinished():
      shutil.rmtree(self.directory / f"{step}.tmp")

  def _unfinished(self) -> list[int]:
    matches = map(_UNFINISHED.fullmatch, os.listdir(self.directory))
    return [int(match[1]) for match in matches if match]

  def restore_newest(
    self, target: Pytree, *, partial: bool = False
  ) -> Restored | None:
    """Restores the newest sound step; changes nothing in the directory.

    Steps that are truncated, incomplete or differ from what was saved in any
    byte are passed over, newest to oldest, and listed in `rejected`, as are
    saves that were interrupted.

    Args:
      target: A tree of jax.ShapeDtypeStruct, jax arrays or NumPy arrays. The
        leaves come back as what they are there: NumPy arrays as such, others
        on the target's sharding if it has one, else on the default device.
      partial: Whether the checkpoint may have leaves that the target lacks, to
        restore, for example, {"params": ...} of a whole training state.

    Returns:
      None when no step was ever saved.

    Raises:
      InputError: every step is damaged; or the newest sound one has other
        leaves, shapes or dtypes than the target.
    """
    rejected: list[tuple[int, str]] = []
    for step in reversed(steps(self.directory)):
      step_dir = self.directory / str(step)
      reason = _file_damage(step_dir)
      if reason is None:
        record = json.loads((step_dir / "meta.json").read_text())
        _check_match(step_dir, record, target, partial)
        arrays, reason = self._read(step_dir, record)
      if reason is None:
        self._damaged = [s for s, _ in rejected]
        interrupted = "its save was interrupted"
        rejected += [(s, interrupted) for s in self._unfinished() if s > step]
        newest_first = tuple(sorted(rejected, reverse=True))
        return Restored(
          step, _fill(target, arrays), record["meta"], newest_first
        )
      rejected.append((step, reason))
    if rejected:
      reasons = "; ".join(f"{step}: {reason}" for step, reason in rejected)
      raise InputError(
        f"{self.directory}: no sound checkpoint ({reasons}), expected one; "
        "move it away to start afresh"
      )
    return None

  def _read(
    self, step_dir: Path, record: dict[str, Any]
  ) -> tuple[dict[str, np.ndarray], str | None]:
    """The step's arrays by name, and what is wrong with them if anything."""
    try:
      with _quiet():
        state = self._orbax.restore((step_dir / "state").absolute())
      arrays = _split(state["leaves"], _recorded_leaves(record))
      found = _digest(arrays)
    except Exception as error:  # orbax and tensorstore raise many kinds
      first_line = str(error).strip().partition("\n")[0]
      kind = type(error).__name__
      return {}, f"state cannot be restored: {kind}: {first_line}"
    if found != record["digest"]:
      return {}, f"digest {found[:8]}.., saved as {record['digest'][:8]}.."
    return {leaf.name: array for leaf, array in arrays}, None


def _recorded_leaves(record: dict[str, Any]) -> list[_Leaf]:
  return [_Leaf(n, d, tuple(shape)) for n, d, shape in record["leaves"]]


def _check_match(
  step_dir: Path, record: dict[str, Any], target: Pytree, partial: bool
) -> None:
  saved = {leaf.name: leaf for leaf in _recorded_leaves(record)}
  wanted = {leaf.name: leaf for leaf, _ in _named_leaves(target)}
  for name in dict.fromkeys([*wanted, *saved]):
    have, want = saved.get(name), wanted.get(name)
    if have != want and not (partial and want is None):
      found = f"leaf {name} is {have}" if have else f"no leaf {name}"
      raise InputError(f"{step_dir}: {found}, expected {want or 'none'}")


def _fill(target: Pytree, arrays: dict[str, np.ndarray]) -> Pytree:
  leaves = []
  for (name, _, _), leaf in _named_leaves(target):
    placed = _place(arrays[name], leaf)
    if placed.dtype != leaf.dtype:
      raise InputError(
        f"leaf {name} of the checkpoint came back as {placed.dtype}, "
        f"expected {leaf.dtype}"
      )
    leaves.append(placed)
  return jax.tree.unflatten(jax.tree.structure(target), leaves)
