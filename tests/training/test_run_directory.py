"""The run directory: what it keeps, what it refuses, what it never loses."""

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import two_processes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_jax.runtime import environment, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import run_directory
from mnist_jax.training.run_directory import open_run, read_run

ROOT = Path(__file__).parents[2]


def make_config(**flags):
  return {
    "flags": {"batch_size": 128, "learning_rate": 0.2, "epochs": 40, **flags},
    "seed": 0,
    "data_digest": "d1",
    "versions": {"jax": "0.10.2"},
    "device": {"kind": "cpu"},
    "git_revision": "abc",
  }


def make_row(epoch):
  return {"epoch": epoch, "step": 430 * epoch, "train_loss": 1 / (1 + epoch)}


@pytest.fixture
def workdir(tmp_path):
  """A run that has trained two epochs."""
  path = tmp_path / "run"
  with open_run(path, make_config()) as run:
    for epoch in range(3):
      run.append_row(make_row(epoch))
  return path


def refused(*args, **kwargs):
  with pytest.raises(InputError) as raised:
    open_run(*args, **kwargs)
  assert "\n" not in str(raised.value)
  return str(raised.value)


def content(directory):
  return {
    path.relative_to(directory).as_posix(): path.read_bytes()
    for path in directory.rglob("*")
    if path.is_file()
  }


def test_new_run_records_its_configuration(tmp_path):
  path = tmp_path / "a" / "b"
  with open_run(path, make_config()) as run:
    assert run.path == path
    assert run.writes
    assert run.rows() == ()
  config = json.loads((path / "config.json").read_text())
  (session,) = config.pop("sessions")
  assert config == make_config()
  assert session.pop("started").endswith("+00:00")
  assert session == {
    "epochs": 40,
    "versions": {"jax": "0.10.2"},
    "device": {"kind": "cpu"},
    "git_revision": "abc",
  }


def test_the_home_directory_may_be_named(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  open_run("~/run", make_config()).close()
  assert os.listdir(tmp_path) == ["run"]
  assert read_run("~/run").path == tmp_path / "run"


def test_same_configuration_continues(workdir):
  with open_run(workdir, make_config()) as run:
    assert run.rows() == tuple(map(make_row, range(3)))
  assert len(read_run(workdir).config["sessions"]) == 2


def test_other_environment_continues_and_is_noted(workdir):
  other = make_config() | {"git_revision": "def", "device": {"kind": "H200"}}
  open_run(workdir, other).close()
  config = read_run(workdir).config
  assert config["git_revision"] == "abc"
  assert [s["git_revision"] for s in config["sessions"]] == ["abc", "def"]
  assert config["sessions"][1]["device"] == {"kind": "H200"}


def test_other_configuration_is_refused_with_every_difference(workdir):
  before = content(workdir)
  other = make_config(batch_size=64, sizes=(784, 10))
  del other["flags"]["learning_rate"]
  message = refused(workdir, other | {"data_digest": "d2", "git_revision": "x"})
  assert message.startswith(f"batch_size=128 in {workdir}, now 64; ")
  assert f"learning_rate=0.2 in {workdir}, now absent; " in message
  assert f"sizes=absent in {workdir}, now [784, 10] (" in message
  assert f"data_digest=d1 in {workdir}, now d2; " in message
  assert "overwrite" in message
  assert "workdir" in message
  assert "epochs" not in message
  assert "git" not in message
  assert content(workdir) == before


def test_configuration_survives_its_json(tmp_path):
  flags = {"t": (1, 2), "x": np.float32(0.1), "none": None, "inf": math.inf}
  config = make_config(nan=math.nan, **flags)
  for _ in range(2):
    open_run(tmp_path / "run", config).close()


def test_epochs_may_grow_and_shrink_to_what_is_trained(workdir):
  for epochs in (50, 2, 40):
    open_run(workdir, make_config(epochs=epochs)).close()
    config = read_run(workdir).config
    assert config["flags"]["epochs"] == epochs
    assert config["sessions"][-1]["epochs"] == epochs
  message = refused(workdir, make_config(epochs=1))
  assert message.startswith(f"epochs=2 done in {workdir}, now 1 (")
  assert read_run(workdir).config["flags"]["epochs"] == 40
  message = refused(workdir, make_config(epochs=50), growable=())
  assert f"epochs=40 in {workdir}, now 50" in message


def test_overwrite_removes_what_is_ours_and_nothing_else(workdir):
  with open_run(workdir, make_config()) as run:
    run.write_bytes("curves.png", b"old")
    run.write_json("summary.json", {})
    (run.checkpoints / "430" / "state").mkdir(parents=True)
    (run.checkpoints / "430.tmp").mkdir()
    (run.checkpoints / "430.damaged-1").mkdir()
    (run.checkpoints / "mine").mkdir()
    run.events.mkdir()
    (run.events / "events.out.tfevents.0000000001").write_bytes(b"")
  (workdir / "notes.txt").write_text("keep")
  (workdir / "mine.png").write_text("keep")
  with open_run(workdir, make_config(batch_size=64), overwrite=True) as run:
    assert run.rows() == ()
    left = {p.relative_to(workdir).as_posix() for p in workdir.rglob("*")}
    assert left == {
      ".lock",
      "config.json",
      "notes.txt",
      "mine.png",
      "checkpoints",
      "checkpoints/mine",
    }
  config = read_run(workdir).config
  assert config["flags"]["batch_size"] == 64
  assert len(config["sessions"]) == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("thesis.txt", "text", "'thesis.txt'"),
    (".hidden", "text", "'.hidden'"),
    ("config.json", '{"model": 1}', "has no 'flags', expected a run's"),
    ("config.json", "[1]", "expected a JSON object"),
    ("config.json", '{"flags": ', "expected a JSON object"),
  ],
)
def test_directory_that_is_no_run_is_refused(
  tmp_path, name, text, message, overwrite
):
  (tmp_path / name).write_text(text)
  found = refused(tmp_path, make_config(), overwrite=overwrite)
  assert str(tmp_path) in found
  assert message in found
  assert content(tmp_path) == {name: text.encode()}


