"""Real processes that have a module ready, and are lost, or fail, or end."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnist_jax.runtime import standby

ROOT = Path(__file__).parents[2]
POWERS = [("pow", 2, k) for k in range(5)]


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


def test_jobs_of_a_lost_process_are_made_here():
  with standby.Standby("builtins", 2) as ready:
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]
    ready._ready[0].send_signal(signal.SIGKILL)
    ready._ready[0].wait()
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]


def test_what_a_job_of_a_lost_process_raises_leaves_nothing_behind():
  with standby.Standby("builtins", 2) as ready:
    ready.call(POWERS)
    ready._ready[0].kill()
    ready._ready[0].wait()
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


def test_they_import_what_the_caller_can(tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text("import os\ncwd = os.getcwd\n")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)
  with standby.Standby("mine", 1) as ready:
    assert ready.call([("cwd",)]) == [str(tmp_path)]


def test_they_are_silent_when_the_caller_is_killed_in_the_midst():
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


def _alive(pid):
  status = Path(f"/proc/{pid}/stat").read_text()
  return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at /proc")
def test_they_end_with_a_caller_that_was_killed():
  program = """
from mnist_jax.runtime import standby
ready = standby.Standby("os", 2)
print(*ready.call([("getpid",), ("getpid",)]), flush=True)
input()
"""
  with subprocess.Popen(
    [sys.executable, "-c", program],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as caller:
    pids = caller.stdout.readline().split()
    assert len(set(pids)) == min(2, os.cpu_count())
    assert all(map(_alive, pids))
    caller.kill()
  end = time.monotonic() + 30
  for pid in pids:
    try:
      while _alive(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    except FileNotFoundError:
      pass


def test_none_are_started_where_none_are_asked_for():
  with standby.Standby("builtins", 0) as ready:
    assert ready._ready == []
    assert ready.call(POWERS) == [1, 2, 4, 8, 16]
    with pytest.raises(ValueError, match="invalid literal"):
      ready.call([("int", "one")])
