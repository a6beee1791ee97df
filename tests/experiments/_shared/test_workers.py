"""Cases on all cores: their order, jax's settings, and what a kill leaves.

Its processes import this file, and so nothing slow.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments._shared import workers
from mnist_jax.runtime import devices
from mnist_jax.runtime.errors import InputError

PROMOTION = "jax_numpy_dtype_promotion"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
  monkeypatch.setattr(devices, "cores", lambda: 2)


def case(folder, number):
  """The first waits for the second to end."""
  while number == 0 and not (folder / "1").exists():
    time.sleep(0.01)
  (folder / str(number)).touch()
  setting = jax.config.values[PROMOTION]
  return [{"number": number, "pid": os.getpid(), "promotion": setting}]


def test_cases_end_in_any_order_and_are_given_in_theirs(tmp_path):
  from experiments._shared import study

  cases = {str(n): functools.partial(case, tmp_path, n) for n in range(3)}
  before, begun = jax.config.values[PROMOTION], time.monotonic()
  jax.config.update(PROMOTION, "strict")
  try:
    lab = study.Lab(None, tmp_path, overwrite=False)
    records = lab.collect(cases, at_once=True)
  finally:
    jax.config.update(PROMOTION, before)
  assert [record["number"] for record in records] == [0, 1, 2]
  assert os.getpid() not in {record["pid"] for record in records}
  assert {record["promotion"] for record in records} == {"strict"}
  assert 0 < lab.seconds <= time.monotonic() - begun
  (path,) = tmp_path.glob("*.jsonl")
  filed = [json.loads(line)["case"] for line in path.read_text().splitlines()]
  assert filed.index("1") < filed.index("0")
  # None of them runs again.
  again = study.Lab(None, tmp_path, overwrite=False)
  assert again.collect(dict.fromkeys(cases), at_once=True) == records


def test_a_killed_process_is_one_clear_line():
  cases = dict.fromkeys("ab", functools.partial(os._exit, 9))
  with pytest.raises(InputError, match="was killed"):
    list(workers.finished(cases))


def sleep(folder, number):
  (folder / str(number)).touch()
  time.sleep(600)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
  line = [sys.executable, __file__, str(tmp_path)]
  root = Path(__file__).parents[3]
  env = os.environ | {"PYTHONPATH": str(root)}
  with subprocess.Popen(line, stdout=subprocess.PIPE, env=env) as parent:
    until = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
      time.sleep(0.05)
    parent.kill()
    # The pipe's end is seen when no process holds it any more.
    parent.communicate(timeout=60)
  assert len(list(tmp_path.iterdir())) == 2


if __name__ == "__main__":
  devices.cores = lambda: 2
  here = Path(sys.argv[1])
  list(workers.finished({n: functools.partial(sleep, here, n) for n in "ab"}))
