"""L3, L1: is the range test's advice any good?

  python -m experiments.lr_range_audit --preset=full

L3 (12.4), 能够发现最好的学习率: raise the rate after each batch, plot the loss,
and one sees the best rate. At each batch size (--batch_sizes, short batches
left out) each fresh seed (from 100) makes a range test of its own, rules read a
rate off it (docs/range_test.md), and the seed is trained at that rate for 30
epochs. A rule that refuses counts as the book's 0.2. The rules were tuned on
other seeds (0 to 9). The reference is the best rate of a grid by factors of 2,
which goes on where an end of it is likely, tuned on seeds from 1000 by the mean
development accuracy after 30 epochs; the fresh seeds run all rates that other
tuning seeds might have chosen.
Regret: development accuracy at the reference less that at the suggestion,
paired; a run that diverged counts with its last finite weights.
Primary, "any": the median over seeds of the mean regret over batch sizes is
below 0.15 point, of the turn of the curve (the chapter's reading: the rate of
the least loss, rule "descending"), or of the rule "noise". Secondary: the same
at each batch size; and fewer than a fifth of the seeds lose a run (its loss not
below ln 10 at the end). Diagnostic: the three other rules, on --few seeds.
L1 (12.4), 太小的学习率会导致网络收敛过于缓慢，而学习率太大 … 波动，甚至 … 发散:
at batch 128 after one epoch. The best rate is found on the tuning seeds, on a
grid of half decades up to 100. Primary, "all": the development loss is higher
at a tenth of it, and at ten times it; at 3.2 times it the loss varies more over
the last 200 updates (sd, on a log scale, no margin); at the largest it ends
above ln 10. Margin: 0.005 nats.
Test: medians where a seed is beyond 5 median absolute deviations (of the regret
always), else means; the bootstrap resamples tuning and fresh seeds where rates
were tuned; Student's t or the sign test, exact binomials. Holm over the two
primary parts of L3 and over its secondary ones.
Cost on two cores: full (30 seeds, 5 to tune with, 30 epochs, three batch sizes)
an estimated 25 minutes.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study, tuning
from experiments._shared.metric import ACCURACY, LOSS, interval_columns
from mnist_jax import plotting, range_test, stats, sweep
from mnist_jax.range_test import rules as range_rules
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

MARGIN = 0.0015  # accuracy
MOST_LOST = 0.2  # of the seeds
REFUSED = 0.2  # the book's rate
FIRST_SEED = 100
JUDGED = {"descending": "the turn of the curve", "noise": "the rule noise"}
L1_BATCH = 128
L1_EVALUATIONS = 20  # at the end of the epoch, ten updates apart

OPTIONS = (
  study.Option("batch_sizes", (128, 512), (32, 128, 512), "audited"),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("few", 2, 8, "fresh seeds of the other rules"),
  study.Option("tuning_seeds", 1, 5, "seeds of the grid"),
  study.Option("epochs", 1, 30, "epochs of each run"),
  study.Option(
    "rates", (0.5, 1.0, 2.0), (0.2, 0.4, 0.8, 1.6), "the grid begins with"
  ),
  study.Option("decades", 3, 6, "of rates of L1, up to 100"),
)


def _seeds(values: study.Values) -> range:
  return range(FIRST_SEED, FIRST_SEED + values.seeds)


def _settings(batch_size: int) -> sweep.Settings:
  return sweep.Settings(batch_size=batch_size, drop_last=True)


def _suggestions(
  lab: study.Lab, batch_size: int, values: study.Values
) -> pd.DataFrame:
  """Rates to two digits, [seed x rule], NaN where a rule refuses."""
  settings, seeds = _settings(batch_size), _seeds(values)
  recording = range_test.network(
    settings.train_config(), settings.hparams(), lab.dataset, seeds
  )
  found = range_rules.judge(recording)
  rates = {rule: found.suggestion(rule).per_seed for rule in range_rules.RULES}
  table = pd.DataFrame(rates, seeds, dtype=float)
  return table.map(lambda rate: float(f"{rate:.2g}"))


def _runs_of_rules(
  lab: study.Lab, budget: sweep.Budget, values: study.Values
) -> pd.DataFrame:
  """The last rows of the runs at the suggested rates; `arm` is the rule."""
  arms: dict[str, list[sweep.Settings]] = {}
  refused: dict[tuple[str, int, int], bool] = {}
  for size in values.batch_sizes:
    suggested = _suggestions(lab, size, values)
    for rule, rates in suggested.items():
      some = rates if rule in JUDGED else rates[: values.few]
      arms[f"{rule} {size}"] = [
        dataclasses.replace(_settings(size), learning_rate=rate, seed=seed)
        for seed, rate in some.fillna(REFUSED).items()
      ]
      refused |= {(rule, size, s): bool(np.isnan(r)) for s, r in some.items()}
  table = lab.sweep(arms, budget)
  ends = table[table["epoch"] > 0]
  ends = ends.assign(arm=ends["arm"].str.rpartition(" ")[0])
  keys = zip(ends["arm"], ends["batch_size"], ends["seed"], strict=True)
  return ends.assign(refused=[refused[key] for key in keys])


def _l1_runs(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """Of one epoch at batch 128, from rates too small up to 100."""
  count = 2 * values.decades + 1
  rates = [float(f"{r:.2g}") for r in 100 / 10 ** (np.arange(count) / 2)]
  settings = _settings(L1_BATCH)
  updates = settings.updates_per_epoch(len(lab.dataset.train.labels))
  points = tuple(range(updates, 0, -10)[:L1_EVALUATIONS])
  budget = sweep.Budget(
    updates=updates, evaluate_at=points, final_splits=("test",)
  )
  seeds = [*_seeds(values), *study.tuning_seeds(values.tuning_seeds)]
  cells = sweep.product(settings, learning_rate=rates[::-1], seed=seeds)
  return lab.sweep(cells, budget)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  budget = sweep.Budget(epochs=values.epochs, final_splits=("test",))
  families = {str(size): _settings(size) for size in values.batch_sizes}
  tuned = tuning.tune_rates(
    lab.sweep,
    families,
    dict.fromkeys(families, values.rates),
    study.tuning_seeds(values.tuning_seeds),
    sweep.Budget(epochs=values.epochs),
    ACCURACY.column,
  )
  return {
    "table": _runs_of_rules(lab, budget, values),
    "reference": lab.sweep_likely(tuned, _seeds(values), budget),
    "tuned": tuned,
    "grid": tuned.table.drop(columns="arm"),
    "rates": _l1_runs(lab, values),
  }


def _rule_arm(
  table: pd.DataFrame, rule: str, size: int, column: str
) -> stats.TunedArm:
  own = table[(table["arm"] == rule) & (table["batch_size"] == size)]
  outcomes = own.sort_values("seed")[[column]].to_numpy(float)
  return stats.TunedArm(np.zeros((1, 1)), outcomes)


def regret(
  measured: study.Tables,
  rule: str,
  sizes: tuple[int, ...],
  column: str = ACCURACY.column,
) -> stats.Effect:
  """The median over seeds of the mean over batch sizes, in accuracy."""
  ours = [_rule_arm(measured["table"], rule, size, column) for size in sizes]
  n = len(ours[0].outcomes)
  references = []
  for size in sizes:
    arm = tuning.arm(
      measured["tuned"], measured["reference"], str(size), column
    )
    references.append(arm._replace(outcomes=arm.outcomes[:n]))
  share = 1.0 / len(sizes)
  weights = [share] * len(sizes) + [-share] * len(sizes)
  return stats.tuned_contrast(references + ours, weights, seed=0, median=True)


def _is_lost(measured: study.Tables, rule: str) -> Float[np.ndarray, "S B"]:
  """1 where a seed's run at a batch size is lost, else 0."""
  own = measured["table"].query("arm == @rule")
  own = own.assign(lost=tables.lost(own).astype(float))
  wide = own.pivot(index="seed", columns="batch_size", values="lost")
  return wide.sort_index().to_numpy(float)


