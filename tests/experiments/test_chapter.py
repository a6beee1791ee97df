"""All studies one after another: what is run, what is not run again."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from experiments import chapter, claims
from experiments._shared.study import _sweeps_below

CODE = {
  "experiments/some.py": '"""A study."""\nfrom mnist_jax import one, plain\n',
  "mnist_jax/one.py": "from mnist_jax.pack.two import f\n",
  "mnist_jax/plain.py": "X = 1\n",
  "mnist_jax/other.py": "Y = 1\n",
  "mnist_jax/pack/__init__.py": "from mnist_jax.pack.three import Z\n",
  "mnist_jax/pack/two.py": "def f():\n  return 1\n",
  "mnist_jax/pack/three.py": "Z = 1\n",
  "mnist_jax/pack/unused.py": "U = 1\n",
  "experiments/whole/__main__.py": "from experiments.whole import study\n",
  "experiments/whole/__init__.py": "",
  "experiments/whole/study.py": "from experiments.whole import piece\n",
  "experiments/whole/piece.py": "from mnist_jax import plain\n",
}


def test_every_claim_has_its_study():
  judged = [claim for some in chapter.STUDIES.values() for claim in some]
  assert sorted(judged) == sorted(claims.CLAIMS)
  for name, own in chapter.STUDIES.items():
    path = chapter.program(name)
    if path.stem == "__main__":
      path = path.with_name("study.py")
    text = path.read_text("utf-8")
    for claim in own:
      assert claim in text, f"{name} does not name {claim}"


@pytest.fixture
def key_of(tmp_path, monkeypatch):
  """The key of a small tree of code, with some files replaced."""
  monkeypatch.setattr(chapter, "ROOT", tmp_path)

  def key(study="some", **changed):
    for name, text in (CODE | changed).items():
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    chapter.code_key.cache_clear()
    return chapter.code_key(study)

  yield key
  chapter.code_key.cache_clear()


@pytest.mark.parametrize(
  ("name", "text", "same"),
  [
    ("experiments/some.py", "from mnist_jax import one, plain\n", True),
    ("experiments/some.py", "from mnist_jax import plain, one\n", True),
    ("mnist_jax/pack/two.py", "def f():\n  # why\n  return 1\n", True),
    ("mnist_jax/other.py", "Y = 2\n", True),
    ("mnist_jax/pack/unused.py", "U = 2\n", True),
    ("mnist_jax/pack/two.py", "def f():\n  return 2\n", False),
    ("mnist_jax/pack/three.py", "Z = 2\n", False),
    ("mnist_jax/plain.py", "X = 2\n", False),
    ("experiments/some.py", "from mnist_jax import one\n", False),
  ],
)
def test_a_key_is_of_the_code_that_a_study_rests_on(key_of, name, text, same):
  before = key_of()
  assert (key_of(**{name: text}) == before) is same


@pytest.mark.parametrize(
  ("name", "text", "same"),
  [
    (
      "experiments/whole/study.py",
      "from experiments.whole import piece\nS = 1\n",
      False,
    ),
    ("experiments/whole/piece.py", "from mnist_jax import other\n", False),
    ("mnist_jax/plain.py", "X = 2\n", False),
    ("mnist_jax/other.py", "Y = 2\n", True),
  ],
)
def test_a_key_sees_through_packages(key_of, name, text, same):
  before = key_of("whole")
  assert (key_of("whole", **{name: text}) == before) is same


def command(folder, *flags):
  line = [sys.executable, "-m", "experiments.chapter", "--preset=quick"]
  return [*line, f"--workdir={folder}", *flags]


ENV = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(folder, *flags):
  return subprocess.run(
    command(folder, *flags),
    cwd=chapter.ROOT,
    env=ENV,
    capture_output=True,
    text=True,
  )


def test_what_is_done_is_not_run_again_and_what_is_stale_is(tmp_path):
  first = run(tmp_path, "--only=line_fit")
  assert first.returncode == 0, first.stderr
  assert "[1/1] line_fit (B9)" in first.stderr
  head, row = first.stdout.splitlines()[-3:-1]
  assert head.split() == ["B9", "holds", "n", "derived"]
  assert row.startswith("  Three points give J = 1/3 and eta = 1.5,")
  (folder,) = (tmp_path / "quick").iterdir()
  verdict = folder / "verdict.json"
  written = json.loads(verdict.read_text())
  assert written["command"] == ("python -m experiments.line_fit --preset=quick")

  begun = verdict.stat().st_mtime_ns
  second = run(tmp_path, "--only=line_fit")
  assert "[1/1] line_fit: done before" in second.stderr
  assert second.stdout.splitlines()[-2] == row
  assert verdict.stat().st_mtime_ns == begun

  stamp = folder / "chapter.json"
  stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"code": "0"}))
  third = run(tmp_path, "--only=line_fit")
  assert "done before" not in third.stderr
  assert verdict.stat().st_mtime_ns > begun


FOUR = ("seeds", "lr_batch_size", "critical_batch", "adam_batch")


@pytest.fixture
def pretended(tmp_path, monkeypatch):
  """`run_all` of studies of half an hour each, which are only noted as done."""
  ran, now = [], [0.0]
  monkeypatch.chdir(tmp_path)
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(chapter, "time", clock)
  monkeypatch.setattr(chapter, "seconds_before", lambda study: 1800.0)
  monkeypatch.setattr(
    chapter, "is_done", lambda study, preset, digest: (study, preset) in ran
  )

  def run_study(study, preset, digest):
    ran.append((study, preset))
    now[0] += 1800.0 if preset == "full" else 60.0
    return study != "seeds"

  monkeypatch.setattr(chapter, "run_study", run_study)

  def all_of(studies=FOUR, preset="full", hours=4.0):
    flags = types.SimpleNamespace(preset=preset, hours=hours, workdir=None)
    monkeypatch.setattr(chapter, "FLAGS", flags)
    del ran[:]
    return chapter.run_all(studies, "digest")

  return all_of


@pytest.mark.parametrize(
  ("hours", "last"),
  [
    (2.0, ("full", "full")),
    (1.9, ("full", "quick")),
    (1.0, ("quick", "quick")),
    (0.0, ("quick", "quick")),
  ],
)
def test_further_questions_are_in_full_as_far_as_the_hours_reach(
  pretended, hours, last
):
  made = pretended(hours=hours)
  assert made == {
    "lr_batch_size": "full",
    **dict(zip(FOUR[2:], last, strict=True)),
  }


def test_what_is_left_is_said_with_its_cost(pretended, capsys):
  pretended(hours=1.0)
  told = capsys.readouterr().err.splitlines()
  assert told[0] == (
    "[1/4] seeds (N1, N2), about 30 min; all that is left, about 60 min"
  )
  assert told[2] == (
    "[3/4] critical_batch (H3), in quick, as --hours=1 do not hold it, "
    "about 30 min in full"
  )


def test_quick_makes_all_in_quick(pretended):
  assert {*pretended(preset="quick", hours=0.0).values()} == {"quick"}


def children(pid):
  """The commands of a process's children."""
  proc = Path("/proc")
  own = (proc / f"{pid}/task/{pid}/children").read_text().split()
  return [(proc / each / "cmdline").read_text().split("\0") for each in own]


