"""Processes that watch one another, so that one that is lost has a name.

Where a peer of `jax.distributed` is gone, a collective hangs or breaks, and
JAX's own service ends the process from C++ with a page that names nobody. So
each process keeps a connection to process 0 beside it: one JSON object a line,
an empty line as a sign of life. Process 0 tells the others whom it misses.
"""

import contextlib
import dataclasses
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mnist_jax.runtime.errors import InputError, LostPeerError

_HELLO_SECONDS = 5.0  # for whoever connects to say who it is

Message = dict[str, Any]


@dataclasses.dataclass
class Link:
  """A connection to one other process."""

  name: str  # "process 2 on node7"
  sock: socket.socket
  heard: float = dataclasses.field(default_factory=time.monotonic)
  done: bool = False
  _rest: bytes = b""

  def send(self, message: Message | None = None) -> None:
    """A message, or a sign of life; that it is gone shows in `receive`."""
    text = json.dumps(message) if message else ""
    with contextlib.suppress(OSError):
      self.sock.sendall(text.encode() + b"\n")

  def receive(self) -> list[Message] | None:
    """What came since; None when the other end is closed.

    Raises:
      TimeoutError: Nothing came within the socket's timeout.
      ValueError: It is no JSON.
    """
    try:
      found = self.sock.recv(65536)
    except TimeoutError:
      raise
    except OSError:
      found = b""
    if not found:
      return None
    self.heard = time.monotonic()
    *lines, self._rest = (self._rest + found).split(b"\n")
    return [json.loads(line) for line in lines if line]

  def first(self, deadline: float) -> Message | None:
    """The first message; None when none comes until then."""
    with contextlib.suppress(TimeoutError, ValueError):
      while (left := deadline - time.monotonic()) > 0:
        self.sock.settimeout(left)
        messages = self.receive()
        if messages is None:
          return None
        if messages:
          return messages[0]
    return None


def _difference(mine: Message, theirs: Message) -> str | None:
  for name in sorted({*mine, *theirs}):
    if mine.get(name) != theirs.get(name):
      return f"{name}={theirs.get(name)}, process 0 has {mine.get(name)}"
  return None


def gather(
  port: int, count: int, terms: Message, timeout: float
) -> dict[int, Link]:
  """Process 0 waits for the others; their links, by process.

  Args:
    terms: What all must have alike, by name.
    timeout: The seconds within which all must have come.

  Raises:
    InputError: The port is taken, or a process has other terms.
    LostPeerError: Processes that did not come.
  """
  deadline = time.monotonic() + timeout
  links: dict[int, Link] = {}
  with contextlib.ExitStack() as failed, _listener(port) as listener:
    failed.callback(lambda: _close(links.values()))
    while len(links) < count - 1:
      missing = [i for i in range(1, count) if i not in links]
      listener.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        sock = listener.accept()[0]
      except TimeoutError:
        who = ", ".join(map(str, missing))
        ones = "process" if len(missing) == 1 else "processes"
        text = f"{ones} {who} of {count} did not come within {timeout:g} s"
        _tell(links.values(), {"lost": text})
        raise LostPeerError(text) from None
      link = Link("", sock)
      hello = link.first(time.monotonic() + _HELLO_SECONDS)
      if not hello or "process" not in hello:
        sock.close()  # none of ours
        continue
      index = hello["process"]
      link.name = f"process {index} on {hello['host']}"
      theirs = {**hello["terms"], "num_processes": hello["count"]}
      other = _difference({**terms, "num_processes": count}, theirs)
      if other:
        text = f"process {index} has {other}"
        links[-1] = link
        _tell(links.values(), {"refused": text})
        raise InputError(text)
      if index in missing:
        links[index] = link
      else:
        text = f"process_id={index}: there is one already"
        link.send({"refused": text})
        sock.close()
    failed.pop_all()
  return links


def _listener(port: int) -> socket.socket:
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    return socket.create_server(
      ("", port), family=family, dualstack_ipv6=dual, backlog=128
    )
  except OSError as error:
    raise InputError(
      f"coordinator: port {port} cannot be opened: {error.strerror}"
    ) from None


def _close(links: Iterable[Link]) -> None:
  for link in links:
    link.sock.close()


def _drain(links: Sequence[Link], seconds: float) -> None:
  """Ends what is said, and waits until the others have ended theirs as well.

  To close a socket while something of the other end is unread resets the
  connection, and what was said last may never arrive.
  """
  deadline = time.monotonic() + seconds
  for link in links:
    with contextlib.suppress(OSError):
      link.sock.shutdown(socket.SHUT_WR)
  for link in links:
    with contextlib.suppress(OSError):
      while (left := deadline - time.monotonic()) > 0:
        link.sock.settimeout(left)
        if not link.sock.recv(65536):
          break


def _tell(links: Iterable[Link], message: Message) -> None:
  for link in links:
    link.send(message)


