"""How a command ends when nobody reads what it prints."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
from experiments._shared import app
app.run(print, "What it does.")
"""


def test_help_into_a_closed_pipe_ends_in_silence():
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, "--help"],
    cwd=ROOT,
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (0, "")