def test_path_that_cannot_be_a_directory_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("x")
  assert "is a file" in refused(file, make_config())
  assert "Not a directory" in refused(file / "run", make_config())


def held(path):
  """What is in a directory but the lock, which some filelocks leave there."""
  return sorted({*os.listdir(path)} - {".lock"})


def test_start_killed_before_its_configuration_starts_again(tmp_path):
  (tmp_path / ".lock").touch()
  (tmp_path / ".tmp-0-config.json").write_text("{")
  os.utime(tmp_path / ".tmp-0-config.json", (0, 0))
  open_run(tmp_path, make_config()).close()
  assert held(tmp_path) == ["config.json"]


def test_a_folder_that_was_only_looked_at_is_empty(tmp_path):
  (tmp_path / ".DS_Store").touch()
  open_run(tmp_path, make_config()).close()
  open_run(tmp_path, make_config(), overwrite=True).close()
  assert held(tmp_path) == [".DS_Store", "config.json"]


def test_one_process_at_a_time(workdir):
  with open_run(workdir, make_config()):
    for overwrite in (False, True):
      message = refused(workdir, make_config(), overwrite=overwrite)
      assert message.startswith(f"workdir={workdir}: is being written")
    assert len(read_run(workdir).rows) == 3  # readers are not kept out
  refused(workdir, make_config(batch_size=1))
  open_run(workdir, make_config()).close()  # a refusal leaves no lock


