"""Real processes that have a module ready, and are lost, or fail, or end."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import pytest

from mnist_jax.runtime import standby

ROOT = Path(__file__).parents[2]
AT_ONCE = 1 if sys.platform == "darwin" else os.cpu_count()
POWERS = [("pow", 2, k) for k in range(5)]


def _alive(pid):
  status = Path(f"/proc/{pid}/stat").read_text()
  return status.rpartition(")")[2].split()[0] != "Z"


def _gone(pids, deadline):
  for pid in pids:
    with contextlib.suppress(FileNotFoundError):
      while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A module's name; where it is loaded matters to what it does."""
  (tmp_path / "mine.py").write_text(
    """
import os, pathlib, time
loaded_in = os.getpid()
cwd = os.getcwd

def meet(folder, own, other):
  pathlib.Path(folder, own).touch()
  end = time.monotonic() + 30
  while not pathlib.Path(folder, other).exists():
    assert time.monotonic() < end
    time.sleep(0.01)
  return os.getpid()

def large(*given):
  meet(*given)
  return bytes(200_000)

def not_forked():
  if os.getpid() != loaded_in:
    os._exit(1)
  return loaded_in
"""
  )
  monkeypatch.syspath_prepend(tmp_path)
  return "mine"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_answers_come_in_the_order_of_the_jobs(processes):
  with standby.Standby("builtins", processes) as ready:
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]
    assert ready.call(POWERS[:1]) == [1]
    assert ready.call([]) == []


def test_others_do_the_work():
  with standby.Standby("os", 1) as ready:
    assert ready.call([("getpid",)]) != [os.getpid()]


def test_what_a_function_raised_is_raised_and_the_next_call_goes_on():
  with standby.Standby("builtins", 2) as ready:
    with pytest.raises(ValueError, match="invalid literal"):
      ready.call([("int", "one"), ("int", "2")])
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]


def test_what_a_function_prints_is_no_answer(capfd):
  with standby.Standby("builtins", 1) as ready:
    assert ready.call([("print", "said"), ("abs", -1)]) == [None, 1]
  assert "said" in capfd.readouterr().err


@pytest.mark.skipif(AT_ONCE < 2, reason="one at a time")
def test_jobs_are_done_at_once(mine, tmp_path):
  with standby.Standby(mine, 2) as ready:
    pids = ready.call(
      [("meet", str(tmp_path), "a", "b"), ("meet", str(tmp_path), "b", "a")]
    )
  assert len(set(pids)) == 2


def test_jobs_of_a_lost_process_are_done_here():
  with standby.Standby("builtins", 2) as ready:
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]
    ready._process.send_signal(signal.SIGKILL)
    ready._process.wait()
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]


def test_a_job_of_a_lost_fork_is_done_by_the_process_it_came_from(mine):
  with standby.Standby(mine, 2) as ready:
    pids = ready.call([("not_forked",)] * 3)
  assert len(set(pids)) == 1
  assert os.getpid() not in pids


@pytest.mark.skipif(AT_ONCE < 2, reason="one at a time")
@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at /proc")
def test_a_process_lost_in_the_midst_leaves_no_fork_and_no_wait(mine, tmp_path):
  jobs = [("large", str(tmp_path), own, "go") for own in ("a", "b")]
  with (
    standby.Standby(mine, 2) as ready,
    futures.ThreadPoolExecutor(1) as beside,
  ):
    answer = beside.submit(ready.call, jobs)
    deadline = time.monotonic() + 30
    while not all((tmp_path / own).exists() for own in ("a", "b")):
      assert time.monotonic() < deadline
      time.sleep(0.01)
    pid = ready._process.pid
    (fork,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ready._process.kill()
    (tmp_path / "go").touch()  # the fork has more to say than a pipe holds
    assert answer.result(timeout=30) == [bytes(200_000)] * 2
    _gone([fork], deadline)


def test_what_a_job_of_a_lost_process_raises_leaves_nothing_behind():
  with standby.Standby("builtins", 2) as ready:
    ready.call(POWERS)
    ready._process.kill()
    ready._process.wait()
    for jobs in ([("int", "one"), ("int", "2")], [("abs", open), ("abs", -1)]):
      with pytest.raises((ValueError, TypeError)):
        ready.call(jobs)
      assert ready.call(POWERS) == [1, 2, 4, 8, 16]


def test_what_cannot_be_sent_is_raised_before_anything_is():
  with standby.Standby("builtins", 2) as ready:
    with pytest.raises((AttributeError, pickle.PicklingError)):
      ready.call([("abs", -1), ("abs", lambda: 0)])
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]


