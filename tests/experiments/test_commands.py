"""Every experiment as its user meets it: help, mistakes, what a run leaves."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(
  path.stem if path.stem != "__main__" else path.parent.name
  for pattern in ("*.py", "*/__main__.py")
  for path in (ROOT / "experiments").glob(pattern)
  if re.search(r"app\.run\(|study\.main\(", path.read_text())
)
# The least of a study that leaves nothing out (adaptive_rates compiles long).
SMALL = (
  "--num_train=1000",
  "--hidden_sizes=16",
  "--activations=sigmoid",
  "--batch_size=100",
  "--learning_rate=0.5",
)

# Runs `python -m experiments.NAME FLAGS` in a child for each line of stdin,
# forked from a process that has imported the libraries but started nothing:
# importing takes longer than all else that most tests here do.
SERVER = """
import json, os, runpy, sys, traceback, warnings
import jax, matplotlib.pyplot, optax, orbax.checkpoint, pandas, scipy.stats
import tensorboardX
from mnist_jax.training import checkpoint
from mnist_jax import data
from mnist_jax.plotting import run as run_figures
from mnist_jax.training import runner
warnings.filterwarnings("ignore", message=".*fork")
for line in sys.stdin:
  module, argv, printed, said = json.loads(line)
  if not (pid := os.fork()):
    for number, path in ((1, printed), (2, said)):
      os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 0
    try:
      sys.argv = [module, *argv]
      runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
      code = error.code or 0
    except BaseException:
      traceback.print_exc()
      code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  print(code, flush=True)
"""


class Done(NamedTuple):
  code: int
  printed: str
  said: str


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
  """experiment(name, *flags) runs it to its end."""
  folder = tmp_path_factory.mktemp("output")
  paths = folder / "printed", folder / "said"
  with subprocess.Popen(
    [sys.executable, "-c", SERVER],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as server:

    def run(name, *flags):
      call = [f"experiments.{name}", list(map(str, flags)), *map(str, paths)]
      server.stdin.write(json.dumps(call) + "\n")
      server.stdin.flush()
      code = int(server.stdout.readline())
      return Done(code, *(path.read_text() for path in paths))

    yield run
    server.stdin.close()


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
  """A short run of the training experiment, and what it printed."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  done = experiment("train", *SMALL, "--epochs=5", f"--workdir={workdir}")
  assert done.code == 0, done.said
  return workdir, done


def read_json(path):
  return json.loads(path.read_text())


