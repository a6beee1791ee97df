"""What becomes of three verdicts when what they were not asked about changes.

  python -m benchmarks.robustness

N2, L4 and B3 are measured and judged again, each with one thing changed:

  split   another development set (--split_seed=1), and so another training set
  width   hidden layers twice as wide (128-32, and 512-32 for N2's wide arm)
  test    the same runs as at first, judged by medians and the sign test

A verdict that turns with any of these says more of the design than of the
claim. Runs are kept in --workdir: stopped, it goes on. An estimated hour on two
cores, 6 minutes on an H100.
"""

import dataclasses
import datetime
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
from absl import flags

from benchmarks import publishing
from experiments import lr_comparison, seeds
from experiments._shared import app, study
from experiments.largest_rate import study as largest_rate
from mnist_jax import data, runtime, stats, sweep
from mnist_jax.runtime import environment

FLAGS = flags.FLAGS
RESULTS = Path(__file__).parents[1] / "results" / "robustness"
WIDER = 2
FEWEST = 6  # seeds, for an interval of a median
# Of largest_rate the runs along whose way the curvature is looked at judge
# another claim, and need not be long here.
STUDIES = {
  "N2": (seeds.STUDY, {}),
  "L4": (lr_comparison.STUDY, {}),
  "B3": (largest_rate.STUDY, {"edge_updates": 8}),
}


class Variant(NamedTuple):
  """One thing that is changed."""

  split_seed: int = 0
  wider: int = 1
  by_signs: bool = False


VARIANTS = {
  "as published": Variant(),
  "split": Variant(split_seed=1),
  "width": Variant(wider=WIDER),
  "test": Variant(by_signs=True),
}


class WiderLab(study.Lab):
  """A lab that makes every hidden layer of every run wider."""

  factor = 1

  def sweep(self, cells: Any, budget: sweep.Budget, **where: Any) -> Any:
    def wide(cell: sweep.Settings) -> sweep.Settings:
      sizes = tuple(self.factor * size for size in cell.hidden_sizes)
      return dataclasses.replace(cell, hidden_sizes=sizes)

    if isinstance(cells, dict):
      cells = {arm: [wide(c) for c in own] for arm, own in cells.items()}
    else:
      cells = [wide(cell) for cell in cells]
    return super().sweep(cells, budget, **where)


def define_flags() -> None:
  flags.DEFINE_enum("preset", "full", ["quick", "full"], "seeds and budgets")
  flags.DEFINE_string("workdir", "runs/robustness", "where the runs are kept")
  flags.DEFINE_boolean("publish", False, "write the table to results/")


def _signs(x: Any, *, seed: int) -> stats.Effect:
  """In place of `stats.typical_interval`: always the median and the signs."""
  del seed  # nothing is drawn
  return stats.median_interval(x)


def judged(claim: str, variant: Variant, workdir: Path) -> stats.Judged:
  """A claim, measured and judged with that one thing changed."""
  tested, changes = STUDIES[claim]
  values = study.preset_values(tested, FLAGS.preset)
  vars(values).update(changes, seeds=max(values.seeds, FEWEST))
  dataset = data.load(split_seed=variant.split_seed)
  # Variants of the judging alone find the runs of the first one there.
  name = f"{tested.name}-split{variant.split_seed}-width{variant.wider}"
  lab = WiderLab(dataset, workdir / FLAGS.preset / name, overwrite=False)
  lab.factor = variant.wider
  measured = tested.measure(lab, values)
  typical = _signs if variant.by_signs else stats.typical_interval
  with mock.patch.object(stats, "typical_interval", typical):
    claims = tested.judge(measured, values)
  return next(each for each in claims if each.claim == claim)


def _effect(part: stats.Part) -> str:
  found = part.effect
  if found is None:
    return ""
  return f"{found.estimate:.4g} ({found.low:.4g} to {found.high:.4g})"


def rows(claim: str, name: str, found: stats.Judged) -> list[dict[str, Any]]:
  """A row for each primary part of a claim under a variant."""
  return [
    {
      "claim": claim,
      "changed": name,
      "word": found.verdict,
      "primary part": part.name,
      "effect": _effect(part),
      "n": part.n,
      "test": part.effect.test if part.effect else "",
      "part": part.verdict,
    }
    for part in found.parts
    if part.role == "primary"
  ]


def page(table: pd.DataFrame, command: str, machine: str) -> str:
  """The table in Markdown, under what it is."""
  lines = [
    "# Three verdicts, with one thing changed at a time",
    "",
    f"Written by `{command}` on {machine}; what is changed is in the docstring "
    "of `benchmarks/robustness.py`. Accuracies are fractions, effects have "
    "95 % intervals; a claim's word stands in each row of its parts.",
    "",
    "| " + " | ".join(table.columns) + " |",
    "|" + " --- |" * len(table.columns),
  ]
  for row in table.itertuples(index=False):
    lines.append("| " + " | ".join(str(cell) for cell in row) + " |")
  return "\n".join(lines) + "\n"


def measure(workdir: Path) -> pd.DataFrame:
  """The rows of every claim under every variant, told as they come."""
  found: list[dict[str, Any]] = []
  for claim in STUDIES:
    for name, variant in VARIANTS.items():
      own = rows(claim, name, judged(claim, variant, workdir))
      print(f"{claim}, {name}: {own[0]['word']}", flush=True)
      found += own
  return pd.DataFrame(found)


def main(_: list[str]) -> None:
  begun = time.monotonic()
  if FLAGS.publish and FLAGS.preset != "full":
    app.fail(f"--publish: --preset={FLAGS.preset}, expected full", 2)
  runtime.use_all_cores()
  table = measure(Path(FLAGS.workdir))
  command = "python -m benchmarks.robustness --publish"
  found = environment.describe()
  device, today = found["device"], datetime.date.today().isoformat()
  name = f"{device['count']} x {device['kind']}"
  text = page(
    table, command, f"{name}, jax {found['versions']['jax']}, {today}"
  )
  print(text)
  if FLAGS.publish:
    tables = {"robustness": table}
    publishing.publish(RESULTS, text, tables, command, begun)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
