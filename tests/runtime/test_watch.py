"""Processes that watch one another, here threads with sockets between them."""

import json
import queue
import socket
import threading
import time

import pytest
import two_processes

from mnist_jax.runtime import _watch
from mnist_jax.runtime.errors import InputError, LostPeerError

T = 1.0  # seconds
WATCHES = []  # of the test


def start(function, *args):
  """Runs it in a thread; a function that waits for what came of it."""
  found = queue.Queue()

  def run():
    try:
      found.put((function(*args), None))
    except Exception as error:
      found.put((None, error))

  threading.Thread(target=run, daemon=True).start()

  def result():
    value, error = found.get(timeout=20)
    if error:
      raise error
    return value

  return result


def meet(count, terms=lambda process: {}):
  """Process 0's links, and the link of each other process."""
  port = two_processes.free_port()
  zero = start(_watch.gather, port, count, terms(0), T)
  others = [
    start(_watch.call, ("localhost", port), i, count, terms(i), T)
    for i in range(1, count)
  ]
  links = zero()
  for link in links.values():
    link.send({"port": 7})
  return [links[i] for i in range(1, count)], [other()[0] for other in others]


@pytest.fixture(autouse=True)
def made(monkeypatch):
  """Ends the watches and closes the links that a test leaves open."""
  links, init = [], _watch.Link.__init__
  WATCHES.clear()

  def noted(link, *args):
    links.append(link)
    init(link, *args)

  monkeypatch.setattr(_watch.Link, "__init__", noted)
  yield
  for one in WATCHES:
    one._over.set()
    one._thread.join()
  _watch._close(links)


def watch(links, timeout=T):
  lost = queue.Queue()
  WATCHES.append(_watch.Watch(links, timeout, lost.put))
  return WATCHES[-1], lost


def test_all_meet_and_all_finish_together():
  links, others = meet(3)
  watches = [watch(links)] + [watch([other]) for other in others]
  time.sleep(1.5 * T)  # beyond the timeout: they do give signs of life
  ends = [start(w.finish, i == 0) for i, (w, _) in enumerate(watches[:2])]
  time.sleep(0.2)
  last = start(watches[2][0].finish, False)
  for end in (*ends, last):
    end()
  assert all(lost.empty() for _, lost in watches)


def test_nobody_leaves_before_the_last_is_done():
  links, others = meet(2)
  (zero, lost), (one, _) = watch(links), watch(others)
  end = start(zero.finish, True)
  with pytest.raises(queue.Empty):
    lost.get(timeout=0.3)
  one.finish(False)
  end()


def test_those_that_do_not_come_are_named_to_all_who_did():
  port = two_processes.free_port()
  begun = time.monotonic()
  zero = start(_watch.gather, port, 4, {}, T)
  two = start(_watch.call, ("localhost", port), 2, 4, {}, T)
  for one in (zero, two):
    with pytest.raises(LostPeerError, match="processes 1, 3 of 4 did not come"):
      one()
  assert time.monotonic() - begun < 2 * T


def test_a_missing_process_0_is_named():
  port = two_processes.free_port()
  with pytest.raises(LostPeerError, match=rf"process 0 at localhost:{port} "):
    _watch.call(("localhost", port), 1, 2, {}, 0.3)


def test_other_terms_are_refused_with_both_values():
  with pytest.raises(InputError, match="batch_size=1, process 0 has 0") as zero:
    meet(2, lambda process: {"batch_size": process, "seed": 0})
  assert str(zero.value).startswith("process 1 has")


def test_two_of_one_number():
  port = two_processes.free_port()
  zero = start(_watch.gather, port, 3, {}, T)
  address = ("localhost", port)
  first = start(_watch.call, address, 1, 3, {}, T)
  time.sleep(0.2)
  with pytest.raises(InputError, match="process_id=1: there is one already"):
    _watch.call(address, 1, 3, {}, T)
  second = start(_watch.call, address, 2, 3, {}, T)
  for link in zero().values():
    link.send({"port": 7})
  assert first()[1] == second()[1] == {"port": 7}


def test_a_stranger_at_the_port_is_passed_over():
  port = two_processes.free_port()
  zero = start(_watch.gather, port, 2, {}, T)
  time.sleep(0.1)
  with socket.create_connection(("localhost", port)) as stranger:
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    start(_watch.call, ("localhost", port), 1, 2, {}, T)
    assert list(zero()) == [1]


def test_a_port_that_is_taken():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(InputError, match=f"port {port} cannot be opened"):
      _watch.gather(port, 2, {}, T)


def test_a_closed_connection_is_told_at_once_to_all():
  links, others = meet(3)
  lost = [watch(links)[1], watch([others[0]])[1]]
  others[1].sock.close()
  for found in lost:
    text = found.get(timeout=T / 2)
    assert text.startswith("process 2 on ")
    assert text.endswith("is lost: its connection closed")


def test_what_is_said_last_is_heard_by_those_who_speak_meanwhile():
  links, (one, two) = meet(3)
  two.sock.sendall(b"\n" * 200_000)  # more than is read at once
  one.sock.close()
  watch(links)
  two.sock.settimeout(T)
  said = b""
  while found := two.sock.recv(65536):  # no ConnectionResetError
    said += found
  assert b"process 1 on " in said


def test_silence_is_a_loss_after_the_timeout():
  links, others = meet(3)
  begun = time.monotonic()
  lost = [watch(links)[1], watch([others[0]])[1]]
  for found in lost:  # process 2 has a connection and says nothing
    text = found.get(timeout=3 * T)
    assert text.startswith("process 2 on ")
    assert text.endswith("gave no sign of life for 1 s")
  assert 0.9 * T < time.monotonic() - begun < 2 * T


def test_a_failure_ends_the_others_if_they_do_not_end_by_themselves():
  links, others = meet(3)
  (_, zero), (one, _), (_, two) = (
    watch(links),
    watch([others[0]]),
    watch([others[1]]),
  )
  begun = time.monotonic()
  one.fail("process 1 ended with exit code 2")
  one._over.set()  # and its connection closes
  for found in (zero, two):
    assert found.get(timeout=3 * T) == "process 1 ended with exit code 2"
  assert time.monotonic() - begun > 0.9 * T


def test_the_relay_stays_open_when_the_other_end_has_gone():
  with socket.create_server(("127.0.0.1", 0)) as server:
    near = socket.create_connection(
      ("127.0.0.1", _watch.relay(("127.0.0.1", server.getsockname()[1])))
    )
    far = server.accept()[0]
    for source, target in ((near, far), (far, near)):
      source.sendall(b"hello")
      assert target.recv(5) == b"hello"
    far.close()
  near.settimeout(0.1)
  for _ in range(3):  # also where something is still sent
    with pytest.raises(TimeoutError):
      near.recv(1)
    near.sendall(b"hello")
  near.close()


def test_whoever_waits_for_a_loss_waits_until_it_is_told():
  a, b = socket.socketpair()
  told = []

  def tell(text):
    time.sleep(0.2)
    told.append(text)

  watch = _watch.Watch([_watch.Link("process 1 on here", a)], T, tell)
  b.close()
  watch.wait()
  assert told == ["process 1 on here is lost: its connection closed"]


def test_a_message_may_come_in_pieces():
  a, b = socket.socketpair()
  link = _watch.Link("b", a)
  text = json.dumps({"port": 7}).encode() + b"\n\n"
  b.sendall(text[:4])
  assert link.receive() == []
  b.sendall(text[4:])
  assert link.receive() == [{"port": 7}]
  b.close()
