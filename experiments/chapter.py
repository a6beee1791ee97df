"""Judges all claims of the chapter: every study, one after another.

  make chapter                   # full, hours: the verdicts
  make chapter PRESET=quick      # minutes: everything runs, little is decided
  python -m experiments.chapter --only=lr_decay,saddle

Interrupted at any moment and started again it goes on: a study that is done
is not run again unless its code, its settings or the data have changed, and
what a sweep has measured stays measured as long as the engine is the same. A
run that several studies need is made by the first of them. Full makes the
studies of H3, H5 and H7, which the chapter does not ask, in quick where --hours
do not hold them in full; once the others are done, the same command makes them.
Ends with the table of claims. Exit code 1: a study failed; the others were run.
"""

import functools
import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import claims
from experiments._shared import app, compile_cache
from experiments._shared import flags as shared
from experiments.report import harvest
from mnist_jax import data
from mnist_jax.runtime import code, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import store

FLAGS = flags.FLAGS
ROOT = Path(__file__).parent.parent
# In the order of the chapter, with the claims that each judges; one whose runs
# are looked at seldom comes after one that looks at the same runs more often.
STUDIES = {
  "seeds": ("N1", "N2"),
  "gradient_check": ("G1", "G2", "G3", "G5"),
  "mutation_score": ("G4",),
  "lr_comparison": ("L4",),
  "saddle": ("S2", "H8"),
  "lr_range_audit": ("L1", "L3"),
  "lr_decay": ("L5",),
  "lr_policies": ("L2", "L6"),
  "schedule_budget": ("H6",),
  "adaptive_rates": ("S1",),
  "line_fit": ("B9",),
  "gradient_noise": ("B4",),
  "lr_batch_size": ("B1", "B2", "H1"),
  "largest_rate": ("B3", "H4"),
  "grow_batch": ("B5", "H2"),
  "best_batch": ("B6",),
  "updates_to_target": ("B7", "B8"),
  "critical_batch": ("H3",),
  "adam_batch": ("H5",),
  "width_transfer": ("H7",),
}
_STAMP = "chapter.json"
_STOPPED = 128 + signal.SIGINT
_SMALL = (
  "verdict.json",
  "summary.csv",
  "summary.json",
  "faults.csv",
)


def define_flags() -> None:
  shared.use("preset", "workdir")
  flags.DEFINE_list("only", None, "these studies, separated by commas")
  flags.DEFINE_float(
    "hours",
    4.0,
    "full: studies of H3, H5 and H7 that are not likely to end so many hours "
    "from the start are made in quick (inf: all in full)",
    lower_bound=0.0,
  )
  flags.DEFINE_boolean(
    "publish", False, "copy verdicts, tables and figures to results/"
  )


@functools.cache
def code_key(study: str) -> str:
  """12 hex digits over a study's file and all of ours that it rests on.

  Comments, docstrings, layout and imports do not count.
  """
  return code.digest(code.rests_on(program(study), ROOT))


def program(study: str) -> Path:
  """The file that `python -m experiments.STUDY` runs."""
  file = ROOT / "experiments" / f"{study}.py"
  package = ROOT / "experiments" / study / "__main__.py"
  return package if package.is_file() else file


def base(preset: str) -> Path:
  """Where the studies' directories are."""
  return Path(FLAGS.workdir or "runs/chapter") / preset


def directory(study: str, preset: str) -> Path:
  """Where a study of this code is run."""
  return base(preset) / f"{study}-{store.code_version()}"


def _read(path: Path) -> dict[str, Any]:
  """What a file of JSON holds; nothing if it cannot be read."""
  try:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return {}
  return found


def _stamp(study: str, digest: str) -> dict[str, str]:
  return {"code": code_key(study), "data": digest}


def is_done(study: str, preset: str, digest: str) -> bool:
  """Whether its verdict there is of this code, and of data of this digest."""
  folder = directory(study, preset)
  there = (folder / "verdict.json").is_file()
  return there and _read(folder / _STAMP) == _stamp(study, digest)


def seconds_before(study: str) -> float | None:
  """What the study took when its results were committed, if it was so run."""
  found = _read(ROOT / "results" / study / "verdict.json")
  same = found.get("preset") == FLAGS.preset
  return float(found["wall_seconds"]) if same else None


def presets_of(todo: Sequence[str], seconds: float) -> dict[str, str]:
  """In which preset each study is to be run, `seconds` from the start."""
  chosen: dict[str, str] = {}
  for study in todo:
    end = seconds + (seconds_before(study) or 0.0)
    beyond = {*STUDIES[study]} <= {*claims.BEYOND}
    late = FLAGS.preset == "full" and beyond and end > 3600 * FLAGS.hours
    chosen[study] = "quick" if late else FLAGS.preset
    seconds = seconds if late else end
  return chosen