def test_ctrl_c_stops_the_study_and_says_how_to_go_on(tmp_path):
  with subprocess.Popen(
    command(tmp_path, "--only=seeds"),
    cwd=chapter.ROOT,
    env=ENV,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,  # a group of its own, as on a terminal
  ) as process:
    while not list(tmp_path.glob("quick/*/sweep/manifest.json")):
      assert process.poll() is None
      time.sleep(0.1)
    if os.path.exists("/proc"):  # a study is shown the runs of the others
      (child,) = children(process.pid)
      assert f"--known_runs={tmp_path / 'quick'}" in child
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
  assert process.returncode == 130
  assert "stopped in seeds; the same command goes on" in said
  assert "Traceback" not in said
  assert not list((tmp_path / "quick").glob("*/chapter.json"))


def test_an_unknown_study_and_a_quick_result_to_publish_are_refused(tmp_path):
  for flag in ("--only=seed", "--publish", "--hours=nan"):
    done = run(tmp_path, flag)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {flag}")
    assert len(done.stderr.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def study(name, folder, *flags):
  line = [sys.executable, "-m", f"experiments.{name}", f"--workdir={folder}"]
  return subprocess.run(
    [*line, "--num_train=500", "--dev_size=59000", *flags],
    cwd=chapter.ROOT,
    env=ENV,
    capture_output=True,
    text=True,
  )


def test_a_run_that_two_studies_need_is_made_by_the_first(tmp_path):
  known = f"--known_runs={tmp_path}"
  tables = []
  for name, taken in (("first", 0), ("second", 8)):
    done = study("lr_comparison", tmp_path / name, "--seeds=2", known)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / name / "verdict.json").read_text())
    assert verdict["runs_taken"] == taken
    assert "known_runs" not in verdict["command"]
    tables.append((tmp_path / name / "summary.csv").read_text())
  assert tables[0] == tables[1]


def test_no_such_folder_of_known_runs(tmp_path):
  done = study("lr_comparison", tmp_path, f"--known_runs={tmp_path / 'no'}")
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    f"error: --known_runs={tmp_path / 'no'}: found no directory of that name"
  )


def test_all_sweeps_below_are_known_but_a_study_s_own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("me/sweep", "me/other", "else/full/sweep"):
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
  found = _sweeps_below(str(tmp_path / "runs"), Path("runs/me"))
  assert found == [tmp_path / "runs/else/full/sweep"]
