"""Our speed against peers, against the machine, and against our own before.

  python -m benchmarks.bench                  # all that is not measured yet
  python -m benchmarks.bench --part=training --again
  python -m benchmarks.bench --preset=tiny --results=/tmp/bench

The same data, initial weights, order, batch 128 and rate for all, each
contestant in a process of its own, in turn, round after round; a time counts
only where the losses are ours to rounding. Parts: limits (products of
matrices), training (an epoch, with peers), sweeps, commands (whole processes,
cold and warm), startup (against commit e6e06a0, from git's history), growth
(by members, batch, width, examples, parameters; goes on where it stopped) and
attempts (what was tried). Peers need `make peers`; one that is missing is told.
Full takes about half an hour on two quiet cores. Each part is a file in
results/bench; --write puts the tables into docs/speed.md.
"""

import dataclasses
import datetime
import json
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks.bench import (
  attempts,
  commands,
  figures,
  growth,
  ours,
  page,
  peers,
  problem,
  turns,
)
from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import data
from mnist_jax.runtime import environment, files
from mnist_jax.runtime.errors import InputError

FLAGS = flags.FLAGS
PEERS = turns.ROOT / ".venv-peers" / "bin" / "python"
KERNELS = ("", "Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids")
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is measured."""

  train: int  # examples of an epoch
  rounds: int
  sweeps: tuple[int, ...]
  sweep_rounds: int
  epochs: int  # of whole commands
  command_rounds: int
  growth_rounds: int


SIZES = {
  "full": Size(55_000, 15, (1, 4, 16, 64, 256), 5, 40, 5, 3),
  "tiny": Size(1_000, 2, (1, 4), 1, 1, 1, 1),
}


@dataclasses.dataclass(frozen=True)
class Bench:
  """What every part needs."""

  size: Size
  task: Path  # the problem's file
  folder: Path  # for what is thrown away
  results: Path
  peers: str  # a Python

  def take_turns(self, entries: Mapping[str, turns.Entry], rounds: int) -> Rows:
    found = turns.take_turns(entries, self.task, rounds)
    return [dataclasses.asdict(timed) for timed in found.values()]

  def by(self, name: str, **env: str) -> turns.Entry:
    """An entry: peers by their Python, we by this one."""
    return name, self.peers if name in peers.TRAINING else sys.executable, env


def define_flags() -> None:
  parts = ("all", *PARTS)
  flags.DEFINE_enum("part", "all", parts, "what is measured")
  flags.DEFINE_enum("preset", "full", list(SIZES), "tiny tries everything once")
  flags.DEFINE_boolean("again", False, "also what is measured already")
  flags.DEFINE_boolean("write", False, "the tables into docs/speed.md, only")
  shared.define_path("results", "where to write, by default results/bench")
  shared.define_path("peers", "their Python, by default that of .venv-peers")


def best_kernel(bench: Bench) -> str:
  """The one of OpenBLAS with which NumPy's epoch is fastest; "" its choice."""
  entries = {
    kernel: bench.by("NumPy by hand", OPENBLAS_CORETYPE=kernel)
    for kernel in KERNELS
    if platform.machine() == "x86_64" or not kernel
  }
  if "" in entries:
    entries[""] = bench.by("NumPy by hand")
  found = turns.take_turns(entries, bench.task, 3)
  medians = {
    name: statistics.median(timed.seconds)
    for name, timed in found.items()
    if timed.seconds
  }
  return min(medians, key=lambda name: medians[name], default="")


def training(bench: Bench) -> Rows:
  kernel = best_kernel(bench)
  entries = {name: bench.by(name) for name in ours.TRAINING}
  for name in peers.TRAINING:
    entries[name] = bench.by(name)
  if kernel:
    entries.pop("NumPy by hand")
    title = f"NumPy by hand, OpenBLAS for {kernel}"
    entries[title] = bench.by("NumPy by hand", OPENBLAS_CORETYPE=kernel)
  return bench.take_turns(entries, bench.size.rounds)


def sweeps(bench: Bench) -> Rows:
  entries = {ours.SINGLE: bench.by(ours.SINGLE)}
  for members in bench.size.sweeps:
    for own in (False, True) if members > 1 else (False,):
      kind = "own orders" if own else "one order"
      given = json.dumps({"members": members, "own": own})
      entries[f"sweep of {members}, {kind}"] = bench.by(f"a_sweep:{given}")
  return bench.take_turns(entries, bench.size.sweep_rounds)


def whole_commands(bench: Bench) -> Rows:
  kernel = best_kernel(bench)
  chosen = {"OPENBLAS_CORETYPE": kernel} if kernel else {}
  size = bench.size
  return commands.whole(
    bench.folder, bench.peers, chosen, size.epochs, size.command_rounds
  )


def startup(bench: Bench) -> Rows:
  try:
    return commands.startup(bench.folder, bench.size.command_rounds)
  except turns.Failed as error:
    raise InputError(f"part=startup: {error}") from None