def run_study(study: str, preset: str, digest: str) -> bool:
  """Runs one as a program of its own, and says whether it came to its end."""
  folder = directory(study, preset)
  folder.mkdir(parents=True, exist_ok=True)
  line = [sys.executable, "-m", f"experiments.{study}"]
  line += [f"--preset={preset}", f"--workdir={folder}"]
  if study != "line_fit":  # which makes no runs
    line.append(f"--known_runs={base(preset)}")
  if not FLAGS[compile_cache.FLAG].value:
    line.append(f"--no{compile_cache.FLAG}")
  with subprocess.Popen(line) as process:
    # No KeyboardInterrupt, which is lost where jax runs a callback.
    before = signal.signal(
      signal.SIGINT, lambda number, _: process.send_signal(number)
    )
    code = process.wait()
    signal.signal(signal.SIGINT, before)
  if code in (_STOPPED, -signal.SIGINT):
    app.fail(f"stopped in {study}; the same command goes on", _STOPPED)
  if code:
    print(f"{study} failed with exit code {code}", file=sys.stderr)
    return False
  files.write_text(folder / _STAMP, json.dumps(_stamp(study, digest)))
  return True


def _announce(
  place: str, study: str, presets: dict[str, str], taken: list[float]
) -> None:
  """Which study begins, and the time left, as far as it is known."""
  mean = sum(taken) / len(taken) if taken else None
  todo = [name for name, preset in presets.items() if preset == FLAGS.preset]
  needed = seconds_before(study) or mean
  left = [seconds_before(name) or mean for name in todo]
  known = [seconds for seconds in left if seconds is not None]
  text = f"[{place}] {study} ({', '.join(STUDIES[study])})"
  if study not in todo:
    text += f", in {presets[study]}, as --hours={FLAGS.hours:g} do not hold it"
  if needed is not None:
    where = "" if study in todo else f" in {FLAGS.preset}"
    text += f", about {claims.in_words(needed)}{where}"
  if todo and len(known) == len(todo):
    text += f"; all that is left, about {claims.in_words(sum(known))}"
  print(text, file=sys.stderr, flush=True)


def run_all(studies: Sequence[str], digest: str) -> dict[str, str]:
  """Runs those that are not done.

  Returns:
    By study the preset of its results, without those that failed.
  """
  todo = [name for name in studies if not is_done(name, FLAGS.preset, digest)]
  made: dict[str, str] = {}
  taken: list[float] = []
  start = time.monotonic()
  for number, study in enumerate(studies, 1):
    place = f"{number}/{len(studies)}"
    begun = time.monotonic()
    left = todo[todo.index(study) :] if study in todo else []
    presets = presets_of(left, begun - start)
    preset = presets.get(study, FLAGS.preset)
    if is_done(study, preset, digest):
      quick = "" if preset == FLAGS.preset else f", in {preset}"
      print(f"[{place}] {study}: done before{quick}", file=sys.stderr)
    else:
      _announce(place, study, presets, taken)
      if not run_study(study, preset, digest):
        continue
      if preset == FLAGS.preset:
        taken.append(time.monotonic() - begun)
    made[study] = preset
  return made


def publish(study: str, results: Path) -> None:
  """Copies the small results of a study, in place of those of before."""
  folder = directory(study, FLAGS.preset)
  place = results / study
  place.mkdir(parents=True, exist_ok=True)
  for old in (*place.glob("*.png"), *(place / name for name in _SMALL)):
    old.unlink(missing_ok=True)
  for path in (*folder.glob("*.png"), *(folder / name for name in _SMALL)):
    if path.is_file():
      shutil.copyfile(path, place / path.name)
  harvest.write(study, folder, place)


def chosen() -> list[str]:
  """The studies asked for, in the chapter's order.

  Raises:
    InputError: a name that is no study.
  """
  for name in FLAGS.only or ():
    if name not in STUDIES:
      raise InputError(f"--only={name}: expected names of {', '.join(STUDIES)}")
  return [name for name in STUDIES if not FLAGS.only or name in FLAGS.only]


def main(_: list[str]) -> None:
  studies = chosen()
  if FLAGS.publish and FLAGS.preset != "full":
    raise InputError(f"--publish: --preset={FLAGS.preset}, expected full")
  if math.isnan(FLAGS.hours):
    raise InputError("--hours=nan: expected a number, or inf")
  made = run_all(studies, data.load().digest)
  failed = [name for name in studies if name not in made]
  print(
    claims.plain_table(claims.read(*itertools.starmap(directory, made.items())))
  )
  done = [name for name, preset in made.items() if preset == FLAGS.preset]
  if done:
    print(
      f"in {base(FLAGS.preset)}: figures, tables and verdicts of each study"
    )
  if quick := [name for name in made if name not in done]:
    names = ", ".join(quick)
    print(f"in {base('quick')}: {names}; --hours=inf makes them in full")
  if FLAGS.publish:
    for study in done:
      publish(study, ROOT / "results")
    names = ", ".join(done) or "nothing"
    print(f"published to results/: {names}")
    print("next: python -m experiments.claims --write")
  if failed:
    app.fail(f"failed: {', '.join(failed)}", 1)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
