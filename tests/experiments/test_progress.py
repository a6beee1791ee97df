"""What runs and sweeps say as they go on."""

import time

from experiments._shared import progress
from mnist_jax import sweep


def at(done, cells_done=0):
  return sweep.Progress(done, 100.0, cells_done, 8, "784-64-16-10 batch 128")


def test_an_epoch_s_speed_is_without_what_is_compiled(capsys, monkeypatch):
  now = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now)
  shown = progress.EpochProgress(5, 1000)
  names = ("train_loss", "dev_loss", "train_accuracy", "dev_accuracy")
  row = dict.fromkeys((*names, "learning_rate"), 0.5)
  # The first epoch is over when the programs are compiled, at row 0.
  for epoch, seconds in enumerate([9.0, 9.1, 11.1, 13.1, 15.1, 16.1]):
    now = seconds
    shown.show({**row, "epoch": epoch})
  shown.close()
  lines = capsys.readouterr().err.splitlines()
  assert [line[:10] for line in lines] == [f"epoch {e}/5:" for e in range(6)]
  assert all(
    "examples/s" not in line and "left" not in line for line in lines[:2]
  )
  assert lines[2].endswith(", 500 examples/s, 6 s left")
  assert lines[4].endswith(", 500 examples/s, 2 s left")
  assert lines[5].endswith(", 571 examples/s, 0 s left")


def test_lines_are_seldom_and_say_what_is_left(capsys, monkeypatch):
  now = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now)
  with progress.SweepProgress() as shown:
    for now in range(0, 61, 5):
      shown.show(at(float(now)))
    shown.show(at(100.0, 8))
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 7
  assert lines[0] == "10 %: 0/8 runs, 784-64-16-10 batch 128, 1:30 left"
  assert lines[-1] == "100 %: 8/8 runs, 784-64-16-10 batch 128, 0:00 left"


def test_nothing_to_do_is_nothing_said(capsys):
  with progress.SweepProgress() as shown:
    shown.show(sweep.Progress(0.0, 0.0, 8, 8, "nothing to do"))
  assert capsys.readouterr().err == ""


def test_each_run_is_given_and_counted(capsys, monkeypatch):
  now = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now)
  seen = []
  for run in progress.each(range(4), "training"):
    seen.append(run)
    now += 8.0
  assert seen == [0, 1, 2, 3]
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    "50 %: 2/4 runs, training, 0:16 left",
    "100 %: 4/4 runs, training, 0:00 left",
  ]