def _question(
  measured: study.Tables,
  name: str,
  what: str,
  rule: str,
  sizes: tuple[int, ...],
  **more: Any,
) -> verdicts.Question:
  return verdicts.Question(
    name,
    f"regret of {what} is below {ACCURACY.scale * MARGIN:g} point",
    regret(measured, rule, sizes),
    "less",
    target=MARGIN,
    test_effect=regret(measured, rule, sizes, ACCURACY.on_test),
    **more,
  )


def _l3_sentence(
  judged: stats.Judged, measured: study.Tables, values: study.Values
) -> str:
  texts = []
  for rule, what in JUDGED.items():
    lost = _is_lost(measured, rule)
    cost = stats.amount(judged.found(f"rule {rule}"), "point", scale=100.0)
    texts.append(
      f"by {what} costs {cost} of accuracy ({int(lost.sum())} of {lost.size} "
      "runs lost)"
    )
  sizes = ", ".join(map(str, values.batch_sizes))
  return (
    f"Against the best rate of a grid that other seeds tuned, the rate read "
    f"{', that '.join(texts)}: medians over seeds of the mean development "
    f"accuracy over batches {sizes}, {values.epochs} epochs, n = {judged.n}."
  )


def _l3(measured: study.Tables, values: study.Values) -> stats.Judged:
  sweep.require_whole_batches(measured["table"])
  table, sizes = measured["table"], tuple(values.batch_sizes)
  parts = []
  for rule in range_rules.RULES:
    refused = table.loc[table["arm"] == rule, "refused"]
    lost = _is_lost(measured, rule)
    note = f"refused {int(refused.sum())} of {len(refused)}, "
    note += f"lost {int(lost.sum())} of {lost.size}"
    role: verdicts.Role = "primary" if rule in JUDGED else "diagnostic"
    what = JUDGED.get(rule, f"the rule {rule}")
    name = f"rule {rule}"
    parts.append(
      _question(measured, name, what, rule, sizes, role=role, note=note)
    )
  for rule, what in JUDGED.items():
    for size in sizes:
      where = f"{what} at batch {size}"
      name = f"rule {rule}, batch {size}"
      more = {"role": "secondary", "restriction": f"of {where}"}
      parts.append(_question(measured, name, where, rule, (size,), **more))
    losers = int((_is_lost(measured, rule) > 0).any(axis=1).sum())
    parts.append(
      verdicts.Question(
        f"rule {rule}: lost runs",
        f"fewer than {100 * MOST_LOST:g} % of the seeds lose a run at a rate "
        f"by {what}",
        stats.proportion(losers, values.seeds),
        "less",
        target=MOST_LOST,
        role="secondary",
      )
    )
  sentence = functools.partial(_l3_sentence, measured=measured, values=values)
  return stats.judge(stats.Claim("L3", parts, sentence, logic="any"))


