"""Scalars for TensorBoard, written through tensorboardX."""

import contextlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_jax.runtime import extras, files

_NAME = re.compile(r"events\.out\.tfevents\.([0-9]+).*")


class EventWriter(contextlib.AbstractContextManager["EventWriter"]):
  """One file of scalars; each call's points are on the disk when it returns.

  tensorboardX's own SummaryWriter would put the host name into the file name,
  write over the file of a run that began in the same second, and write from
  another thread, for which its `flush` does not wait. A context manager, or
  `close` it.
  """

  def __init__(self, directory: Path | None, start_step: int):
    """
    Args:
      directory: Where a file is begun, after those that are there; None, as in
        all processes but the first, writes nothing.
      start_step: The step from which on TensorBoard drops what the earlier
        files have, so a resumed run shows no step twice.
    """
    self._writer: Any = None
    if directory is None:
      return
    # Half a second of imports, which help texts and readers need not pay.
    with extras.needed("train"):
      from tensorboardX.proto import event_pb2
      from tensorboardX.record_writer import RecordWriter

    directory.mkdir(parents=True, exist_ok=True)
    # Numbered: TensorBoard reads the files in the order of their names.
    matches = [_NAME.fullmatch(path.name) for path in directory.iterdir()]
    number = 1 + max((int(m[1]) for m in matches if m), default=0)
    path = directory / f"events.out.tfevents.{number:010d}"
    self._event, self._path = event_pb2.Event, path
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    with files.named(path):
      self._writer = RecordWriter(str(path))
      self._write(file_version="brain.Event:2")
      self._write(step=start_step, session_log=start)
      self._writer.flush()

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def _write(self, **fields: Any) -> None:
    event = self._event(wall_time=time.time(), **fields)
    self._writer.write(event.SerializeToString())

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """A point per name after `step` updates; "train/loss" is in group "train".

    NaN and infinities are kept.
    """
    if self._writer is None:
      return
    with extras.needed("train"):
      from tensorboardX.summary import scalar

    with files.named(self._path):
      for name, value in values.items():
        self._write(step=step, summary=scalar(name, float(value)))
      self._writer.flush()

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    if self._writer is not None:
      with files.named(self._path):
        self._writer.close()
      self._writer = None
