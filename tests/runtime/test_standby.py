"""Real processes that have a module ready, and are lost, or fail, or end."""

import os
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
