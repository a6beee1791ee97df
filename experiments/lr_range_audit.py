"""L3, L1: is the range test's advice any good?

  python -m experiments.lr_range_audit --preset=full

L3 (12.4): raise the rate after each batch, plot the loss, and one sees the
best rate. At every batch size each seed makes a range test of its own; each
rule reads a rate off it, and the seed is trained at that rate. A refusal
counts as the book's 0.2. The best rate is found on a grid, with seeds of its
own (from 1000); it and its two neighbours are trained with the fresh seeds
too, and the best of the three by their mean is the reference. The rules were
tuned on other seeds (0 to 9), at batch 32, 128 and 512; here from 100.
Regret: development accuracy at the reference less that at the suggestion,
paired, after equal epochs. Parts: is its mean below 0.15 point, for each rule
over all batch sizes, and for the default rule at each.
L1: at batch 128, after one epoch: too small a rate is slow (a tenth of the
best has a higher loss), too large a one does not get there (10 times the
best) or ends worse than guessing (the largest), and it fluctuates (at 4 times
the best, the sd of the development loss over the last evaluations). A run
whose loss ends above ln 10, that of guessing, and above its start, or is not
finite, is counted as diverged.
Test: Student's t over seeds, Holm over all parts, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds, 5 epochs, seven batch sizes) about 16
minutes.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY
from mnist_jax import plotting, range_test, stats, sweep
from mnist_jax.range_test import rules as range_rules
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

MARGIN = 0.0015  # accuracy
REFUSED = 0.2  # the book's rate
FIRST_SEED = 100
L1_BATCH = 128
L1_EVALUATIONS = 20  # at the end of the epoch, ten updates apart

OPTIONS = (
  study.Option(
    "batch_sizes", (128, 1024), (16, 32, 64, 128, 256, 512, 1024), "audited"
  ),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("tuning_seeds", 1, 4, "seeds of the grid"),
  study.Option("epochs", 1, 5, "epochs of each run"),
  study.Option(
    "rates",
    (0.2, 0.5, 1.0, 2.0),
    (0.05, 0.075, 0.11, 0.17, 0.25, 0.38, 0.57, 0.85, 1.3, 1.9, 2.9, 4.3),
    "the grid",
  ),
  study.Option("decades", 3, 6, "of rates of L1, up to 100"),
)


def _seeds(values: study.Values) -> range:
  return range(FIRST_SEED, FIRST_SEED + values.seeds)


def _suggestions(
  lab: study.Lab, batch_size: int, values: study.Values
) -> pd.DataFrame:
  """Rates to two digits, [seed x rule], NaN where a rule refuses."""
  settings, seeds = sweep.Settings(batch_size=batch_size), _seeds(values)
  recording = range_test.network(
    settings.train_config(), settings.hparams(), lab.dataset, seeds
  )
  found = range_rules.judge(recording)
  rates = {rule: found.suggestion(rule).per_seed for rule in range_rules.RULES}
  table = pd.DataFrame(rates, seeds, dtype=float)
  return table.map(lambda rate: float(f"{rate:.2g}"))


def _audit(
  lab: study.Lab, batch_size: int, values: study.Values
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """The runs of a batch size with an arm for each, and the grid's runs."""
  budget = sweep.Budget(epochs=values.epochs)
  base = sweep.Settings(batch_size=batch_size)
  tuned = lab.tune(
    {"grid": sweep.product(base, learning_rate=values.rates)},
    values.tuning_seeds,
    budget,
  )
  best = float(tuned.best["grid"].learning_rate)
  number = values.rates.index(best)
  suggested = _suggestions(lab, batch_size, values)
  arms = {
    f"grid {r:g}": sweep.product(base, learning_rate=r, seed=_seeds(values))
    for r in values.rates[max(0, number - 1) : number + 2]
  } | {
    rule: [
      dataclasses.replace(base, learning_rate=rate, seed=seed)
      for seed, rate in rates.fillna(REFUSED).items()
    ]
    for rule, rates in suggested.items()
  }
  table = lab.sweep(arms, budget)
  ends = table[table["step"] == table["step"].max()]
  refused = suggested.isna().unstack()
  pairs = pd.MultiIndex.from_frame(ends[["arm", "seed"]])
  ends = ends.assign(refused=pairs.isin(refused.index[refused]), grid_best=best)
  return ends, tuned.table.drop(columns="arm")