def read_rows(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_the_experiments_are_found():
  assert {"train", "predict"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_fits_a_screen(experiment, name):
  short = experiment(name, "--helpshort")
  assert (short.code, short.said) == (0, "")
  assert experiment(name, "--help") == short
  lines = short.printed.splitlines()
  assert len(lines) <= 60
  assert max(map(len, lines)) <= 100
  assert f"python -m experiments.{name}" in short.printed
  named = re.findall(r"^  --([a-z0-9_]+)(?:=\S*)?  +\S", short.printed, re.M)
  assert named
  assert len(named) == len(set(named))
  assert len(named) == len([x for x in lines if x.startswith("  --")])
  assert "<" not in re.sub(r"`.*?`", "", short.printed.split("\n  --", 1)[1])


def test_auto_chooses_the_rate_of_the_range_test(experiment, tmp_path):
  flags = (
    "train",
    *SMALL[:-1],
    "--num_train=5000",
    "--learning_rate=auto",
    "--epochs=2",
    f"--workdir={tmp_path}",
  )
  done = experiment(*flags)
  assert done.code == 0, done.said
  said = re.search(r"^learning rate (\S+): range test, rule", done.said, re.M)
  config = read_json(tmp_path / "config.json")
  assert config["flags"]["learning_rate"] == float(said[1])
  assert config["learning_rate_chosen"] in done.said
  assert {row["learning_rate"] for row in read_rows(tmp_path)} == {
    np.float32(said[1])
  }
  # As if it had been given: the range test left nothing behind.
  given = tmp_path / "given"
  flags = (*flags[:-3], f"--learning_rate={said[1]}", "--epochs=2")
  assert experiment(*flags, f"--workdir={given}").code == 0
  digests = {
    read_json(path / "summary.json")["params_sha256"]
    for path in (tmp_path, given)
  }
  assert len(digests) == 1
  # And a resumed run chooses the same again.
  again = experiment(
    "train",
    *SMALL[:-1],
    "--num_train=5000",
    "--learning_rate=auto",
    "--epochs=3",
    f"--workdir={tmp_path}",
  )
  assert again.code == 0, again.said
  assert "goes on after epoch 2" in again.said


@pytest.mark.parametrize("rate", ["fast", "0", "-1", "nan", "inf"])
def test_a_rate_that_is_none_is_one_line(experiment, rate):
  done = experiment("train", f"--learning_rate={rate}")
  assert done.code == 2
  assert "learning_rate" in done.said
  assert len(done.said.splitlines()) == 1


def test_a_study_writes_its_verdict_table_and_figures(experiment, tmp_path):
  size = ("--epochs=1", "--seeds=2", "--widths=8,12", "--num_train=512")
  flags = (*size, f"--workdir={tmp_path}")
  done = experiment("seeds", *flags)
  assert done.code == 0, done.said
  verdict = read_json(tmp_path / "verdict.json")
  assert verdict["study"] == "seeds"
  assert verdict["preset"] == "quick"
  assert verdict["command"].startswith("python -m experiments.seeds --")
  for claim in verdict["claims"]:
    assert f"{claim['claim']}  UNDECIDED\n  {claim['sentence']}" in done.printed
  parts = [part for claim in verdict["claims"] for part in claim["parts"]]
  assert {part["verdict"] for part in parts} == {"undecided"}
  for part in parts:
    assert f"  {part['name']}" in done.printed
    assert part["n"] == 2
    assert part["interval"][0] <= part["effect"] <= part["interval"][1]
    assert part["test"]
    assert part["text"]
  for key in ("device", "versions", "wall_seconds", "date", "code_version"):
    assert verdict[key]
  table = pd.read_parquet(tmp_path / "table.parquet")
  assert not table["dev_accuracy"].isna().any()
  assert len(pd.read_csv(tmp_path / "summary.csv")) > 0
  pictures = sorted(tmp_path.glob("*.png"))
  assert pictures
  for path in pictures:
    with Image.open(path) as picture:
      assert min(picture.size) > 400
  # Once more: nothing is trained again, and the same is found.
  cells = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/cells/*")}
  assert experiment("seeds", *flags).code == 0
  again = read_json(tmp_path / "verdict.json")
  assert again["claims"] == verdict["claims"]
  assert cells == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/cells/*")}


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("lr_comparison", "--rates=0.2,0.3"), "--rates=0.2,0.3: expected 0.5"),
    (("lr_comparison", "--epochs=9"), "--epochs=9: expected more than"),
    (("lr_comparison", "--rates=a"), "--rates=a: expected numbers"),
    (("lr_comparison", "--seeds=0"), "seeds"),
    (("lr_comparison", "--preset=fast"), "preset"),
    (("seeds", "--widths=64"), "--widths=64: expected two"),
    (("seeds", "--widths=6.5,7"), "--widths=6.5,7: expected whole numbers"),
  ],
)
def test_a_wrong_value_of_a_study_is_one_line(
  experiment, tmp_path, flags, said
):
  done = experiment(*flags, f"--workdir={tmp_path / 'new'}")
  assert done.code == 2
  assert said in done.said
  assert len(done.said.splitlines()) == 1
  assert not (tmp_path / "new").exists()


def test_help_names_every_flag_that_the_run_records(experiment, finished):
  printed = experiment("train", "--help").printed
  flags = read_json(finished[0] / "config.json")["flags"]
  for name in (*flags, "workdir", "overwrite", "checkpoint_every", "data_dir"):
    assert re.search(rf"^  --{name}\b", printed, re.M), name


# What is given, and what the one line must name.
WRONG = (
  ("--batch_size=0", "batch_size"),
  ("--batch_size=1.5", "batch_size"),
  ("--batch_size=60000", "--batch_size=60000", "55000"),
  ("--batch_size=200 --num_train=100", "--batch_size=200", "100"),
  ("--batch_schedule=0:128,60:640", "--batch_schedule", "60", "never"),
  ("--batch_size=128 --batch_schedule=0:128", "--batch_size", "one of the two"),
  ("--num_train=55001", "55001"),
  ("--dev_size=60000", "dev_size"),
  ("--learning_rate=0", "learning_rate"),
  ("--learning_rate=nan", "learning_rate"),
  ("--learning_rate=inf", "learning_rate"),
  ("--learning_rate=-1", "learning_rate"),
  ("--learning_rate=fast", "learning_rate"),
  ("--dropout=1", "dropout"),
  ("--l2=-0.1", "l2"),
  ("--epochs=0", "epochs"),
  ("--patience=0", "patience"),
  ("--seed=-1", "seed"),
  ("--checkpoint_every=0", "checkpoint_every"),
  ("--activations=foo,tanh", "activations", "sigmoid"),
  ("--hidden_sizes=64,x", "hidden_sizes"),
  ("--hidden_sizes=64,0", "hidden_sizes"),
  ("--activations=tanh", "--activations", "--hidden_sizes"),
  ("--initializer=best", "initializer", "xavier"),
  ("--optimizer=loin", "optimizer", "adam"),
  ("--optimizer_args=b3=1", "--optimizer_args", "sgd"),
  ("--grad=none", "grad", "autodiff"),
  ("--momentum=0.5", "--momentum", "--optimizer=sgd"),
  ("--schedule=linear", "schedule", "poly"),
  ("--boundaries=100", "boundaries", "fixed"),
  ("--schedule=multistep --boundaries=4,x", "boundaries"),
  ("--data_source=idx", "--data_dir"),
  ("--data_source=idx --data_dir=/does/not/exist", "/does/not/exist"),
  ("--batchsize=3", "batchsize", "batch_size"),
  ("extra", "extra"),
)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[0])
def test_a_wrong_flag_is_one_line(experiment, tmp_path, case):
  flags, *names = case
  workdir = tmp_path / "run"
  done = experiment("train", *flags.split(), f"--workdir={workdir}")
  assert done.code == 2, done.said
  assert done.printed == ""
  (line,) = done.said.splitlines()
  assert line.startswith("error: ")
  for name in names:
    assert name in line
  assert not workdir.exists()


def test_the_command_itself_ends_with_one_line():
  done = subprocess.run(
    [sys.executable, "-m", "experiments.train", "--batch_size=0"],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert "batch_size" in done.stderr


def test_the_run_directory_has_all_its_parts(finished):
  workdir, done = finished
  assert {path.name for path in workdir.iterdir()} - {".lock", ".files"} == {
    *("config.json", "metrics.jsonl", "summary.json", "events", "checkpoints"),
    *("curves.png", "curves.svg", "first_layer.png", "mistakes.png"),
    *("confusion.png", "confusion.json"),
  }
  for path in workdir.glob("*.png"):
    with Image.open(path) as picture:
      picture.load()
      assert np.asarray(picture.convert("L")).std() > 0
  assert "<svg" in (workdir / "curves.svg").read_text()
  assert list((workdir / "events").iterdir())
  for name in ("curves.png", "metrics.jsonl", "summary.json", "checkpoints"):
    assert str(workdir / name) in done.printed
  for epoch in range(6):
    assert f"epoch {epoch}/5:" in done.said


def test_the_configuration_is_recorded(finished):
  config = read_json(finished[0] / "config.json")
  assert config["flags"]["num_train"] == 1000
  assert config["flags"]["hidden_sizes"] == ["16"]
  assert config["flags"]["optimizer"] == "sgd"
  assert config["seed"] == 0
  assert re.fullmatch("[0-9a-f]{64}", config["data_digest"])
  assert {"python", "jax", "jaxlib", "optax", "numpy"} <= set(
    config["versions"]
  )
  assert config["device"]["platform"] == "cpu"
  assert "git_revision" in config
  assert len(config["sessions"]) == 1


def test_the_summary_agrees_with_rows_and_confusion(finished):
  workdir, done = finished
  rows, summary = read_rows(workdir), read_json(workdir / "summary.json")
  assert [row["epoch"] for row in rows] == list(range(6))
  assert [row["step"] for row in rows] == list(range(0, 60, 10))
  assert rows[-1]["train_loss"] < rows[0]["train_loss"]
  for name in ("train_loss", "dev_loss", "dev_accuracy"):
    assert summary[name] == rows[-1][name]
  assert (summary["epochs"], summary["steps"]) == (5, 50)
  assert summary["wall_seconds"] > 0
  assert summary["compile_seconds"] > 0
  assert re.fullmatch("[0-9a-f]{64}", summary["params_sha256"])
  counts = np.array(read_json(workdir / "confusion.json"))
  assert counts.sum() == 10000
  assert np.trace(counts) / 10000 == pytest.approx(summary["test_accuracy"])
  # Rows are true classes: the published test set has 980 zeros, 1135 ones.
  assert counts.sum(axis=1)[:2].tolist() == [980, 1135]
  assert 0.3 < summary["test_accuracy"] < 1
  assert np.log(10) > summary["test_loss"] > 0
  assert f"{summary['test_accuracy']:.4f}" in done.printed


def test_overwrite_begins_afresh(experiment, finished, tmp_path):
  workdir = tmp_path / "run"
  flags = (*SMALL, "--epochs=1", f"--workdir={workdir}")
  assert experiment("train", *flags, "--seed=1").code == 0
  first = read_json(workdir / "summary.json")["params_sha256"]
  refused = experiment("train", *flags, "--seed=2")
  assert refused.code == 2
  assert len(refused.said.splitlines()) == 1
  assert "--seed=1" in refused.said
  assert experiment("train", *flags, "--seed=2", "--overwrite").code == 0
  assert read_json(workdir / "summary.json")["params_sha256"] != first
  assert read_json(workdir / "config.json")["seed"] == 2
  assert len(read_rows(workdir)) == 2


def test_autodiff_follows_the_hand_derived_gradient(
  experiment, finished, tmp_path
):
  workdir = tmp_path / "run"
  flags = (*SMALL, "--epochs=5", "--grad=autodiff", f"--workdir={workdir}")
  done = experiment("train", *flags)
  assert done.code == 0, done.said
  for ours, theirs in zip(
    read_rows(workdir), read_rows(finished[0]), strict=True
  ):
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)


def test_a_broken_loss_ends_with_code_3(experiment, tmp_path):
  workdir = tmp_path / "run"
  flags = (*SMALL, "--learning_rate=1e30", "--l2=1", "--epochs=2")
  flags = (*flags, f"--workdir={workdir}")
  done = experiment("train", *flags)
  assert done.code == 3, done.said
  # The same command meets the same end; it does not begin to go wrong.
  again = experiment("train", *flags)
  assert again.code == 3, again.said
  for said in (done.said, again.said):
    (line,) = [x for x in said.splitlines() if x.startswith("error: ")]
    assert said.splitlines()[-1] == line
    assert re.search(r"\bstep \d|\bupdate \d", line)
    assert "1e+30" in line
    assert str(workdir / "checkpoints" / "0") in line
  assert [row["epoch"] for row in read_rows(workdir)] == [0]
  assert not (workdir / "summary.json").exists()


def test_patience_returns_the_best_epoch(experiment, tmp_path):
  workdir = tmp_path / "run"
  flags = ("--num_train=200", "--batch_size=20", "--optimizer=adam")
  flags = (*flags, "--learning_rate=0.03", "--epochs=40", "--patience=2")
  done = experiment("train", *flags, f"--workdir={workdir}")
  assert done.code == 0, done.said
  rows, summary = read_rows(workdir), read_json(workdir / "summary.json")
  losses = [row["dev_loss"] for row in rows]
  best = int(np.argmin(losses))
  assert summary["ended"] == "patience"
  assert summary["epoch"] == best
  assert summary["epochs"] == best + 2 == rows[-1]["epoch"] < 40
  assert summary["dev_loss"] == losses[best]
  # The weights are of that epoch: a run of just so many epochs ends with them.
  shorter = tmp_path / "shorter"
  flags = (*flags[:-2], f"--epochs={best}", f"--workdir={shorter}")
  assert experiment("train", *flags).code == 0
  digest = read_json(shorter / "summary.json")["params_sha256"]
  assert summary["params_sha256"] == digest


@pytest.fixture(scope="module")
def pictures(mnist, tmp_path_factory):
  """Test images drawn dark on light and three times as large; their labels."""
  folder = tmp_path_factory.mktemp("pictures")
  labels = {}
  for i in range(20):
    image = 255 - np.asarray(mnist.test.images[i]).reshape(28, 28)
    path = folder / f"{i:02}.png"
    Image.fromarray(image).resize((84, 84), Image.Resampling.BICUBIC).save(path)
    labels[path] = int(mnist.test.labels[i])
  return labels


@pytest.fixture(scope="module")
def reader(experiment, tmp_path_factory):
  """A run that is good enough to read digits."""
  workdir = tmp_path_factory.mktemp("reader") / "run"
  flags = ("--num_train=20000", "--optimizer=adam", "--learning_rate=0.003")
  done = experiment("train", *flags, "--epochs=4", f"--workdir={workdir}")
  assert done.code == 0, done.said
  return workdir


def test_predict_reads_a_folder(experiment, reader, pictures):
  folder = next(iter(pictures)).parent
  for litter in (".DS_Store", "Thumbs.db"):
    (folder / litter).touch()
  done = experiment("predict", f"--run={reader}", folder)
  assert done.code == 0, done.said
  lines = done.printed.splitlines()
  assert len(lines) == len(pictures)
  right = 0
  for line, (path, label) in zip(lines, pictures.items(), strict=True):
    name, digit = re.match(r"(.*): (\d)  p = [01]\.\d{4}", line).groups()
    assert name == str(path)
    right += int(digit) == label
  assert right >= 17


def test_predict_prints_a_table_for_a_picture(experiment, reader, pictures):
  path, label = next(iter(pictures.items()))
  done = experiment("predict", f"--run={reader}", path)
  assert done.code == 0, done.said
  title, _, *rows = done.printed.splitlines()
  assert title == f"{path}: {label}"
  values = [float(row.split()[1]) for row in rows]
  assert [int(row.split()[0]) for row in rows] == list(range(10))
  assert sum(values) == pytest.approx(1, abs=1e-3)
  assert int(np.argmax(values)) == label


def test_predict_by_a_run_with_patience(experiment, pictures, tmp_path):
  workdir = tmp_path / "run"
  flags = (*SMALL, "--epochs=1", "--patience=1", f"--workdir={workdir}")
  assert experiment("train", *flags).code == 0
  done = experiment("predict", f"--run={workdir}", next(iter(pictures)))
  assert done.code == 0, done.said


def test_predict_says_what_is_wrong_in_one_line(experiment, finished, tmp_path):
  text = tmp_path / "text.png"
  text.write_text("no picture")
  (tmp_path / "empty").mkdir()
  run = f"--run={finished[0]}"
  for flags, name in (
    ((text,), "--run"),
    ((run,), "picture"),
    ((run, text), str(text)),
    ((run, tmp_path / "absent.png"), "absent.png"),
    ((run, tmp_path / "empty"), "empty"),
    ((f"--run={tmp_path}", tmp_path / "empty"), str(tmp_path)),
  ):
    done = experiment("predict", *flags)
    assert done.code == 2, (flags, done.said)
    (line,) = done.said.splitlines()
    assert name in line


def test_a_finished_run_is_shown_again_and_left_as_it_is(experiment, finished):
  workdir, first = finished
  files = [p for p in workdir.iterdir() if p.suffix in (".png", ".jsonl")]
  files.append(workdir / "summary.json")
  before = [path.stat().st_mtime_ns for path in files]
  done = experiment("train", *SMALL, "--epochs=5", f"--workdir={workdir}")
  assert done == Done(0, first.printed, "")
  assert before == [path.stat().st_mtime_ns for path in files]


def test_fewer_epochs_are_refused(experiment, finished):
  workdir, _ = finished
  done = experiment("train", *SMALL, "--epochs=3", f"--workdir={workdir}")
  assert (done.code, done.printed) == (2, "")
  (line,) = done.said.splitlines()
  assert "--epochs=5 done" in line
