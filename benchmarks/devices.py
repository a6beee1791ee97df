"""One model on several devices and processes, and what a lost one leads to.

  python -m benchmarks.devices [--out=results/devices]

Runs `experiments.train` on host devices (1, 2, 4, 8) and as processes of one
device each (1, 2, 4), and compares the weights at the end with those of one
device. Then jobs of three processes of which one is missing, late, killed
(SIGKILL) or stopped (SIGSTOP) while they train: the seconds until each of the
others has said which, and ended. A job that lost a process goes on with two,
and with one, and is compared with the run that nothing happened to. It takes
ten minutes on two free cores; the seconds are of the machine, all else is not.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from benchmarks import publishing
from experiments._shared import app
from mnist_jax import training
from mnist_jax.training import checkpoint, loop

FLAGS = flags.FLAGS
ROOT = Path(__file__).parent.parent
MOST = 8  # host devices
BOOK = ("--epochs=2",)
ODD = ("--epochs=2", "--batch_size=99", "--dropout=0.2", "--num_train=10000")
FAULTY = ("--epochs=30", "--num_train=2000")
PEERS = 3  # processes of the jobs that lose one
PATIENCE = 600  # seconds until a job counts as hung


def define_flags() -> None:
  flags.DEFINE_string("out", "results/devices", "where page and tables go")
  flags.DEFINE_float("timeout", 5.0, "--peer_timeout of the faults, in seconds")


def free_port() -> int:
  """A port below those that the system gives to clients."""
  while True:
    port = random.randrange(20_000, 32_000)
    with socket.socket() as probe:
      if probe.connect_ex(("localhost", port)) != 0:
        return port


def start(*arguments: str) -> subprocess.Popen[str]:
  """`experiments.train` with these flags, on host devices."""
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.train", *arguments],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(MOST)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def peer(
  port: int, count: int, process: int, *arguments: str
) -> subprocess.Popen[str]:
  """One process of a job of `count`, with one device."""
  return start(
    f"--coordinator=localhost:{port}",
    f"--num_processes={count}",
    f"--process_id={process}",
    "--devices=1",
    *arguments,
  )


def train(place: Path, count: int, processes: int, *settings: str) -> None:
  """A run on `count` devices of one process, or of several of one each."""
  settings = (*settings, f"--workdir={place}")
  if processes == 1:
    job = [start(f"--devices={count}", *settings)]
  else:
    port = free_port()
    job = [peer(port, processes, i, *settings) for i in range(processes)]
  for process in job:
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode:
      raise RuntimeError(f"exit code {process.returncode}: {said}")


def weights(place: Path) -> np.ndarray:
  """All parameters at the end of a run."""
  params = loop.init_state(loop.TrainConfig(), 0).params
  with checkpoint.Checkpointer(place / "checkpoints") as saver:
    found = saver.restore_newest({"state": {"params": params}}, partial=True)
  assert found is not None
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.tree)])


def compared(place: Path, alone: Path) -> dict[str, Any]:
  """How a run's end differs from that of another."""
  mine, theirs = weights(place), weights(alone)
  rows, others = (training.read_run(p).rows for p in (place, alone))
  losses = [
    abs(a[name] - b[name])
    for a, b in zip(rows, others, strict=True)
    for name in ("train_loss", "dev_loss")
  ]
  return {
    "updates": rows[-1]["step"],
    "weights_apart": float(np.abs(mine - theirs).max()),
    "weights_apart_rms": float(np.sqrt(np.mean((mine - theirs) ** 2))),
    "losses_apart": max(losses),
    "rows_equal": rows == others,
    "accuracies_equal": all(
      a[name] == b[name]
      for a, b in zip(rows, others, strict=True)
      for name in ("train_accuracy", "dev_accuracy")
    ),
    "params_sha256": training.read_run(place).summary["params_sha256"][:12],  # type: ignore[index]
  }


def weights_table(scratch: Path) -> pd.DataFrame:
  """Runs that nothing happens to."""
  rows = []
  for name, settings, jobs in (
    ("book", BOOK, ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 4))),
    ("odd", ODD, ((1, 1), (8, 1), (4, 4))),
  ):
    for count, processes in jobs:
      place = scratch / f"{name}-{count}-{processes}"
      train(place, count, processes, *settings)
      rows.append(
        {
          "run": name,
          "devices": count,
          "processes": processes,
          **compared(place, scratch / f"{name}-1-1"),
        }
      )
      print(rows[-1], flush=True)
  return pd.DataFrame(rows)


def epochs_done(place: Path) -> int:
  with contextlib.suppress(OSError):
    return len((place / "metrics.jsonl").read_bytes().splitlines()) - 1
  return 0


