"""The event files hold what TensorBoard needs, and nobody's host name."""

import math
import socket
import struct

import jax.numpy as jnp
import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mnist_jax.training.events import EventWriter


def read(path):
  """The events of a file: length, its checksum, the event, its checksum."""
  data, start, events = path.read_bytes(), 0, []
  while start < len(data):
    (size,) = struct.unpack_from("<Q", data, start)
    events.append(Event.FromString(data[start + 12 : start + 12 + size]))
    start += 12 + size + 4
  assert start == len(data)
  return events


def points(events):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events
    for value in event.summary.value
  ]


def test_scalars_are_in_the_file_when_the_call_returns(tmp_path):
  writer = EventWriter(tmp_path / "events", 0)
  writer.scalars(430, {"train/loss": 0.5, "dev/loss": np.float32(0.25)})
  writer.scalars(860, {"train/loss": jnp.float32(0.125), "x": math.inf})
  (path,) = (tmp_path / "events").iterdir()
  assert points(read(path)) == [
    (430, "train/loss", 0.5),
    (430, "dev/loss", 0.25),
    (860, "train/loss", 0.125),
    (860, "x", math.inf),
  ]
  writer.close()
  writer.close()


def test_every_session_begins_a_file_that_drops_the_steps_from_its_start(
  tmp_path,
):
  (tmp_path / "events.out.tfevents.notes").write_text("")
  for start in (0, 430, 430):
    with EventWriter(tmp_path, start) as writer:
      writer.scalars(start + 430, {"x": 1.0})
  names = sorted(p.name for p in tmp_path.glob("*.0*"))
  assert names == [f"events.out.tfevents.{n:010d}" for n in (1, 2, 3)]
  for name, start in zip(names, (0, 430, 430), strict=True):
    version, purge, _ = read(tmp_path / name)
    assert version.file_version == "brain.Event:2"
    assert purge.step == start
    assert purge.session_log.status == SessionLog.START
  assert socket.gethostname() not in "".join(names)


def test_no_directory_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with EventWriter(None, 0) as writer:
    writer.scalars(1, {"x": 1.0})
  assert not list(tmp_path.iterdir())
