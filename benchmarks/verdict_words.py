"""How often each word of a verdict is given, by the true effect and by n.

  python -m benchmarks.verdict_words

Studies are drawn and judged by `mnist_jax.stats.judge`, effects in margins,
the sd between seeds 3 of them. Four tables:

  words     one primary part: each word by effect and n, under this rule and
            under the one of before, which asked "above 0" and "below the
            margin" in turn; and how often the interval shows an effect as
            real but small, as no difference that matters, as the other way
  shapes    the same for differences that are skewed or have heavy tails
  claims    claims of several parts at the truths that are easiest to get
            wrong: the chance of the right word, and of a wrong one
  failures  a few runs fail by 50 margins: how often the interval holds the
            median, and the words, by the mean and by `typical_interval`

A wrong word is one that says of the effect what is not so: "holds" at an
effect of one margin or less, "does not hold" at one margin or more. Undecided
is never wrong. Ten minutes on two cores at 1,000 draws.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from absl import flags

from benchmarks import publishing
from experiments._shared import app
from mnist_jax import stats
from mnist_jax.stats import effects, verdicts
from mnist_jax.stats.verdicts import Finding, Verdict

FLAGS = flags.FLAGS
RESULTS = Path(__file__).parents[1] / "results" / "verdict_words"
SD = 3.0  # between seeds, in margins
NS = (10, 30, 100, 300, 1000)
EFFECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # in margins
FAILED = -50.0
HOLDS, FAILS, UNDECIDED = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED
SHAPES: dict[str, Callable[[np.random.Generator, Any], np.ndarray]] = {
  "normal": lambda rng, size: rng.normal(size=size),
  "skewed up": lambda rng, size: rng.exponential(size=size) - 1,
  "skewed down": lambda rng, size: 1 - rng.exponential(size=size),
  "heavy tails": lambda rng, size: rng.standard_t(4, size=size) / np.sqrt(2),
}
Row = dict[str, Any]


def define_flags() -> None:
  flags.DEFINE_integer("draws", 1_000, "studies of each kind", lower_bound=1)
  flags.DEFINE_integer("workers", 2, "processes", lower_bound=1)
  flags.DEFINE_boolean("publish", False, "write the tables to results/")


def measured(x: np.ndarray) -> list[stats.Effect]:
  """`stats.mean_interval` of each row, in one go."""
  found = [effects.student_interval(row) for row in x]
  if x.shape[1] < effects.FEWEST_TO_RESAMPLE:
    return found
  ends = zip(*effects.bootstrap_interval(x, seed=0), strict=True)
  return [
    dataclasses.replace(effect, low=float(low), high=float(high))
    for effect, (low, high) in zip(found, ends, strict=True)
  ]


def judged(parts: Sequence[stats.Question], logic: Any = "all") -> stats.Judged:
  """A claim of these parts, judged."""
  return stats.judge(stats.Claim("X", parts, lambda _: "", logic))


def _one_part(effect: stats.Effect) -> stats.Judged:
  return judged([stats.Question("a", "", effect, margin=1.0)])


def word_before(effect: stats.Effect) -> Verdict:
  """By the rule of before, of one part with margin 1."""
  if effect.n < verdicts.MIN_SEEDS:
    return UNDECIDED
  assert effect.p_value is not None
  if effect.p_value < 0.05 and effect.low > 0.0:
    return HOLDS
  if effect.p_value < 0.05 and effect.high < 0.0:
    return FAILS
  return FAILS if effects.p_below(effect, 1.0) < 0.05 else UNDECIDED


def is_wrong(said: Verdict, effect: float) -> bool:
  """Whether a word about an effect beyond one margin says what is not so."""
  return said == HOLDS if effect <= 1.0 else said == FAILS


def words(shape: str, effect: float, n: int, draws: int, seed: int) -> Row:
  """The share of each word over studies of one part."""
  rng = np.random.default_rng(seed)
  x = effect + SD * SHAPES[shape](rng, (draws, n))
  found = measured(x)
  claims = [_one_part(each) for each in found]
  new = [claim.verdict for claim in claims]
  old = [word_before(each) for each in found]
  row: Row = {"shape": shape, "effect": effect, "n": n, "draws": draws}
  for rule, said in (("", new), ("before: ", old)):
    for each in (HOLDS, UNDECIDED, FAILS):
      row[f"{rule}{each}"] = float(np.mean([one == each for one in said]))
  where = [claim["a"].finding for claim in claims]
  for finding in (Finding.SMALL, Finding.NONE, Finding.AGAINST):
    row[finding] = float(np.mean([one == finding for one in where]))
  row["wrong"] = int(sum(is_wrong(one, effect) for one in new))
  return row


# Effects of the primary and the secondary parts, in margins; the logic; the
# word that is right. At one margin "beyond it" is false, and next to true.
ABOVE = 1.0 + 1e-9
CLAIMS: dict[str, tuple[tuple[float, ...], tuple[float, ...], str, Verdict]] = {
  "all of 6 large": ((3.0,) * 6, (), "all", HOLDS),
  "all of 6, one at the margin": ((3.0,) * 5 + (1.0,), (), "all", FAILS),
  "all of 6 just above": ((ABOVE,) * 6, (), "all", HOLDS),
  "any of 6 at the margin": ((1.0,) * 6, (), "any", FAILS),
  "any of 6, one just above": ((ABOVE,) + (-3.0,) * 5, (), "any", HOLDS),
  "in order, the second at the margin": ((3.0, 1.0, 3.0), (), "ordered", FAILS),
  "in order, all just above": ((ABOVE,) * 3, (), "ordered", HOLDS),
  "large, 8 secondaries just above": ((3.0,), (ABOVE,) * 8, "all", HOLDS),
  "large, 8 secondaries large": ((3.0,), (3.0,) * 8, "all", HOLDS),
  "large, one secondary of 8 at 0": (
    *((3.0,), (0.0,) + (3.0,) * 7, "all"),
    Verdict.LIMITS,
  ),
  "none, 8 restrictions at the margin": ((0.0,), (1.0,) * 8, "all", FAILS),
}
_NOT_SAID = {HOLDS: (FAILS, Verdict.LIMITS), FAILS: (HOLDS, Verdict.MOSTLY_NOT)}


def claim_words(name: str, n: int, draws: int, seed: int) -> Row:
  """The share of the right word and of wrong ones over studies of a claim."""
  primary, secondary, logic, right = CLAIMS[name]
  rng = np.random.default_rng(seed)
  means = np.array(primary + secondary)
  said = []
  for _ in range(draws):
    shared = rng.normal(size=(1, n))  # parts of a study share their seeds
    own = rng.normal(size=(len(means), n))
    x = means[:, None] + SD * (shared + own) / np.sqrt(2.0)
    parts = [
      stats.Question(
        str(i),
        "",
        effects.student_interval(row),
        margin=1.0,
        role="primary" if i < len(primary) else "secondary",
        restriction="" if i < len(primary) else "in part",
      )
      for i, row in enumerate(x)
    ]
    said.append(judged(parts, logic).verdict)
  wrong = _NOT_SAID.get(right, (FAILS, Verdict.MOSTLY_NOT))
  return {
    "claim": name,
    "right": str(right),
    "n": n,
    "draws": draws,
    "said right": float(np.mean([one == right for one in said])),
    "wrong": sum(one in wrong for one in said),
  }


def failures(rate: float, n: int, draws: int, seed: int) -> Row:
  """Where runs fail at this rate: coverage of the median, and the words."""
  rng = np.random.default_rng(seed)
  effect = 3.0
  fails = rng.random((draws, n)) < rate
  x = np.where(fails, FAILED, effect + SD * rng.normal(size=(draws, n)))
  # The median of all runs: of the others the quantile that failures leave.
  middle = effect + SD * float(
    scipy.stats.norm.ppf((0.5 - rate) / (1.0 - rate))
  )
  row: Row = {"fail": rate, "n": n, "draws": draws}
  for name, found in (
    ("mean", measured(x)),
    ("typical", [stats.typical_interval(each, seed=0) for each in x]),
  ):
    said = [_one_part(each).verdict for each in found]
    held = [each.low <= middle <= each.high for each in found]
    row[f"{name}: held"] = float(np.mean(held))
    row[f"{name}: holds"] = float(np.mean([one == HOLDS for one in said]))
  return row


def _jobs(draws: int) -> dict[str, list[tuple[Any, ...]]]:
  few = max(1, draws // 5)  # whose intervals are bootstrapped one by one
  return {
    "words": [
      (words, "normal", effect, n, draws)
      for effect, n in itertools.product(EFFECTS, NS)
    ],
    "shapes": [
      (words, shape, effect, n, draws)
      for shape, effect, n in itertools.product(
        SHAPES, (1.0, ABOVE), (30, 100, 300)
      )
    ],
    "claims": [
      (claim_words, name, n, draws)
      for name, n in itertools.product(CLAIMS, (30, 100, 300))
    ],
    "failures": [
      (failures, rate, n, few)
      for rate, n in itertools.product((0.0, 0.01, 0.03, 0.1), (30, 100))
    ],
  }


def _do(job: tuple[Any, ...], seed: int) -> Row:
  function, *args = job
  row: Row = function(*args, seed)
  return row


def simulate(draws: int, workers: int) -> dict[str, pd.DataFrame]:
  """All tables."""
  tables = {}
  with concurrent.futures.ProcessPoolExecutor(workers) as pool:
    for name, jobs in _jobs(draws).items():
      rows = pool.map(_do, jobs, range(len(jobs)))
      tables[name] = pd.DataFrame(list(rows))
      print(f"{name}: {len(jobs)} kinds of studies done", flush=True)
  return tables


def _percent(value: float) -> str:
  return f"{100 * value:.1f}"


def page(tables: dict[str, pd.DataFrame], command: str) -> str:
  """The tables in Markdown, in percent; wrong words with Wilson's interval."""
  lines = [
    "# How often each word is given",
    "",
    f"`{command}`; what the columns mean: `--help`. In percent; wrong words "
    "with Wilson's 95 % interval.",
  ]
  for name, table in tables.items():
    shown = table.drop(columns="draws").copy()
    if "wrong" in table:
      shown["wrong"] = [
        stats.share(stats.wilson_interval(int(k), int(n)), digits=1)
        for k, n in zip(table["wrong"], table["draws"], strict=True)
      ]
    kept = ("effect", "fail")
    for column in shown.select_dtypes("float").columns.difference(kept):
      shown[column] = shown[column].map(_percent)
    draws = sorted(table["draws"].unique().tolist())
    lines += ["", f"## {name} ({draws[0]:,} draws of each)", ""]
    columns = [str(column) for column in shown.columns]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for column in shown.columns.intersection(kept):
      shown[column] = shown[column].map("{:g}".format)
    rows = shown.astype(str).itertuples(index=False)
    lines += [f"| {' | '.join(row)} |" for row in rows]
  return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
  begun = time.monotonic()
  tables = simulate(FLAGS.draws, min(FLAGS.workers, os.cpu_count() or 1))
  command = (
    f"python -m benchmarks.verdict_words --draws={FLAGS.draws} --publish"
  )
  text = page(tables, command)
  print(text)
  if FLAGS.publish:
    publishing.publish(RESULTS, text, tables, command, begun)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
