"""How many mistakes in derivatives by hand `check_vjp` and `check_jvp` find.

  python -m benchmarks.rule_mutations

Rules for VJPs, JVPs and Hessian-vector products are derived by hand (dense
layer, cross-entropy, layer normalisation, attention, a linear solve, complex
functions, two Hessians). At every intermediate value of each a mistake is
planted: sign, factor 2, 1 % too much, dropped, reversed, transposed, conjugate
forgotten, wrong residual; and in VJPs a value cut off from second derivatives,
which order=2 is to find. What leaves all numbers as they are is no mistake.
Rules without a mistake are drawn with other seeds. Counted: found (the verdict
is "wrong"), just the wrong arguments named, missed, false alarms, with Wilson's
95 % intervals. Half an hour on one core.
"""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import flags

from benchmarks import publishing
from benchmarks.rule_mutations import catalogue
from benchmarks.rule_mutations.catalogue import CUT, Handed, Rule
from experiments._shared import app
from mnist_jax import gradcheck, stats
from mnist_jax.runtime import precision

FLAGS = flags.FLAGS
RESULTS = Path(__file__).parents[2] / "results" / "rule_mutations"
_NEGLIGIBLE = 1e-9  # a distance, as of two orders of the same sum
Record = dict[str, Any]


def define_flags() -> None:
  flags.DEFINE_integer("seeds", 2, "draws of each mistake", lower_bound=1)
  flags.DEFINE_integer("right", 40, "draws of each right rule", lower_bound=1)
  flags.DEFINE_boolean("publish", False, "write the table to results/")


def subject(rule: Rule, m: Handed) -> tuple[Callable[..., Any], Any]:
  """(function, keywords) for check_vjp, or check_jvp, of the rule with m."""
  if rule.form == "vjp":
    f = jax.custom_vjp(rule.f)
    f.defvjp(
      lambda *args: (rule.f(*args), args),
      lambda args, c: rule.by_hand(m, c, *args),
    )
    return f, {}
  if rule.form == "jvp":
    g = jax.custom_jvp(rule.f)
    g.defjvp(lambda args, t: (rule.f(*args), rule.by_hand(m, t, *args)))
    return g, {}
  return jax.grad(rule.f), {"vjp": functools.partial(rule.by_hand, m)}


def check(
  rule: Rule, m: Handed, args: Any, **keywords: Any
) -> gradcheck.Report:
  """The report on the rule with m."""
  f, more = subject(rule, m)
  judge = gradcheck.check_jvp if rule.form == "jvp" else gradcheck.check_vjp
  return judge(f, *args, **more, **keywords)


def derivatives(
  rule: Rule, m: Handed, args: Any, seed: int, order: int
) -> list[np.ndarray]:
  """What the rule gives, of order 2 its own derivative, for random numbers.

  An array an argument (of hvp a leaf); of jvp, one for each argument's tangent.
  """

  def normal(like: Any, rng: np.random.Generator) -> Any:
    shape = np.shape(like)
    return rng.normal(size=shape) + (
      1j * rng.normal(size=shape) if jnp.iscomplexobj(like) else 0.0
    )

  rng = np.random.default_rng([seed, 7])
  with precision.float64():
    args = jax.tree.map(jnp.asarray, args)
    if rule.form == "jvp":
      tangents = [normal(arg, rng) for arg in args]
      one_by_one = [
        tuple(t if j == k else 0 * t for j, t in enumerate(tangents))
        for k in range(len(args))
      ]
      return [np.asarray(rule.by_hand(m, t, *args)) for t in one_by_one]
    like = args[0] if rule.form == "hvp" else rule.f(*args)
    c = jax.tree.map(lambda leaf: normal(leaf, rng), like)

    def given(*args: Any) -> Any:
      return jax.tree.leaves(rule.by_hand(m, c, *args))

    if order == 1:
      return [np.asarray(leaf) for leaf in given(*args)]
    values, back = jax.vjp(given, *args)
    again = back([jnp.asarray(normal(v, rng), v.dtype) for v in values])
    found = [
      np.asarray(leaf)
      for leaf in jax.tree.leaves(again)
      if leaf.dtype != jax.dtypes.float0
    ]
  return found


def differing(a: list[np.ndarray], b: list[np.ndarray]) -> list[int]:
  """Which of the arrays differ."""
  return [
    k
    for k, (x, y) in enumerate(zip(a, b, strict=True))
    if np.linalg.norm(x - y)
    > _NEGLIGIBLE * (np.linalg.norm(x) + np.linalg.norm(y))
  ]