def _l1_runs(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """Of one epoch at batch 128, from rates too small up to 100."""
  count = 2 * values.decades + 1
  rates = [float(f"{r:.2g}") for r in 100 / 10 ** (np.arange(count) / 2)]
  settings = sweep.Settings(batch_size=L1_BATCH)
  updates = settings.updates_per_epoch(len(lab.dataset.train.labels))
  points = tuple(range(updates, 0, -10)[:L1_EVALUATIONS])
  budget = sweep.Budget(updates=updates, evaluate_at=points)
  cells = sweep.product(
    settings, learning_rate=rates[::-1], seed=_seeds(values)
  )
  return lab.sweep(cells, budget)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  runs, grids = zip(
    *(_audit(lab, size, values) for size in values.batch_sizes), strict=True
  )
  return {
    "table": pd.concat(runs, ignore_index=True),
    "grid": pd.concat(grids, ignore_index=True),
    "rates": _l1_runs(lab, values),
  }


def regrets(table: pd.DataFrame, batch_size: int) -> pd.DataFrame:
  """Of every rule and seed, [seed x rule], in accuracy."""
  own = table[table["batch_size"] == batch_size]
  wide = own.pivot(index="seed", columns="arm", values="dev_accuracy")
  grid = [arm for arm in wide.columns if str(arm).startswith("grid ")]
  reference = wide[grid].mean().idxmax()
  rules = wide[list(range_rules.RULES)]
  return rules.rsub(wide[reference], axis=0)


def _median_text(points: np.ndarray) -> str:
  """With its interval, of which fewer than six seeds have none."""
  if len(points) < 6:
    return f"median {np.median(points):.2g} point"
  median = stats.median_interval(points)
  low, high = median.low, median.high
  return f"median {median.estimate:.2g} point ({low:.2g} to {high:.2g})"


def _l3(table: pd.DataFrame, values: study.Values) -> list[verdicts.Question]:
  by_size = {size: regrets(table, size) for size in values.batch_sizes}
  asked = []
  for rule in range_rules.RULES:
    pooled = np.mean([r[rule].to_numpy() for r in by_size.values()], axis=0)
    refused = table[table["arm"] == rule]["refused"]
    note = f"{_median_text(ACCURACY.scale * pooled)}, "
    note += f"refused {int(refused.sum())} of {len(refused)}"
    asked.append((f"rule {rule}", f"rule {rule}", pooled, note))
  rule = range_rules.DEFAULT_RULE
  for size, found in by_size.items():
    what = f"default rule at batch {size}"
    asked.append((f"rule {rule}, batch {size}", what, found[rule], ""))
  return [
    verdicts.Question(
      "L3",
      name,
      f"regret of the {what} is below {ACCURACY.scale * MARGIN:g} point",
      stats.mean_interval(np.asarray(regret), seed=0),
      "less",
      target=MARGIN,
      note=note,
    )
    for name, what, regret, note in asked
  ]


def _l1(table: pd.DataFrame) -> list[verdicts.Question]:
  curves = tables.curves(table, "learning_rate", "dev_loss", point="step")
  rates, ends = curves.arms, curves.values[:, :, -1]
  late = np.log(curves.values[:, :, -L1_EVALUATIONS:].std(axis=2))
  best = int(ends.mean(axis=1).argmin())
  # Half a decade apart: two steps are a factor of 10.
  near = np.clip(best + np.array([-2, 1, 2]), 0, len(rates) - 1)
  small, beyond, large = near.tolist()
  asked = [
    (
      name,
      f"rate {rates[at]:g} has a higher loss than {rates[best]:g}",
      ends[at] - ends[best],
    )
    for name, at in (("too small", small), ("too large", large))
  ] + [
    (
      "worse than guessing",
      f"rate {rates[-1]:g} ends above ln 10",
      ends[-1] - tables.GUESSING,
    ),
    (
      "fluctuates",
      f"the loss varies more at rate {rates[beyond]:g} than at "
      f"{rates[best]:g} (log of the ratio of sds)",
      late[beyond] - late[best],
    ),
  ]
  return [
    verdicts.Question("L1", name, text, stats.mean_interval(values, seed=0))
    for name, text, values in asked
  ]


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  return verdicts.judge(_l3(measured["table"], values) + _l1(measured["rates"]))


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By batch size and rule: rates, refusals, regret in points."""
  rows = []
  for size in values.batch_sizes:
    own = measured["table"].query("batch_size == @size")
    found = regrets(measured["table"], size)
    for rule in range_rules.RULES:
      arm = own[own["arm"] == rule]
      regret = ACCURACY.scale * found[rule].to_numpy()
      mean = stats.mean_interval(regret, seed=0)
      rows.append(
        {
          "batch_size": size,
          "rule": rule,
          "grid_best": own["grid_best"].iloc[0],
          "rate_median": arm["learning_rate"].median(),
          "rate_low": arm["learning_rate"].min(),
          "rate_high": arm["learning_rate"].max(),
          "refused": int(arm["refused"].sum()),
          "seeds": len(arm),
          "regret_median": float(np.median(regret)),
          "regret_mean": mean.estimate,
          "regret_mean_low": mean.low,
          "regret_mean_high": mean.high,
        }
      )
  return pd.DataFrame(rows)


def _draw_regret(measured: dict[str, Any], values: Any) -> plotting.Figure:
  figure, axes = plotting.panels(1, 2, (12, 4.8))
  rates, regret = axes[0]
  table = summarise(measured, values)
  shown = (
    (rates, ["rate_median", "rate_low", "rate_high"]),
    (regret, ["regret_mean", "regret_mean_low", "regret_mean_high"]),
  )
  for i, rule in enumerate(range_rules.RULES):
    own = table[table["rule"] == rule]
    x = own["batch_size"].to_numpy() * 1.06 ** (i - 2)
    look = plotting.series(i) | {"capsize": 2, "label": rule}
    for ax, columns in shown:
      plotting.error_bars(ax, x, *own[columns].to_numpy().T, **look)
  best = table.drop_duplicates("batch_size")
  rates.plot(
    best["batch_size"],
    best["grid_best"],
    "k*",
    markersize=11,
    label="best of the grid",
  )
  plotting.log_axis(rates, "y")
  rates.set_ylabel("suggested rate (median, least to largest seed)")
  margin = ACCURACY.scale * MARGIN
  regret.axhline(margin, color="black", linestyle=":", label="0.15 point")
  regret.axhline(0, color="black", linewidth=1)
  regret.set_yscale("symlog", linthresh=0.2)
  regret.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
  regret.set_ylabel("regret (points of dev accuracy, mean, 95 %)")
  for ax in (rates, regret):
    plotting.log_axis(ax, "x", values.batch_sizes)
    ax.set_xlabel("batch size")
    ax.legend(fontsize=8)
  figure.suptitle(
    f"Range-test rules against real grids, {values.seeds} seeds, "
    f"{values.epochs} epoch{'s' if values.epochs > 1 else ''}"
  )
  return figure


def _draw_rates(measured: dict[str, Any]) -> plotting.Figure:
  figure, axes = plotting.panels(1, 2, (11, 4.4))
  runs = measured["rates"]
  curves = tables.curves(runs, "learning_rate", "dev_loss", point="step")
  ends = curves.values[:, :, -1]
  broken = runs.groupby(["learning_rate", "seed"])
  stopped = broken["diverged_step"].max().notna().unstack().to_numpy()
  start = curves.values[:, :, 0]
  lost = (
    ((ends > tables.GUESSING) & (ends > start)) | ~np.isfinite(ends) | stopped
  )
  rates = np.array(curves.arms, np.float64)
  loss, share = axes[0]
  plotting.bands(loss, rates, ends.T, "after one epoch")
  loss.axhline(tables.GUESSING, color="black", linestyle=":", label="guessing")
  plotting.log_axis(loss, "y")
  figures.metric_axis(loss, "dev_loss")
  share.plot(rates, 100 * lost.mean(axis=1), **plotting.series(1))
  share.set_ylabel("diverged (% of seeds):\nloss above ln 10 and its start")
  for ax in (loss, share):
    plotting.log_axis(ax, "x")
    ax.set_xlabel("learning rate")
  loss.legend()
  figure.suptitle(
    f"Loss against rate at batch {L1_BATCH}, one epoch, {ends.shape[1]} seeds"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "regret": _draw_regret(measured, values),
    "rates": _draw_rates(measured),
  }


STUDY = study.Study("lr_range_audit", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
