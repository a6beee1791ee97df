"""How a command ends, above all when what it writes goes nowhere."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
from experiments._shared import app
app.run(print, "What it does.")
"""


@pytest.mark.parametrize(
  ("flags", "code"), [(["--help"], 0), ([], 128 + signal.SIGPIPE)]
)
def test_into_a_closed_pipe_a_command_ends_in_silence(flags, code):
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, *flags],
    cwd=ROOT,
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (code, "")


FULL = """
import errno, os
from experiments._shared import app
from mnist_jax.runtime import files

def main(argv):
  with files.replacing(files.expanded("runs/a")):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

app.run(main, "What it does.")
"""


@pytest.mark.parametrize(
  ("program", "flags", "out", "line"),
  [
    (FULL, [], os.devnull, "error: runs/a: No space left on device\n"),
    (PROGRAM, [], "/dev/full", "error: No space left on device\n"),
    (PROGRAM, ["--help"], "/dev/full", "error: No space left on device\n"),
  ],
)
def test_a_full_disk_is_one_line(program, flags, out, line):
  with open(out, "w") as file:
    done = subprocess.run(
      [sys.executable, "-c", program, *flags],
      cwd=ROOT,
      stdout=file,
      stderr=subprocess.PIPE,
      text=True,
    )
  assert (done.returncode, done.stderr) == (2, line)


def test_what_is_loaded_is_not_collected_again_until_the_exit():
  program = """
import atexit, gc
from experiments._shared import app

def main(argv):
  print(gc.isenabled(), gc.get_freeze_count() > 10_000)
  gc.unfreeze()

atexit.register(lambda: print(gc.get_freeze_count() > 10_000))
app.run(main, "What it does.")
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == "True True\nTrue\n"


@pytest.mark.parametrize(
  ("name", "argv", "loading"),
  [
    ("-m", ["-m", "experiments.train"], False),
    ("-m", ["-m", "pytest", "experiments"], True),
    ("mine.py", ["mine.py", "-m", "experiments.train"], True),
  ],
)
def test_the_collector_rests_while_a_command_alone_is_loaded(
  name, argv, loading
):
  program = f"""
import gc, sys
sys.argv[0], sys.orig_argv[1:] = {name!r}, {argv}
from experiments._shared import app
print(gc.isenabled())
app.run(lambda argv: print(gc.isenabled()), "What it does.")
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == f"{loading}\nTrue\n"
