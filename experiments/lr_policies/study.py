"""L6, L2: the six rate policies, exact, trained, and on a convex problem.

  python -m experiments.lr_policies --preset=full

L6 (12.4, 常用学习率下降算法: Fixed, Step, Multistep, Exp, Inv, Poly), derived.
Primary: each policy's table of 20,000 updates is its formula (50 digits,
written anew) within one last place of float32. Diagnostic: torch's schedulers,
where torch is installed. Shown beside, no part of the verdict, as the chapter
ranks no policy: every policy's constants and first rate chosen on the
development set, of the grid in `candidates`, with seeds of their own (from
1000), then run on fresh seeds (from 0) against the tuned fixed rate, on MNIST
at batch 128 (paired, with intervals).
L2 (12.4), 保证SGD收敛的充分条件: sum of rates infinite, sum of squares finite.
Metric: J - J* on L2 softmax regression, its optimum known, 20,000 updates.
Primary (all): derived, that a policy of the six has both; the excess loss of
each that has (inv, and inv with power 1) still falls over the last factor of 10
in updates (slope below 0), and ends below that of the fixed rate, whose sum of
squares is infinite. Any size counts, so there is no margin.
Diagnostic: those that break a condition (step, multistep, exp, poly) against
inv at the last update. A sufficient condition does not say that what breaks it
is worse, and in a run that ends it need not be.
Test: Student's t over seeds, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds, 20 epochs) about 9 minutes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, interval_columns
from experiments.lr_policies import conditions, convex
from experiments.lr_policies import parity as policy_parity
from mnist_jax import plotting, schedules, stats, sweep
from mnist_jax.sweep import figures, tables

ONE_LAST_PLACE = 1.0
CONVEX_RATE = 0.1
SIX = ("fixed", "step", "multistep", "exp", "inv", "poly")
BREAKING = ("step", "multistep", "exp", "poly")  # one condition or both

OPTIONS = (
  study.Option("epochs", 2, 20, "epochs of each run"),
  study.Option("seeds", 2, 30, "fresh seeds of each policy"),
  study.Option("tuning_seeds", 1, 3, "seeds of each candidate"),
  study.Option("first_rates", (0.8,), (0.5, 0.8, 1.2, 1.8), "first rates"),
  study.Option("convex_updates", 1000, 20_000, "on the convex problem"),
  study.Option("convex_examples", 500, 5000, "of the convex problem"),
  study.Option("convex_seeds", 2, 30, "of the convex problem"),
)


def candidates(
  epochs: int, first_rates: Sequence[float]
) -> dict[str, list[sweep.Settings]]:
  """The constants tried of each policy, in epochs, at each first rate."""
  half, late = round(0.5 * epochs, 3), round(0.75 * epochs, 3)
  fifth = round(epochs / 5, 3)
  each: dict[str, list[dict[str, Any]]] = {
    "fixed": [{}],
    "step": [{"gamma": (0.5, 0.7), "decay_steps": fifth}],
    "multistep": [{"gamma": (0.1, 0.3), "boundaries": (half, late)}],
    "exp": [{"gamma": [round(end ** (1 / epochs), 6) for end in (0.03, 0.1)]}],
    "inv": [
      {"gamma": round(g / epochs, 6), "power": p}
      for g, p in ((10.0, 0.75), (3.0, 1.0))
    ],
    "poly": [{"power": (1.0, 2.0)}],
  }
  return {
    policy: [
      cell
      for constants in some
      for cell in sweep.product(
        sweep.Settings(schedule_unit="epochs"),
        schedule=policy,
        **constants,
        learning_rate=first_rates,
      )
    ]
    for policy, some in each.items()
  }


def _trained(
  lab: study.Lab, values: study.Values
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Runs of the chosen constants on fresh seeds, and those of the choice."""
  tuned = lab.tune(
    candidates(values.epochs, values.first_rates),
    values.tuning_seeds,
    sweep.Budget(epochs=values.epochs),
  )
  runs = lab.sweep(
    {
      policy: sweep.product(best, seed=range(values.seeds))
      for policy, best in tuned.best.items()
    },
    sweep.Budget(epochs=values.epochs, evaluate_every=1),
  )
  return runs, tuned.table


def _convex_configs(values: study.Values) -> dict[str, Any]:
  """The six over the run, and an inv with both conditions."""
  total = values.convex_updates
  configs = policy_parity.studied_policies(CONVEX_RATE, total)
  del configs["exponential_decay"]
  both = schedules.ScheduleConfig(
    "inv", CONVEX_RATE, gamma=100 / total, power=1.0
  )
  return {**configs, "inv, power 1": both}


