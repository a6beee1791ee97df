"""Plants every mistake of the catalogue and counts those found (claim G4).

  python -m experiments.mutation_score --preset=full

Claim (12.3): a gradient check shows whether backprop is right. Full: the faults
of the chapter's network on MNIST (1 seed) and of five small networks (6 seeds
each), 31 seeds in all, and 1,080 correct random networks; beside it
jax.test_util.check_grads on the same cases.
Primary: the chapter's own single ratio, over all parameters, is above its bar
of 1e-7 for more than 90 % of the mistakes.
Secondary, of our check: found > 99 %, just the wrong tensors named > 99 %,
cause named > 90 %, false alarms < 1 % (exact binomial), and more found than by
check_grads at its best step, and than by the ratio.
Test: Student's t over seeds, of their fractions; Holm over the secondaries;
95 % bootstrap intervals. Cost on two cores: full an estimated 15 minutes; the
same command goes on where it was stopped.
"""

import functools
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments.mutation_score import cases, judge
from mnist_jax import plotting, stats
from mnist_jax.runtime.errors import InputError

OPTIONS = (
  study.Option("chapter_seeds", 0, 1, "seeds of the chapter's network"),
  study.Option("small_seeds", 1, 6, "seeds of each small network"),
  study.Option(  # quick has the two that are soonest done
    "small_networks", (3, 5), (1, 2, 3, 4, 5), "by number, 1 to 5", rises=1
  ),
  study.Option("correct", 12, 1080, "correct random networks"),
  study.Option("alike", 6, 45, "of these, how many share an architecture"),
)
_FIRST_FAULT, _FIRST_CORRECT = 100, 10_000  # seeds
EXAMPLES = 5000  # of the training set, for the chapter's network


def check(values: SimpleNamespace) -> None:
  """Refuses numbers that name no small network."""
  if values.small_networks[-1] > len(cases.SMALL):
    raise InputError(
      f"small_networks={','.join(map(str, values.small_networks))}: expected "
      f"numbers from 1 to {len(cases.SMALL)}"
    )


def _planted(
  lab: study.Lab, network: cases.Network, seed: int
) -> list[dict[str, Any]]:
  how: dict[str, Any] = {}
  if network == cases.CHAPTER:
    train = lab.dataset.train
    how = {
      "images": np.asarray(train.images[:EXAMPLES]) / 255.0,
      "labels": np.asarray(train.labels[:EXAMPLES]),
      "l2": 1e-3,
      "moved": 0.02,
    }
  elif seed % 2:  # larger weights, so that units saturate
    how = {"initializer": "normal"}
  return cases.fault_records(network, seed, **how)


def _correct(
  network: cases.Network, seeds: Sequence[int]
) -> list[dict[str, Any]]:
  return [cases.correct_record(network, seed) for seed in seeds]


def measure(lab: study.Lab, values: SimpleNamespace) -> dict[str, Any]:
  small = tuple(cases.SMALL[number - 1] for number in values.small_networks)
  planted = cases.fault_cases(
    values.chapter_seeds, values.small_seeds, _FIRST_FAULT, small
  )
  correct = cases.correct_cases(values.correct, values.alike, _FIRST_CORRECT)
  # Those alike are one case, so that what they need is compiled once.
  alike = [
    (network, [seed for _, seed in some])
    for network, some in itertools.groupby(correct, lambda case: case[0])
  ]
  found = {
    "faults": lab.collect(
      {
        f"{network}, seed {seed}": functools.partial(
          _planted, lab, network, seed
        )
        for network, seed in planted
      },
      "faults",
      at_once=True,
    ),
    "correct": lab.collect(
      {
        f"{network}, {len(seeds)} from seed {seeds[0]}": functools.partial(
          _correct, network, seeds
        )
        for network, seeds in alike
      },
      "correct",
      at_once=True,
    ),
  }
  return found | {"summary": judge.summarise(**found)}


def judged(
  measured: dict[str, Any], values: SimpleNamespace
) -> list[stats.Judged]:
  return judge.judged(measured["faults"], measured["correct"])


def summarise(
  measured: dict[str, Any], values: SimpleNamespace
) -> dict[str, Any]:
  """Each fault's row, and all rates with what was missed or misjudged."""
  return {
    "faults.csv": pd.DataFrame(judge.by_fault(measured["faults"])),
    "summary.json": measured["summary"],
  }


def draw(
  measured: dict[str, Any], values: SimpleNamespace
) -> dict[str, plotting.Figure]:
  return {"mutation_score": judge.picture(measured["summary"])}


def report(measured: dict[str, Any], values: SimpleNamespace) -> str:
  """The rates in lines, ours and those of check_grads."""
  summary = measured["summary"]
  rows = {
    key.replace("_", " "): summary[key]
    for key in (
      "caught",
      "placed",
      "named",
      "named_from_numbers_alone",
      "no_cause_claimed_where_none_can_be_told",
      "false_alarms",
    )
  }
  for setting, found in summary["check_grads"].items():
    best = " (best)" if setting == summary["check_grads_best"] else ""
    rows[f"check_grads {setting}{best}: caught"] = found["caught"]
    rows[f"check_grads {setting}{best}: alarms"] = found["false_alarms"]
  lines = [f"{summary['faults']} different faults"]
  lines += [
    f"{name:<46}{found['count']:>6,} of {found['of']:>6,}  "
    f"{100 * found['rate']:6.2f} % ({100 * found['low']:.2f} to "
    f"{100 * found['high']:.2f})"
    for name, found in rows.items()
  ]
  return "\n".join(lines)


STUDY = study.Study(
  "mutation_score",
  OPTIONS,
  measure,
  judged,
  draw,
  summarise,
  check,
  report=report,
)
