"""A command says in one line which extra it lacks, before it imports it."""

import importlib.util
import sys

import pytest

import experiments


@pytest.mark.parametrize(
  ("command", "lacking", "extra"),
  [
    ("train", "orbax", "train"),
    ("train", "pandas", None),
    ("predict", "PIL", "train"),
    ("seeds", "pandas", "studies"),
    ("lr_policies", "absl", "train"),
  ],
)
def test_a_command_names_the_extra(
  monkeypatch, capsys, command, lacking, extra
):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: None if name == lacking else find(name),
  )
  if extra is None:
    experiments._check(f"experiments.{command}")
    return
  with pytest.raises(SystemExit) as ended:
    experiments._check(f"experiments.{command}")
  assert ended.value.code == 2
  assert capsys.readouterr().err == (
    f"error: {lacking} is not installed: pip install '.[{extra}]'\n"
  )


def test_the_page_says_what_installs_what_draws_it(monkeypatch, capsys):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: None if name == "vl_convert" else find(name),
  )
  experiments._check("experiments.claims")
  with pytest.raises(SystemExit) as ended:
    experiments._check("experiments.report")
  assert ended.value.code == 2
  assert "make page" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "name", "command"),
  [
    ("python -W error -m experiments.train --help", "-m", "experiments.train"),
    ("python -mexperiments.train --help", "-m", ""),
    ("python -m pytest -m once", "-m", ""),
    ("python mine.py -m experiments.train", "mine.py", ""),
    ("python", "", ""),
  ],
)
def test_a_command_of_these_alone_is_judged(monkeypatch, argv, name, command):
  monkeypatch.setattr(sys, "orig_argv", argv.split())
  monkeypatch.setattr(sys, "argv", [name])
  assert experiments._command() == command