def _convex(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """Excess losses in a long table."""
  problem = convex.make_problem(lab.dataset.train, values.convex_examples)
  optimum = convex.solve(problem)
  configs = _convex_configs(values)
  total, seeds = values.convex_updates, range(values.convex_seeds)
  rates = np.stack(
    [schedules.learning_rates(c, total, total) for c in configs.values()]
  )
  updates, excess = convex.excess_losses(problem, optimum, rates, tuple(seeds))
  index = pd.MultiIndex.from_product(
    [configs, seeds, updates], names=["policy", "seed", "step"]
  )
  return pd.DataFrame({"excess": excess.ravel()}, index).reset_index()


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  studied = policy_parity.studied_policies()
  theirs = policy_parity.against_torch(studied)
  parity = [
    *policy_parity.against_formula(studied),
    *(() if isinstance(theirs, str) else theirs),
  ]
  excess = _convex(lab, values)
  runs, tuning = _trained(lab, values)
  return {
    "parity": pd.DataFrame(parity),
    "convex": excess,
    "table": runs,
    "tuning": tuning,
  }


def _l6(measured: study.Tables) -> list[stats.Part]:
  return [
    stats.derived(
      f"{row.policy}, {row.against}",
      f"{row.formula} over {row.steps} updates within one last place",
      bool(row.max_ulps <= ONE_LAST_PLACE),
      f"at most {row.max_ulps:.3f} last places, {row.max_relative:.2g} "
      "relative",
      role="primary" if row.against == policy_parity.EXACT else "diagnostic",
    )
    for row in measured["parity"].itertuples()
  ]


def _l6_sentence(parity: pd.DataFrame) -> str:
  own = parity[parity["against"] == policy_parity.EXACT]
  return (
    f"Over {own['steps'].max():,} updates the rates of the six policies and "
    "of the chapter's exponential decay are at most "
    f"{own['max_ulps'].max():.2f} of a last place of float32 "
    f"(relative {own['max_relative'].max():.1g}) from the formula in "
    f"{policy_parity.DIGITS} digits; derived."
  )


def _both() -> tuple[list[str], list[str]]:
  """Those of the six that meet both conditions, and the sums of each."""
  studied = policy_parity.studied_policies()
  found = {policy: conditions.conditions(studied[policy]) for policy in SIX}
  texts = [
    f"{policy}: sum of rates {sums.total:.4g}, of squares {sums.squares:.4g}"
    for policy, sums in found.items()
  ]
  return [policy for policy, sums in found.items() if sums.both], texts


def _excess(table: pd.DataFrame) -> tables.Curves:
  return tables.curves(table, "policy", "excess", point="step")


def _l2(table: pd.DataFrame, values: study.Values) -> list[Any]:
  curves = _excess(table)
  updates = curves.points.astype(np.int64)
  ends = {policy: curves.arm(policy)[:, -1] for policy in curves.arms}
  both, texts = _both()
  parts: list[Any] = [
    stats.derived(
      "which have both conditions",
      f"of the six, {', '.join(both) or 'none'}",
      bool(both),
      "; ".join(texts),
    )
  ]
  for policy, config in _convex_configs(values).items():
    if conditions.conditions(config).both:
      parts += [
        stats.Question(
          f"{policy}: still falling",
          "its excess loss falls to the end (slope on log axes)",
          convex.late_slope(updates, curves.arm(policy)),
          "less",
        ),
        stats.Question(
          f"{policy}: below the fixed rate",
          "it ends below the excess of the fixed rate (log of the ratio)",
          stats.paired_log_ratio(ends[policy], ends["fixed"], seed=0),
          "less",
        ),
      ]
  parts += [
    stats.Question(
      f"{policy}: above inv",
      "it breaks a condition, and ends above inv (log of the ratio)",
      stats.paired_log_ratio(ends[policy], ends["inv"], seed=0),
      role="diagnostic",
    )
    for policy in BREAKING
  ]
  return parts


def _l2_sentence(judged: stats.Judged, values: study.Values) -> str:
  lower: list[str] = []
  other: list[str] = []
  for policy in BREAKING:
    effect = judged.found(f"{policy}: above inv")
    text = f"{policy} {stats.as_ratio(effect)[0]:.2f}"
    (lower if effect.high < 0 else other).append(text)
  words = [f"end lower than inv: {', '.join(lower)}"] * bool(lower)
  words += [f"do not: {', '.join(other)}"] * bool(other)
  return (
    "On L2 softmax regression the excess loss of inv, which has both "
    "conditions, goes like updates to the power "
    f"{stats.amount(judged.found('inv: still falling'))} at the end and is "
    f"{stats.factor(judged.found('inv: below the fixed rate'))} that of the "
    f"fixed rate after {values.convex_updates:,} updates; of those that break "
    f"a condition (times inv's) there {'; '.join(words)}; n = {judged.n}."
  )


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  parity = measured["parity"]
  l2 = stats.Claim(
    "L2",
    _l2(measured["convex"], values),
    lambda judged: _l2_sentence(judged, values),
  )
  l6 = stats.Claim("L6", _l6(measured), lambda _: _l6_sentence(parity))
  return [stats.judge(l2), stats.judge(l6)]


def _against_fixed(table: pd.DataFrame) -> dict[str, stats.Effect]:
  curves = tables.curves(table, "schedule", "dev_accuracy")
  fixed = curves.arm("fixed")[:, -1]
  return {
    policy: stats.paired_difference(curves.arm(policy)[:, -1], fixed, seed=0)
    for policy in SIX[1:]
  }


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By policy: constants, accuracy, against fixed, convex floor and slope."""
  table = measured["table"]
  ends = tables.last_rows(table)
  against = _against_fixed(table)
  curves = _excess(measured["convex"])
  updates = curves.points.astype(np.int64)
  rows = []
  for policy in curves.arms:
    excess = curves.arm(policy)
    slope = convex.late_slope(updates, excess)
    row: dict[str, Any] = {
      "policy": policy,
      "convex_floor": convex.floor(updates, excess).estimate,
      **interval_columns("convex_slope", slope),
    }
    if policy in SIX:
      own = ends[ends["schedule"] == policy]
      row |= {
        "constants": _legend(own),
        "dev_accuracy_mean": own["dev_accuracy"].mean(),
        "dev_accuracy_std": own["dev_accuracy"].std(),
        "dev_loss_mean": own["dev_loss"].mean(),
        "seeds": len(own),
      }
    if policy in against:
      gain = against[policy]
      row |= interval_columns("points_over_fixed", gain, ACCURACY.scale)
    rows.append(row)
  return pd.DataFrame(rows)


def _legend(own: pd.DataFrame) -> str:
  row = own.iloc[0]
  constants: dict[str, Any] = {
    name: float(row[name])
    for name in ("gamma", "decay_steps", "power")
    if pd.notna(row[name])
  }
  if pd.notna(row["boundaries"]):
    constants["boundaries"] = tuple(map(float, row["boundaries"].split(",")))
  return schedules.ScheduleConfig(
    row["schedule"],
    float(row["learning_rate"]),
    schedule_unit=row["schedule_unit"],
    **constants,
  ).describe()


def draw_policies(
  configs: Mapping[str, schedules.ScheduleConfig], num_steps: int
) -> plotting.Figure:
  """Rate against update, on a linear axis and on a logarithmic one.

  Args:
    configs: in updates; each becomes a line, its `describe()` the legend.
    num_steps: T.

  Raises:
    InputError: as `schedules.learning_rates`.
  """
  figure, axes = plotting.panels(1, 2, size=(11, 5.2))
  linear, log = axes[0]
  for i, config in enumerate(configs.values()):
    rates = schedules.learning_rates(config, num_steps, num_steps)
    rates = rates.astype(np.float64)
    # A log axis has no place for a rate of 0.
    shown = np.where(rates > 0, rates, np.nan)
    # Apart from one another, where lines lie on each other.
    places = (num_steps * (i + 1) // 70, max(1, num_steps // 8))
    look = plotting.series(i) | {"markevery": places}
    for ax, y in ((linear, rates), (log, shown)):
      ax.plot(np.arange(num_steps), y, label=config.describe(), **look)
  for ax, title in ((linear, "linear"), (log, "logarithmic")):
    ax.set(xlabel="update t", ylabel="learning rate", title=f"{title} axis")
  linear.set_ylim(bottom=0)
  plotting.log_axis(log, "y")
  lowest = min(float(c.learning_rate) for c in configs.values()) / 1000
  log.set_ylim(bottom=lowest)
  handles = linear.get_legend_handles_labels()
  figure.legend(*handles, loc="outside lower center", ncols=2)
  return figure


def _draw_trained(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(1, 3, (16, 4.6))
  table = measured["table"]
  for ax, metric in zip(axes[0], ("dev_loss", "dev_accuracy"), strict=False):
    curves = tables.curves(table, "schedule", metric)
    figures.draw_curves(
      ax,
      curves,
      metric,
      lambda policy: _legend(table[table["schedule"] == policy]),
      since=1,
    )
    if metric == "dev_loss":
      plotting.log_axis(ax, "y")
    ax.legend(fontsize=7)
  against = _against_fixed(table)
  effects = list(against.values())
  figures.draw_effects(axes[0, 2], list(against), effects, scale=ACCURACY.scale)
  axes[0, 2].set_xlabel(
    "over the tuned fixed rate (points of dev accuracy, 95 %)"
  )
  figure.suptitle(
    f"Six policies with tuned constants, batch 128, {values.seeds} seeds "
    "(e in epochs)"
  )
  return figure


def _draw_convex(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(1, 1, (8, 5.2))
  curves = _excess(measured["convex"])
  configs = _convex_configs(values)
  ax = axes[0, 0]
  for i, policy in enumerate(curves.arms):
    label = configs[policy].describe()
    plotting.bands(ax, curves.points, curves.arm(policy), label, index=i)
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.set(xlabel="update t", ylabel="excess loss J − J* (nats)")
  ax.legend(fontsize=8)
  ax.set_title(
    f"L2 softmax regression, {values.convex_examples} examples, batch "
    f"{convex.BATCH_SIZE}, mean and 95 % band"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  studied = policy_parity.studied_policies()
  return {
    "policies": draw_policies(studied, policy_parity.NUM_STEPS),
    "trained": _draw_trained(measured, values),
    "convex": _draw_convex(measured, values),
  }


STUDY = study.Study("lr_policies", OPTIONS, measure, judge, draw, summarise)