def test_rows_are_one_strict_json_object_a_line_in_the_given_order(tmp_path):
  row = {
    "epoch": 0,
    "b": np.float32(0.1),
    "a": jnp.float32(2.0),
    "nan": math.nan,
    "more": {"inf": np.inf, "down": [-math.inf, True, None]},
  }
  with open_run(tmp_path / "run", make_config()) as run:
    run.append_row(row)
    run.append_row({"epoch": np.int32(1), "b": 0.1})
    rows = run.rows()
  path = tmp_path / "run" / "metrics.jsonl"
  assert path.read_text() == (
    '{"epoch": 0, "b": 0.10000000149011612, "a": 2.0, "nan": "NaN", '
    '"more": {"inf": "Infinity", "down": ["-Infinity", true, null]}}\n'
    '{"epoch": 1, "b": 0.1}\n'
  )
  assert str(read_run(tmp_path / "run").rows) == str(rows)
  assert math.isnan(rows[0]["nan"])
  assert rows[0]["more"] == {"inf": math.inf, "down": [-math.inf, True, None]}


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = values.filter(lambda v: v not in ("NaN", "Infinity", "-Infinity"))


@settings(
  max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.text(), values))
def test_any_row_comes_back(workdir, row):
  row = row | {"epoch": 3}
  with open_run(workdir, make_config()) as run:
    run.truncate_rows(2)
    run.append_row(row)
  assert repr(read_run(workdir).rows[-1]) == repr(row)


def test_no_epoch_twice(workdir):
  with open_run(workdir, make_config()) as run:
    before = content(workdir)
    for epoch in (0, 2):
      with pytest.raises(ValueError, match=f"epoch {epoch} after one for 2"):
        run.append_row(make_row(epoch))
    assert content(workdir) == before


def test_rows_after_the_checkpoint_are_dropped_and_written_again(workdir):
  before = (workdir / "metrics.jsonl").read_bytes()
  with open_run(workdir, make_config()) as run:
    assert run.truncate_rows(2) == 0
    assert run.truncate_rows(0) == 2
    assert [row["epoch"] for row in read_run(workdir).rows] == [0]
    for epoch in (1, 2):
      run.append_row(make_row(epoch))
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_row_that_json_cannot_hold_changes_nothing(workdir):
  with open_run(workdir, make_config()) as run:
    before = content(workdir)
    with pytest.raises(TypeError):
      run.append_row({"epoch": 3, "x": object()})
    assert content(workdir) == before
    assert len(run.rows()) == 3


def test_a_full_disk_is_said_with_the_file(workdir):
  before = content(workdir)
  with open_run(workdir, make_config()) as run:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
      with pytest.raises(OSError, match=r"metrics\.jsonl"):
        run.append_row(make_row(3))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  name = "metrics.jsonl"
  assert content(workdir)[name] == before[name]


