"""Plants every mistake of the catalogue and counts those found (claim G4).

  python -m experiments.mutation_score --preset=full

Full: the faults of the chapter's network on MNIST (1 seed) and of five small
networks (6 seeds each), 31 seeds in all, and 1,080 correct random networks;
beside it jax.test_util.check_grads on the same cases. Half an hour on one core.
Judged: found > 99 %, just the wrong tensors named > 99 %, cause named > 90 %,
false alarms < 1 %, and more found than by check_grads at its best step. The
same command goes on where it was stopped.
"""

import csv
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments._shared import flags as shared
from experiments._shared import study
from experiments.mutation_score import cases as mutation_score
from experiments.mutation_score import judge
from mnist_jax import data, plotting
from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts

FLAGS = flags.FLAGS
PRESETS = {
  # Seeds of the chapter's network, of each small one; correct networks, and
  # how many of them share an architecture.
  "quick": (0, 1, 12, 6),
  "full": (1, 6, 1080, 45),
}
# The two that are soonest done, of tanh and without a hidden layer.
SMALL = {
  "quick": (mutation_score.SMALL[2], mutation_score.SMALL[4]),
  "full": mutation_score.SMALL,
}
_FIRST_FAULT, _FIRST_CORRECT = 100, 10_000  # seeds


def define_flags() -> None:
  shared.use("preset", "workdir")


def _read(path: Path) -> list[dict[str, Any]]:
  """The finished cases; a line cut short by a kill is left out."""
  if not path.exists():
    return []
  lines = path.read_text().split("\n")[:-1]
  return [json.loads(line) for line in lines]


def _cases(
  dataset: data.Dataset,
) -> Iterator[tuple[str, int, Any]]:
  """(kind, seed, function that gives the case's records)."""
  chapter, small, correct, each = PRESETS[FLAGS.preset]
  images = np.asarray(dataset.train.images[:5000]) / 255.0
  labels = np.asarray(dataset.train.labels[:5000])
  for network, seed in mutation_score.fault_cases(
    chapter, small, _FIRST_FAULT, SMALL[FLAGS.preset]
  ):
    how: dict[str, Any] = {}
    if network == mutation_score.CHAPTER:
      how = {"images": images, "labels": labels, "l2": 1e-3, "moved": 0.02}
    elif seed % 2:  # larger weights, so that units saturate
      how = {"initializer": "normal"}
    yield (
      "fault",
      seed,
      lambda n=network, s=seed, h=how: list(
        mutation_score.fault_records(n, s, **h)
      ),
    )
  for network, seed in mutation_score.correct_cases(
    correct, each, _FIRST_CORRECT
  ):
    yield (
      "correct",
      seed,
      lambda n=network, s=seed: [mutation_score.correct_record(n, s)],
    )


def collect(path: Path) -> tuple[list[dict[str, Any]], float]:
  """All records, those of earlier sessions from the file; and seconds."""
  done = _read(path)
  finished = {(r["kind"], r["seed"]) for r in done}
  cases = list(_cases(data.load("bundled")))
  begun = last = time.monotonic()
  with path.open("a") as file:
    for number, (kind, seed, run) in enumerate(cases):
      if (kind, seed) in finished:
        continue
      started = time.monotonic()
      records = [{"kind": kind, **record} for record in run()]
      for record in records:
        record["seconds"] = (time.monotonic() - started) / len(records)
      # One write a case: a killed one leaves no half of it behind.
      file.write("".join(json.dumps(r) + "\n" for r in records))
      file.flush()
      done += records
      if time.monotonic() - last > 10:
        last = time.monotonic()
        print(
          f"{number + 1}/{len(cases)} cases, {last - begun:.0f} s",
          file=sys.stderr,
          flush=True,
        )
  return done, sum(r["seconds"] for r in done)


def _table(rows: list[dict[str, Any]]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _write(path: Path, text: str) -> None:
  with files.replacing(path) as temporary:
    temporary.write_text(text)


def write(out: Path, records: list[dict[str, Any]], seconds: float) -> None:
  """Summary, table, picture and verdict, and the summary's figures printed."""
  faults = [r for r in records if r["kind"] == "fault"]
  correct = [r for r in records if r["kind"] == "correct"]
  summary = judge.summarise(faults, correct)
  parts = verdicts.judge(judge.questions(faults, correct))
  study.write_verdict(
    out / "verdict.json",
    parts,
    preset=FLAGS.preset,
    values={
      "fault_seeds": sorted({r["seed"] for r in faults}),
      "correct_seeds": [min(r["seed"] for r in correct), len(correct)],
    },
    wall_seconds=seconds,
  )
  _write(out / "summary.json", json.dumps(summary, indent=1))
  _write(out / "faults.csv", _table(judge.by_fault(faults)))
  plotting.save(judge.picture(summary), out / "mutation_score.png")
  show(out, summary, parts)


def show(
  out: Path, summary: dict[str, Any], parts: list[verdicts.Part]
) -> None:
  def line(name: str, found: dict[str, Any]) -> None:
    print(
      f"{name:<46}{found['count']:>6,} of {found['of']:>6,}  "
      f"{100 * found['rate']:6.2f} % ({100 * found['low']:.2f} to "
      f"{100 * found['high']:.2f})"
    )

  print(f"{summary['faults']} different faults")
  for key in (
    "caught",
    "placed",
    "named",
    "named_from_numbers_alone",
    "no_cause_claimed_where_none_can_be_told",
    "false_alarms",
  ):
    line(key.replace("_", " "), summary[key])
  for setting, found in summary["check_grads"].items():
    best = " (best)" if setting == summary["check_grads_best"] else ""
    line(f"check_grads {setting}{best}: caught", found["caught"])
    line(f"check_grads {setting}{best}: alarms", found["false_alarms"])
  print("\n".join(study.verdict_lines(parts)))
  print(f"written to {out}")


def main(_: list[str]) -> None:
  out = Path(FLAGS.workdir or f"runs/mutation_score/{FLAGS.preset}")
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f"--workdir: {out} cannot be used: {error.strerror}"
    ) from None
  write(out, *collect(out / "cases.jsonl"))