def test_an_error_says_where_it_arose():
  with (
    standby.Standby("base64", 1) as ready,
    pytest.raises(ValueError, match="Incorrect padding") as raised,
  ):
    ready.call([("b64decode", "abc")])
  (note,) = raised.value.__notes__
  assert "in b64decode" in note


def test_it_imports_what_the_caller_can(mine, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with standby.Standby(mine, 1) as ready:
    assert ready.call([("cwd",)]) == [str(tmp_path)]


def test_it_is_silent_when_the_caller_is_killed_in_the_midst():
  program = """
import os, signal, threading
from mnist_jax.runtime import standby
ready = standby.Standby("time", 1)
ready.call([("sleep", 0)])
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
ready.call([("sleep", 1)])
"""
  done = subprocess.run(  # ends when all have closed standard error
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == -signal.SIGKILL
  assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at /proc")
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("end", ["kill", "leave"])
def test_all_end_with_the_caller(mine, tmp_path, end, busy):
  program = f"""
import sys, threading
sys.path.insert(0, {str(tmp_path)!r})
from mnist_jax.runtime import standby
with standby.Standby("mine", 2) as ready:
  print(*ready.call([("getpid",)]), flush=True)
  job = ("meet", {str(tmp_path)!r}, "a", "b")
  if {busy}:
    threading.Thread(target=ready.call, args=([job, job],), daemon=True).start()
  input()
"""
  with (tmp_path / "mine.py").open("a") as module:
    module.write("getpid = os.getpid\n")
  with subprocess.Popen(
    [sys.executable, "-c", program],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as caller:
    (pid,) = caller.stdout.readline().split()
    deadline = time.monotonic() + 30
    while busy and not (tmp_path / "a").exists():  # in the midst of the jobs
      assert time.monotonic() < deadline
      time.sleep(0.05)
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *own]
    assert len(pids) == (min(2, AT_ONCE) if busy else 1)
    assert all(map(_alive, pids))
    if end == "kill":
      caller.kill()
      (tmp_path / "b").touch()  # which the jobs wait for
    else:
      caller.communicate("\n")
  _gone(pids, deadline)


def test_none_are_started_where_none_are_asked_for():
  with standby.Standby("builtins", 0) as ready:
    assert not ready._process
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]
    with pytest.raises(ValueError, match="invalid literal"):
      ready.call([("int", "one")])


def test_the_collector_leaves_out_what_is_loaded():
  with standby.Standby("gc") as ready:
    enabled, frozen = ready.call([("isenabled",), ("get_freeze_count",)])
  assert enabled
  assert frozen > 1000


def test_it_warns_of_nothing_and_ends_as_a_program_does(
  tmp_path, monkeypatch, capfd
):
  left = tmp_path / "left"
  (tmp_path / "tidy.py").write_text(f"""
import atexit, logging, pathlib
logging.getLogger("tidy").warning("a font cache is built")
pathlib.Path({str(left)!r}).touch()
atexit.register(pathlib.Path({str(left)!r}).unlink)

def there():
  return pathlib.Path({str(left)!r}).exists()
""")
  monkeypatch.syspath_prepend(tmp_path)
  with standby.Standby("tidy") as ready:
    assert ready.call([("there",)]) == [True]
  assert not left.exists()
  assert capfd.readouterr() == ("", "")