def named(report: gradcheck.Report) -> set[int]:
  """The arguments (of hvp leaves) named wrong, by number.

  The real and the imaginary part of one are one.
  """
  whole = [
    t.path.removesuffix(".real").removesuffix(".imag") for t in report.tensors
  ]
  order = list(dict.fromkeys(whole))
  return {
    order.index(path)
    for path, t in zip(whole, report.tensors, strict=True)
    if t.verdict is gradcheck.Verdict.WRONG
  }


def planted(rule: Rule, seed: int, order: int) -> Iterator[Record]:
  """A record for each mistake that is one at this draw."""
  args = rule.draw(np.random.default_rng(seed))
  true = derivatives(rule, catalogue.right, args, seed, order)

  def run(m: Handed) -> Any:
    return derivatives(rule, m, args, seed, 1)

  places = catalogue.places(run)
  if order == 2:
    sites = dict.fromkeys(site for site, _, _ in places)
    places = [(site, CUT, "") for site in sites]
  for place in dict.fromkeys(places):
    m = catalogue.mistaken(*place)
    changed = differing(true, derivatives(rule, m, args, seed, order))
    if not changed:
      continue
    how = {"order": 2, "cotangents": 1} if order == 2 else {}
    report = check(rule, m, args, **how)
    site, kind, alternative = place
    yield {
      "rule": rule.name,
      "form": rule.form if order == 1 else f"{rule.form}, order 2",
      "seed": seed,
      "site": site,
      "kind": kind,
      "alternative": alternative,
      "verdict": str(report.verdict),
      "placed": named(report) == set(changed),
    }


def unspoiled(rule: Rule, seed: int, order: int) -> Record:
  """The record of a rule without a mistake."""
  args = rule.draw(np.random.default_rng([seed, 1]))
  how = {"order": 2, "cotangents": 1} if order == 2 else {}
  report = check(rule, catalogue.right, args, seed=seed, **how)
  return {
    "rule": rule.name,
    "form": rule.form if order == 1 else f"{rule.form}, order 2",
    "seed": seed,
    "kind": "right",
    "verdict": str(report.verdict),
    "reason": report.reason,
  }


def rate(holds: pd.Series) -> str:
  """As "9 of 10 (55.5 to 99.7 %)", with Wilson's interval."""
  effect = stats.effects.wilson_interval(int(holds.sum()), len(holds))
  return (
    f"{int(holds.sum()):,} of {len(holds):,} "
    f"({100 * effect.low:.2f} to {100 * effect.high:.2f} %)"
  )


def page(mistakes: pd.DataFrame, right: pd.DataFrame, command: str) -> str:
  """The counts as Markdown: in all, by form and by kind of mistake."""
  mistakes = mistakes.assign(all="all")
  lines = ["# Mistakes planted in derivatives by hand", "", f"`{command}`", ""]
  for factor in ("all", "form", "kind"):
    lines += [
      f"| {factor} | found | arguments named | missed | not resolved |",
      "|---|---|---|---|---|",
    ]
    for level, own in mistakes.groupby(factor, sort=False):
      said = own["verdict"]
      missed = int((said == "correct").sum())
      other = int((~said.isin(["wrong", "correct"])).sum())
      lines.append(
        f"| {level} | {rate(said == 'wrong')} | {rate(own['placed'])} | "
        f"{missed} | {other} |"
      )
    lines.append("")
  lines += ["| right rules | false alarms | correct |", "|---|---|---|"]
  for level, own in [("all", right), *right.groupby("form", sort=False)]:
    said = own["verdict"]
    lines.append(
      f"| {level} | {rate(said == 'wrong')} | {rate(said == 'correct')} |"
    )
  return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
  begun = time.monotonic()
  jobs = [(rule, 1) for rule in catalogue.RULES]
  jobs += [(rule, 2) for rule in catalogue.SECOND]
  mistakes, right = [], []
  for rule, order in jobs:
    for seed in range(FLAGS.seeds):
      mistakes += list(planted(rule, seed, order))
    for seed in range(FLAGS.right):
      right.append(unspoiled(rule, seed, order))
    jax.clear_caches()
    print(f"{rule.name}, {rule.form}, order {order}: done", flush=True)
  tables = pd.DataFrame(mistakes), pd.DataFrame(right)
  command = (
    "python -m benchmarks.rule_mutations "
    f"--seeds={FLAGS.seeds} --right={FLAGS.right} --publish"
  )
  text = page(*tables, command)
  print(text)
  if FLAGS.publish:
    named = dict(zip(("mistakes", "right"), tables, strict=True))
    publishing.publish(RESULTS, text, named, command, begun)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