def _near(rates: tuple[float, ...], best: int) -> tuple[int, int, int]:
  """A tenth of the best, 3.2 times it, and ten times: half decades apart."""
  small, beyond, large = np.clip(
    best + np.array([-2, 1, 2]), 0, len(rates) - 1
  ).tolist()
  return small, beyond, large


def _l1_sentence(
  judged: stats.Judged, rates: tuple[float, ...], best: int, lost: int
) -> str:
  small, beyond, large = _near(rates, best)
  more = {
    name: LOSS.amount(judged.found(f"{name}, loss"))
    for name in ("too small", "too large")
  }
  varies = stats.factor(judged.found("fluctuates"))
  return (
    f"At batch {L1_BATCH} after one epoch, where rate {rates[best]:g} is best, "
    f"the development loss is higher by {more['too small']} at "
    f"{rates[small]:g} and by {more['too large']} at {rates[large]:g}, at "
    f"{rates[beyond]:g} it varies {varies} as much, and {lost} of {judged.n} "
    f"runs at {rates[-1]:g} end above ln 10."
  )


def _l1(table: pd.DataFrame) -> stats.Judged:
  tuned = table["seed"] >= study.TUNING_SEED
  best = stats.chosen(
    tables.curves(table[tuned], "learning_rate", "dev_loss", point="step")
    .values[:, :, -1]
    .T
  )
  fresh = table[~tuned]
  curves = tables.curves(fresh, "learning_rate", "dev_loss", point="step")
  rates, ends = curves.arms, curves.values[:, :, -1]
  last = fresh[fresh["step"] == fresh["step"].max()]
  on_test = tables.curves(last, "learning_rate", "test_loss").values[:, :, 0]
  late = np.log(curves.values[:, :, -L1_EVALUATIONS:].std(axis=2))
  small, beyond, large = _near(rates, best)
  parts = [
    LOSS.question(
      name,
      f"rate {rates[at]:g} has a higher loss than {rates[best]:g}",
      ends[at] - ends[best],
      on_test=on_test[at] - on_test[best],
    )
    for name, at in (("too small", small), ("too large", large))
  ]
  parts += [
    verdicts.Question(
      "fluctuates",
      f"the loss varies more at rate {rates[beyond]:g} than at "
      f"{rates[best]:g} (log of the ratio of sds)",
      stats.typical_interval(late[beyond] - late[best], seed=0),
    ),
    LOSS.question(
      "worse than guessing",
      f"rate {rates[-1]:g} ends above ln 10",
      ends[-1] - tables.GUESSING,
      on_test=on_test[-1] - tables.GUESSING,
    ),
  ]
  sentence = functools.partial(
    _l1_sentence,
    rates=rates,
    best=best,
    lost=int((ends[-1] > tables.GUESSING).sum()),
  )
  return stats.judge(stats.Claim("L1", parts, sentence))


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  return [_l1(measured["rates"]), _l3(measured, values)]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By batch size and rule: rates, refusals, lost runs, regret in points."""
  rows = []
  best = measured["tuned"].best
  for i, size in enumerate(values.batch_sizes):
    for rule in range_rules.RULES:
      table = measured["table"]
      arm = table[(table["arm"] == rule) & (table["batch_size"] == size)]
      lost = _is_lost(measured, rule)[:, i]
      found = {
        f"regret_median{end}": regret(measured, rule, (size,), column)
        for end, column in (("", ACCURACY.column), ("_test", ACCURACY.on_test))
      }
      row = {
        "batch_size": size,
        "rule": rule,
        "grid_best": best[str(size)].learning_rate,
        "rate_median": arm["learning_rate"].median(),
        "rate_low": arm["learning_rate"].min(),
        "rate_high": arm["learning_rate"].max(),
        "refused": int(arm["refused"].sum()),
        "lost": int(lost.sum()),
        "seeds": len(arm),
      }
      for name, effect in found.items():
        row |= interval_columns(name, effect, ACCURACY.scale)
      rows.append(row)
  return pd.DataFrame(rows)


def _draw_regret(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(1, 3, (16, 4.8))
  rates, cost, lost = axes[0]
  table = summarise(measured, values)
  for i, rule in enumerate(range_rules.RULES):
    own = table[table["rule"] == rule]
    x = own["batch_size"].to_numpy() * 1.08 ** (i - 2)
    n = int(own["seeds"].iloc[0])
    look = plotting.series(i) | {"capsize": 2}
    shares = [
      stats.wilson_interval(k, n) for k in own["lost"].astype(int).tolist()
    ]
    shown = (
      (rates, own[["rate_median", "rate_low", "rate_high"]].to_numpy().T),
      (
        cost,
        own[["regret_median", "regret_median_low", "regret_median_high"]]
        .to_numpy()
        .T,
      ),
      (
        lost,
        100 * np.array([(s.estimate, s.low, s.high) for s in shares]).T,
      ),
    )
    for ax, ends in shown:
      name = f"{rule} (n = {n})" if ax is rates else None
      plotting.error_bars(ax, x, *ends, **look, label=name)
  best = table.drop_duplicates("batch_size")
  rates.plot(
    best["batch_size"],
    best["grid_best"],
    "k*",
    markersize=11,
    label="best of the grid",
  )
  plotting.log_axis(rates, "y")
  rates.set_ylabel("suggested rate (median, all seeds)")
  margin = ACCURACY.scale * MARGIN
  cost.axhline(margin, color="black", linestyle=":", label="0.15 point")
  cost.axhline(0, color="black", linewidth=1)
  cost.set_yscale("symlog", linthresh=0.2)
  cost.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
  cost.set_ylabel("regret (points of dev accuracy)")
  lost.set_ylabel("lost runs (%, Wilson 95 %)")
  for ax, title in (
    (rates, "what the rules suggest"),
    (cost, "what following them costs, median, 95 %"),
    (lost, "how often it loses the run"),
  ):
    plotting.log_axis(ax, "x", values.batch_sizes)
    ax.set_xlabel("batch size")
    ax.set_title(title)
  rates.legend(fontsize=8)
  cost.legend(fontsize=8)
  figure.suptitle(
    f"Range-test rules against grids tuned on other seeds, epochs: "
    f"{values.epochs}"
  )
  return figure


def _draw_rates(measured: dict[str, Any]) -> plotting.Figure:
  figure, axes = plotting.panels(1, 2, (11, 4.4))
  runs = measured["rates"].query("seed < @study.TUNING_SEED")
  curves = tables.curves(runs, "learning_rate", "dev_loss", point="step")
  ends = curves.values[:, :, -1]
  last = runs[runs["step"] == runs["step"].max()]
  lost = last.assign(lost=tables.lost(last).astype(float)).pivot(
    index="learning_rate", columns="seed", values="lost"
  )
  rates = np.array(curves.arms, np.float64)
  loss, share = axes[0]
  plotting.bands(loss, rates, ends.T, "after one epoch")
  loss.axhline(tables.GUESSING, color="black", linestyle=":", label="guessing")
  plotting.log_axis(loss, "y")
  figures.metric_axis(loss, "dev_loss")
  shares = [
    stats.wilson_interval(int(k), lost.shape[1]) for k in lost.sum(axis=1)
  ]
  share_ends = 100 * np.array([(s.estimate, s.low, s.high) for s in shares]).T
  plotting.error_bars(share, rates, *share_ends, **plotting.series(1))
  share.set_ylabel("lost (% of seeds, Wilson 95 %)")
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
