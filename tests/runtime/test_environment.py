"""The environment's record says what ran, and nothing about whose machine."""

import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path

import jax
import pytest

from mnist_jax.runtime import environment

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is absent")


def test_versions_and_device():
  described = environment.describe()
  assert described["versions"]["python"] == platform.python_version()
  assert described["versions"]["jax"] == jax.__version__
  for package in ("jaxlib", "optax", "orbax-checkpoint", "numpy"):
    assert described["versions"][package]
  assert described["device"]["platform"] == jax.devices()[0].platform
  assert described["device"]["count"] == jax.device_count()
  assert described["device"]["processes"] == 1


def test_no_host_name_and_no_path():
  text = json.dumps(environment.describe())
  assert socket.gethostname() not in text
  assert os.getcwd() not in text
  assert str(Path.home()) not in text


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A directory with this module in it; how to run git and the module."""
  monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
  monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
  package = tmp_path / "repository" / "package"
  package.mkdir(parents=True)
  copy = shutil.copy(environment.__file__, package / "environment.py")

  def git(*arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.run(
      ["git", "-C", package.parent, *identity, *arguments],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  def revision():
    spec = importlib.util.spec_from_file_location("copied_environment", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.git_revision()

  return package, git, revision


@needs_git
def test_git_revision_is_the_commit_and_whether_it_is_changed(
  checkout, monkeypatch
):
  package, git, revision = checkout
  git("init", "-q")
  git("add", ".")
  git("commit", "-qm", "one")
  head = git("rev-parse", "HEAD")
  assert revision() == head
  monkeypatch.setenv("GIT_DIR", "/elsewhere")
  assert revision() == head
  monkeypatch.delenv("GIT_DIR")
  (package / "untracked.py").write_text("")
  assert revision() == head + "-dirty"


@needs_git
def test_git_revision_is_none_where_the_code_is_not_tracked(checkout):
  _, git, revision = checkout
  git("init", "-q")
  git("commit", "-qm", "one", "--allow-empty")
  assert revision() is None


@needs_git
def test_git_revision_is_none_outside_a_checkout(checkout):
  assert checkout[2]() is None


def test_git_revision_is_none_without_git(checkout, monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert checkout[2]() is None