def test_replacing_is_all_or_nothing(workdir):
  target = workdir / "curves.png"
  with files.replacing(target) as path:
    assert path.suffix == ".png"
    assert not target.exists()
    path.write_bytes(b"one")
  with pytest.raises(ZeroDivisionError), files.replacing(target) as path:
    path.write_bytes(b"half" * (1 // path.write_bytes(b"")))
  assert target.read_bytes() == b"one"
  assert not list(workdir.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", ".lock", ".."])
def test_only_plain_file_names(workdir, name):
  with open_run(workdir, make_config()) as run, pytest.raises(ValueError):
    run.write_bytes(name, b"")


def test_read_run(workdir):
  assert read_run(workdir).summary is None
  with open_run(workdir, make_config()) as run:
    run.write_json("summary.json", {"test_loss": math.inf, "x": jnp.ones(2)})
  run = read_run(workdir)
  assert run.path == workdir
  assert run.config["seed"] == 0
  assert run.rows == tuple(map(make_row, range(3)))
  assert run.summary == {"test_loss": math.inf, "x": [1.0, 1.0]}


@pytest.mark.parametrize(
  ("name", "damage", "message"),
  [
    ("metrics.jsonl", b'{"epoch": 0}\n{"epo', "metrics.jsonl:2: found"),
    ("metrics.jsonl", b"\xff\n", "metrics.jsonl:1: found"),
    ("metrics.jsonl", b"3\n", "metrics.jsonl:1: found b'3', expected a JSON"),
    ("summary.json", b"{", "summary.json: found b'{', expected a JSON object"),
    ("config.json", b"", "config.json: found b''"),
    ("config.json", None, "has no config.json, expected a run"),
  ],
)
def test_reading_what_is_no_run_is_one_line(workdir, name, damage, message):
  (workdir / name).unlink(missing_ok=True)
  if damage is not None:
    (workdir / name).write_bytes(damage)
  with pytest.raises(InputError) as raised:
    read_run(workdir)
  assert str(raised.value).startswith(str(workdir))
  assert message in str(raised.value)
  assert "\n" not in str(raised.value)


def test_reading_no_directory(tmp_path):
  with pytest.raises(InputError, match="is no directory, expected a run"):
    read_run(tmp_path / "none")


def run_python(script, *args):
  return subprocess.run(
    [sys.executable, "-c", script, *map(str, args)],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )


def test_reading_starts_no_device(workdir):
  script = """
import sys
from jax.extend import backend
from mnist_jax.training import run_directory
print(len(run_directory.read_run(sys.argv[1]).rows))
import jax
jax.config.update("jax_platforms", "none such")
try:
  backend.get_backend()
except RuntimeError:
  print("not started")
"""
  assert run_python(script, workdir).stdout == "3\nnot started\n"


# Writes rows and a file without end; forked from a process that has imported
# everything but started nothing, and killed.
KILLED = """
import itertools, os, signal, sys, time, warnings
from pathlib import Path
import jax
from mnist_jax.training.run_directory import open_run, read_run
warnings.filterwarnings("ignore", message=".*fork")
path, config = Path(sys.argv[1]), {"flags": {}}
for delay in map(float, sys.argv[2:]):
  reader, writer = os.pipe()
  if not (child := os.fork()):
    run = open_run(path, config)
    for epoch in itertools.count(len(run.rows())):
      run.append_row({"epoch": epoch, "text": "x" * 1000})
      run.write_bytes("curves.png", b"%d" % epoch * 100000)
      os.write(writer, b".")
  os.close(writer)
  with os.fdopen(reader, "rb") as dots:
    dots.read(3)
    time.sleep(delay)
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  rows = read_run(path).rows
  assert [row["epoch"] for row in rows] == list(range(len(rows)))
  png = (path / "curves.png").read_text()
  assert png in [f"{len(rows) - n}" * 100000 for n in (1, 2)], len(png)
"""


def test_sigkill_tears_no_file_and_frees_the_lock(tmp_path):
  delays = np.linspace(0, 0.02, 8)
  result = run_python(KILLED, tmp_path / "run", *delays)
  assert result.returncode == 0, result.stderr
  with open_run(tmp_path / "run", {"flags": {}}) as run:
    assert len(run.rows()) >= 3 * len(delays)


PROCESSES = """
import sys, time, jax
from pathlib import Path
path, address, process = sys.argv[1:]
path = Path(path)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(process))
from jax.experimental import multihost_utils
from mnist_jax.training import run_directory
from mnist_jax.runtime.errors import InputError
from mnist_jax.training.run_directory import open_run
if process == "1":  # slow to read, so that process 0 could be ahead of it
  read = run_directory._read_rows
  run_directory._read_rows = lambda path: (time.sleep(1), read(path))[1]
with open_run(path, {"flags": {"x": 1}}) as run:
  run.append_row({"epoch": 0})
  run.write_bytes(f"by_{process}.bin", b"")
  assert len(run.rows()) == 1
  assert (run.events is None) == (process == "1")
  multihost_utils.sync_global_devices("written")
try:
  open_run(path, {"flags": {"x": 2}})
except InputError as error:
  print(error)
"""


def test_process_0_writes_and_all_are_refused_together(tmp_path):
  path = tmp_path / "run"
  results = two_processes.run(PROCESSES, path)
  assert [code for code, _, _ in results] == [0, 0], results
  assert f"x=1 in {path}, now 2" in results[0][1]
  assert "refused by process 0" in results[1][1]
  names = [".files", "by_0.bin", "config.json", "metrics.jsonl"]
  assert held(path) == names


def test_environment_keys_are_those_that_may_differ():
  assert set(environment.describe()) == set(run_directory.ENVIRONMENT)
