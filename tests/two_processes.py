"""Runs a script as two processes of one jax.distributed job."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMEOUT = 200  # seconds; a job takes about three, more beside other tests


def free_port():
  """A port below the ephemeral range, which no client is given by chance."""
  while True:
    port = random.randrange(20_000, 32_000)
    with socket.socket() as s:
      if s.connect_ex(("localhost", port)) != 0:
        return port


def run(script, path):
  """[(returncode, stdout, stderr)] of `python -c script path address index`."""
  address = f"localhost:{free_port()}"
  children = [
    subprocess.Popen(
      [sys.executable, "-c", script, path, address, str(i)],
      cwd=ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    texts = [child.communicate(timeout=TIMEOUT) for child in children]
  except subprocess.TimeoutExpired:
    for child in children:
      child.kill()
    said = [child.communicate() for child in children]  # closes the pipes
    raise AssertionError(f"still at work after {TIMEOUT} s: {said}") from None
  return [(c.returncode, *t) for c, t in zip(children, texts, strict=True)]