def fault(kind: str, victim: int, place: Path) -> list[dict[str, Any]]:
  """A job that loses a process; what each of the others said, and when.

  The seconds are from the signal on; where a process was not there, from the
  start of the others, which includes theirs.
  """
  settings = (*FAULTY, f"--workdir={place}", f"--peer_timeout={FLAGS.timeout}")
  port, absent = free_port(), kind in ("missing", "late")
  job = {
    i: peer(port, PEERS, i, *settings)
    for i in range(PEERS)
    if not (absent and i == victim)
  }
  begun = time.monotonic()
  if not absent:
    while epochs_done(place) < 2:
      time.sleep(0.05)
    begun = time.monotonic()
    job[victim].send_signal(getattr(signal, kind))
  rows = [told(kind, victim, i, job[i], begun) for i in job if i != victim]
  if kind == "late":
    begun = time.monotonic()
    late = peer(port, PEERS, victim, *settings)
    rows.append(told(kind, victim, victim, late, begun))
  elif not absent:
    job[victim].kill()
    job[victim].communicate()
  return rows


def told(
  kind: str,
  victim: int,
  by: int,
  process: subprocess.Popen[str],
  begun: float,
) -> dict[str, Any]:
  """How a process ended that another was lost to."""
  _, said = process.communicate(timeout=PATIENCE)
  seconds = time.monotonic() - begun
  lines = [x for x in said.splitlines() if x.startswith("error: ")]
  line = re.sub(r" on \S+( is lost)", r" on HOST\1", " | ".join(lines))
  return {
    "fault": kind,
    "lost": victim,
    "told_by": by,
    "seconds": round(seconds, 1),
    "exit_code": process.returncode,
    "line": re.sub(r":\d+ did", ":PORT did", line),
  }


def faults_table(scratch: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
  """What lost processes lead to, and how such jobs go on."""
  rows, after = [], []
  alone = scratch / "alone"
  train(alone, 1, 1, *FAULTY)
  for kind in ("missing", "late", "SIGKILL", "SIGSTOP"):
    for victim in (0, 1):
      place = scratch / f"{kind}-{victim}"
      rows += fault(kind, victim, place)
      print(*rows[-2:], sep="\n", flush=True)
      if not kind.startswith("SIG"):
        continue
      done = epochs_done(place)
      for processes in (2, 1):
        copy = scratch / f"{place.name}-on-{processes}"
        shutil.copytree(place, copy)
        train(copy, 1, processes, *FAULTY)
        how = {"fault": kind, "lost": victim, "epochs_before": done}
        row = {**how, "goes_on_with": processes, **compared(copy, alone)}
        after.append(row)
        print(row, flush=True)
  return pd.DataFrame(rows), pd.DataFrame(after)


def markdown(table: pd.DataFrame) -> str:
  """The table as lines of a page."""
  cells = [
    [f"{x:.2g}" if isinstance(x, float) else str(x) for x in row]
    for row in table.itertuples(index=False)
  ]
  rows = [[*table.columns], ["---"] * len(table.columns), *cells]
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(
  command: str, ends: pd.DataFrame, faults: pd.DataFrame, after: pd.DataFrame
) -> str:
  """The tables and what they are."""
  return f"""# One model on many devices

`{command}`; what the columns mean: `--help` and below.

## Ends of the same run

`experiments.train` on host devices of one CPU, against one device: `book` is
the default run with `{" ".join(BOOK)}`,
`odd` is `{" ".join(ODD)}`, whose batches
neither 4 nor 8 divide. Where there are several processes, each has one device.
`weights_apart` is the largest difference of a parameter after the last update,
`losses_apart` that of a row's losses. Two processes of one device end with the
bits of one process of two; with four the sums come in another order.

{markdown(ends)}

## A process of {PEERS} is lost

`--peer_timeout={FLAGS.timeout:g}` (its default is 60), `{" ".join(FAULTY)}`.
`seconds` from the signal to the end of the process that tells; for a process
that is missing or late from the start of the others, their start included
(on this busy machine most of it). Silence counts from the last sign of life,
up to a second before the signal.

{markdown(faults)}

## And the job goes on

The same command after a process was lost, with fewer processes, against the
run on one device that nothing happened to.

{markdown(after)}
"""


def main(_: Sequence[str]) -> None:
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    ends = weights_table(Path(folder))
    faults, after = faults_table(Path(folder))
  command = f"python -m benchmarks.devices --timeout={FLAGS.timeout:g}"
  publishing.publish(
    Path(FLAGS.out),
    page(command, ends, faults, after),
    {"ends": ends, "faults": faults, "after": after},
    command,
    begun,
  )


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
