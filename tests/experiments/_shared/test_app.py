"""How a command ends when nobody reads what it prints."""

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