def limits(bench: Bench) -> Rows:
  """Large products, and those of a batch: forward, and of the gradient."""
  large = 2048 if bench.size.train >= 10_000 else 256
  shapes = {
    f"{large} x {large} x {large}": ((large, large, large), 4),
    "128 x 784 x 64 (forward)": ((128, 784, 64), 400),
    "784 x 128 x 64 (gradient)": ((784, 128, 64), 400),
    "128 x 64 x 16": ((128, 64, 16), 400),
  }
  entries = {}
  for shape, (sides, times) in shapes.items():
    for library in ("numpy", "jax", "torch"):
      given = {"library": library, "shape": sides, "times": times}
      name, python, env = bench.by(f"product:{json.dumps(given)}")
      if library == "torch":
        python = bench.peers
      entries[f"{shape}, {library}"] = name, python, env
  return bench.take_turns(entries, bench.size.rounds)


def grown(bench: Bench) -> Rows:
  """Point by point; those in growth.jsonl, of a run that stopped, are kept."""
  kept = bench.results / "growth.jsonl"
  lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
  rows = [json.loads(line) for line in lines]
  done = {(row["axis"], row["value"]) for row in rows}
  tiny = bench.size is SIZES["tiny"]
  for name, axis in growth.AXES.items():
    for value in axis.values[: 3 if tiny else None]:
      if (name, value) in done:
        continue
      entry = {f"{name} {value}": bench.by(axis.contestant(value))}
      (timed,) = bench.take_turns(entry, bench.size.growth_rounds)
      row: dict[str, Any] = {
        **{"axis": name, "value": value, "size": growth.size(name, value)},
        **{"failed": timed["failed"], "memory": timed["memory"]},
      }
      if timed["seconds"]:
        facts, whole = timed["facts"], statistics.median(timed["seconds"])
        updates = facts["units"] if name in ("batch", "width") else 1
        row["seconds"] = whole / updates
        row["rate"] = facts["flops"] / whole / 1e9
        row["working_set"] = facts["working_set"]
      rows.append(row)
      text = "".join(json.dumps(each) + "\n" for each in rows)
      files.write_text(kept, text)
  kept.unlink(missing_ok=True)
  return rows


def tried(bench: Bench) -> Rows:
  entries = {name: bench.by(f"attempts.{name}") for name in attempts.TRIED}
  # Twice as many, as some differ by little.
  return bench.take_turns(entries, 2 * bench.size.rounds)


PARTS: dict[str, Callable[[Bench], Rows]] = {
  "limits": limits,
  "training": training,
  "sweeps": sweeps,
  "commands": whole_commands,
  "startup": startup,
  "growth": grown,
  "attempts": tried,
}


def machine() -> str:
  """Its accelerator, if there is one; its cores and their name."""
  path, name = Path("/proc/cpuinfo"), platform.processor()
  lines = path.read_text().splitlines() if path.exists() else []
  names = [text.partition(": ")[2] for text in lines if "model name" in text]
  cores = f"{len(names) or 1} x {names[0] if names else name}"
  device = jax.devices()[0]
  if device.platform == "cpu":
    return cores
  return f"{jax.device_count()} x {device.device_kind} beside {cores}"


def measured(part: str, bench: Bench) -> dict[str, Any]:
  with turns.watched() as circumstances:
    rows = PARTS[part](bench)
  line = ["python", "-m", "benchmarks.bench", f"--part={part}"]
  if FLAGS.results:
    line.append(f"--results={FLAGS.results}")
  return {
    "command": shlex.join(line),
    "preset": FLAGS.preset,
    "date": datetime.date.today().isoformat(),
    "machine": machine(),
    "caches": growth.caches(),
    **circumstances,
    **environment.describe(),
    "rows": rows,
  }


def main(_: list[str]) -> None:
  if FLAGS.write:
    for path, text in page.written(turns.ROOT).items():
      files.write_text(path, text)
    return
  results = Path(FLAGS.results or turns.ROOT / "results" / "bench")
  results.mkdir(parents=True, exist_ok=True)
  python = Path(FLAGS.peers or PEERS)
  if not python.exists():
    turns.say(
      f"{python}: not there (`make peers`), so peers run by this Python"
    )
    python = Path(sys.executable)
  size = SIZES[FLAGS.preset]
  with tempfile.TemporaryDirectory() as folder:
    task = Path(folder, "problem.npz")
    given = problem.make(data.load(), size.train, 2 * size.rounds + 1)
    problem.write(task, given)
    bench = Bench(size, task, Path(folder), results, str(python))
    for part in PARTS if FLAGS.part == "all" else (FLAGS.part,):
      path = results / f"{part}.json"
      if path.exists() and not FLAGS.again:
        turns.say(f"{part}: measured already, in {path}")
        continue
      jax.clear_caches()
      text = json.dumps(measured(part, bench), indent=1)
      files.write_text(path, text + "\n")
      parts = page.read(results)
      print(f"\n{part}\n\n{page.block(part, parts)}", flush=True)
      figures.draw(results, parts)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