def call(
  address: tuple[str, int],
  index: int,
  count: int,
  terms: Message,
  timeout: float,
) -> tuple[Link, Message]:
  """Another process finds process 0; the link, and what it said.

  Raises:
    InputError: Process 0 refused it.
    LostPeerError: Process 0 did not answer, or misses another process.
  """
  host, port = address
  silent = f"process 0 at {host}:{port} did not answer within {timeout:g} s"
  deadline = time.monotonic() + timeout
  while True:
    left = deadline - time.monotonic()
    if left <= 0:
      raise LostPeerError(silent)
    try:
      sock = socket.create_connection(address, timeout=left)
      break
    except OSError:
      time.sleep(min(0.1, left))
  link = Link(f"process 0 on {host}", sock)
  own = {"process": index, "count": count, "host": socket.gethostname()}
  link.send({**own, "terms": terms})
  # It may have begun to wait just now, and says whom it missed after that.
  answer = link.first(time.monotonic() + timeout + 1) or {"lost": silent}
  if "port" in answer:
    return link, answer
  sock.close()
  if "refused" in answer:
    raise InputError(answer["refused"])
  raise LostPeerError(answer["lost"])


class Watch:
  """Gives signs of life, and calls `on_loss` when another gives none.

  It does so from a thread of its own, since the main one then waits in a
  collective that never ends.
  """

  def __init__(
    self,
    links: Sequence[Link],
    timeout: float,
    on_loss: Callable[[str], None],
  ):
    """Begins to watch.

    Args:
      timeout: The seconds of silence after which a process is lost.
      on_loss: Gets the line that names it.
    """
    self._links = list(links)
    self._timeout = timeout
    self._beat = min(1.0, timeout / 4)
    self._on_loss = on_loss
    self._over = threading.Event()
    self._failed: tuple[float, str] | None = None  # when to end for it
    for link in self._links:
      link.heard = time.monotonic()
      link.sock.settimeout(timeout)
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def _watch(self) -> None:
    told = 0.0
    while not self._over.is_set():
      live = {link.sock: link for link in self._links if not link.done}
      for sock in select.select([*live], [], [], self._beat)[0]:
        if not self._over.is_set():  # the first of them may have ended it
          self._read(live[sock])
      now = time.monotonic()
      if now - told >= self._beat:
        _tell(self._links, {})
        told = now
      for link in live.values():
        if now - link.heard > self._timeout and not link.done:
          self._lose(link, f"gave no sign of life for {self._timeout:g} s")
      if self._failed and now > self._failed[0]:
        self._end(self._failed[1])
    _drain(self._links, self._beat)
    _close(self._links)

  def _read(self, link: Link) -> None:
    messages = link.receive()
    if messages is None:
      self._lose(link, "its connection closed")
    for message in messages or ():
      if "lost" in message:
        self._end(message["lost"])
      if "failed" in message:
        # All may fail alike, each with a better line of its own.
        self._failed = time.monotonic() + self._timeout, message["failed"]
        _tell((other for other in self._links if other is not link), message)
      link.done = link.done or "done" in message or "failed" in message

  def _lose(self, link: Link, why: str) -> None:
    link.done = True
    self._end(f"{link.name} is lost: {why}")

  def _end(self, text: str) -> None:
    if self._over.is_set():
      return  # what comes of the end is no further loss
    _tell(self._links, {"lost": text})
    self._over.set()
    _drain(self._links, self._beat)  # `on_loss` may end the process
    self._on_loss(text)

  def wait(self) -> None:
    """Lets `on_loss` be called, if another process is the cause of trouble."""
    if self._over.wait(self._timeout + 2 * self._beat):
      self._thread.join()  # it is over before `on_loss` has told it

  def fail(self, text: str) -> None:
    """Tells the others that this process ends before its work is done."""
    _tell(self._links, {"failed": text})

  def finish(self, first: bool) -> None:
    """Returns when every process has called it.

    Args:
      first: Whether this is process 0.
    """
    if not first:
      _tell(self._links, {"done": True})
    while not self._over.is_set():
      if all(link.done for link in self._links):
        break
      time.sleep(0.01)
    if first:
      _tell(self._links, {"done": True})
    self._over.set()
    self._thread.join()


def relay(address: tuple[str, int]) -> int:
  """A local port that leads to `address` and outlives it.

  JAX's client ends the process as soon as its connection to process 0 breaks,
  before the loss could be told in a line; through here it sees silence.
  """
  listener = socket.create_server(("127.0.0.1", 0))
  threading.Thread(target=_serve, args=(listener, address), daemon=True).start()
  return int(listener.getsockname()[1])


def _serve(listener: socket.socket, address: tuple[str, int]) -> None:
  while True:
    near = listener.accept()[0]
    while True:
      try:
        far = socket.create_connection(address)
        break
      except OSError:  # it listens a moment later
        time.sleep(0.05)
    for copy, *ends in ((_forth, near, far), (_copy, far, near)):
      threading.Thread(target=copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
  with contextlib.suppress(OSError):
    while found := source.recv(65536):
      target.sendall(found)


def _forth(near: socket.socket, far: socket.socket) -> None:
  with contextlib.suppress(OSError):
    while found := near.recv(65536):
      with contextlib.suppress(OSError):  # nobody hears it any more
        far.sendall(found)
  far.close()
  near.close()
