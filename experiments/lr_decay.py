"""L5: a large rate first and a smaller one later, better than either alone?

  python -m experiments.lr_decay --preset=full

Claim (12.4), 初期可以把学习率设置大一些……到一定阶段后，换用小一些的学习率继续
训练: start with a large rate, so that loss falls fast, and go on with a smaller
one from some point; that beats keeping one rate.
Metric: loss on the development set after 30 epochs; accuracy; the test set's
beside.
Grid: fixed rates; and decays, of first rate x factor x time of the drop. Each
family is tuned by itself and by each metric, on seeds of its own (from 1000);
what at least 2 % of the resampled tunings choose runs on fresh seeds (from 0),
paired.
Primary: the tuned decay ends with a lower loss than the tuned fixed rate; the
interval resamples the tuning seeds, chooses anew, and the judged seeds.
Secondary: the same in accuracy; and the decay that is best by loss against its
large rate alone and its small rate alone, in loss and in accuracy.
Margin: 0.005 nats, 0.1 point of accuracy. Test: Student's t on the bootstrap's
standard error for tuned arms, else over seeds; Holm over the secondary parts;
95 % intervals. A run that diverged counts by its last finite weights.
Cost on two cores: full (30 seeds and 5 to tune with, 30 epochs) an
estimated 10 minutes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, LOSS, Metric, spread
from mnist_jax import plotting, stats, sweep
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

ARMS = ("decayed", "best fixed", "large alone", "small alone")
FAMILIES = ("decayed", "fixed")

OPTIONS = (
  study.Option("epochs", 4, 30, "epochs of each run"),
  study.Option("seeds", 3, 30, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 2, 5, "seeds of each tuned setting"),
  study.Option(
    "rates", (0.2, 0.5, 0.8), (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8), "fixed rates"
  ),
  study.Option("first_rates", (0.8,), (0.5, 0.8, 1.2, 1.8), "before the drop"),
  study.Option("factors", (0.2,), (0.1, 0.3), "of the rate at the drop"),
  study.Option("drops", (0.5,), (0.4, 0.7), "share of the run before the drop"),
)


def families(values: study.Values) -> dict[str, list[sweep.Settings]]:
  """The candidates of both."""
  return {
    "fixed": sweep.product(learning_rate=values.rates),
    "decayed": sweep.product(
      schedule="multistep",
      schedule_unit="epochs",
      learning_rate=values.first_rates,
      gamma=values.factors,
      boundaries=[(round(s * values.epochs, 3),) for s in values.drops],
    ),
  }


def _runs(
  cells: Sequence[sweep.Settings], seeds: range
) -> dict[str, list[sweep.Settings]]:
  """The cells of each arm, by its formula."""
  return {cell.describe(): sweep.product(cell, seed=seeds) for cell in cells}


def _scores(tuning: pd.DataFrame, arms: Sequence[str], metric: Metric) -> Any:
  return -metric.sign * tables.ends(tuning, "arm", arms, metric.column)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  candidates = families(values)
  every = [cell for some in candidates.values() for cell in some]
  budget = sweep.Budget(epochs=values.epochs)
  seeds = study.tuning_seeds(values.tuning_seeds)
  tuning = lab.sweep(_runs(every, seeds), budget)

  judged: dict[str, sweep.Settings] = {}
  best: dict[str, sweep.Settings] = {}
  for family, cells in candidates.items():
    arms = [cell.describe() for cell in cells]
    for metric in (ACCURACY, LOSS):  # the last one's best are drawn
      scores = _scores(tuning, arms, metric)
      best[family] = cells[stats.chosen(scores)]
      found = stats.likely_choices(scores, seed=0)
      judged |= {arms[k]: cells[k] for k in found}
  decayed = best["decayed"]
  assert decayed.gamma is not None
  large = sweep.Settings(learning_rate=decayed.learning_rate)
  small = sweep.Settings(
    learning_rate=round(decayed.learning_rate * decayed.gamma, 6)
  )
  chosen = (decayed, best["fixed"], large, small)
  judged |= {cell.describe(): cell for cell in chosen}
  budget = sweep.Budget(
    epochs=values.epochs, evaluate_every=1, final_splits=("test",)
  )
  return {
    "table": lab.sweep(
      _runs(list(judged.values()), range(values.seeds)), budget
    ),
    "tuning": tuning,
    "choice": {
      arm: cell.describe() for arm, cell in zip(ARMS, chosen, strict=True)
    },
  }


def _tuned(
  measured: study.Tables, values: study.Values, metric: Metric
) -> verdicts.Question:
  """The decay against the best fixed rate, each tuned by the metric."""
  candidates = families(values)

  def effect(column: str) -> stats.Effect:
    arms = []
    for family in FAMILIES:
      names = [cell.describe() for cell in candidates[family]]
      scores = _scores(measured["tuning"], names, metric)
      outcomes = tables.ends(measured["table"], "arm", names, column)
      arms.append(stats.TunedArm(scores, outcomes))
    weights = (float(metric.sign), -float(metric.sign))
    return stats.tuned_contrast(arms, weights, seed=0)

  def best(family: str) -> str:
    names = [cell.describe() for cell in candidates[family]]
    return names[stats.chosen(_scores(measured["tuning"], names, metric))]

  return verdicts.Question(
    f"against best fixed, {metric.name}",
    "large then small does better than the best fixed rate",
    effect(metric.column),
    margin=metric.margin,
    role="secondary" if metric.is_accuracy else "primary",
    test_effect=effect(metric.on_test),
    note=" against ".join(map(best, FAMILIES)),
  )


def _alone(measured: study.Tables, metric: Metric) -> list[verdicts.Question]:
  choice = measured["choice"]

  def gain(arm: str, column: str) -> Any:
    names = [choice["decayed"], choice[arm]]
    decayed, other = tables.ends(measured["table"], "arm", names, column).T
    return metric.gain(decayed, other)

  return [
    metric.question(
      f"against {arm}",
      f"large then small does better than the {arm}",
      gain(arm, metric.column),
      on_test=gain(arm, metric.on_test),
      role="secondary",
      note=f"{choice['decayed']} against {choice[arm]}",
    )
    for arm in ARMS[2:]
  ]


def _sentence(judged: verdicts.Judged, values: study.Values) -> str:
  def side(metric: Metric) -> str:
    part = judged[f"against best fixed, {metric.name}"]
    assert part.effect is not None
    assert part.test_effect is not None
    side = "above" if metric.is_accuracy else "below"
    return (
      f"development {metric.name} {metric.amount(part.effect)} {side} "
      f"({metric.amount(part.test_effect)} on the test set)"
    )

  return (
    f"After {values.epochs} epochs at batch 128 a large rate that is dropped "
    f"once ends with a {side(LOSS)} and a {side(ACCURACY)} those of the best "
    f"fixed rate, both tuned; n = {judged.n}."
  )


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  parts = [_tuned(measured, values, metric) for metric in (LOSS, ACCURACY)]
  for metric in (LOSS, ACCURACY):
    parts += _alone(measured, metric)
  claim = stats.Claim("L5", parts, lambda judged: _sentence(judged, values))
  return [stats.judge(claim)]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds of each arm at the last epoch, and of the tuning."""
  parts = [
    tables.last_rows(measured[name]).assign(seeds=seeds)
    for name, seeds in (("table", "judged"), ("tuning", "tuning"))
  ]
  return spread(pd.concat(parts, ignore_index=True), ["seeds", "arm"])


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  choice = measured["choice"]
  names = {arm: f"{arm} ({choice[arm]})" for arm in ARMS}
  for (above, below), metric in zip(axes.T, (LOSS, ACCURACY), strict=True):
    every = sweep.curves(measured["table"], "arm", metric.column)
    curves = every._replace(
      arms=ARMS, values=np.stack([every.arm(choice[arm]) for arm in ARMS])
    )
    figures.draw_curves(
      above, curves, metric.column, lambda arm: names[str(arm)], since=1
    )
    if not metric.is_accuracy:
      plotting.log_axis(above, "y")
    above.legend(fontsize=7)
    less = metric.scale * (curves.arm("decayed")[None] - curves.values)
    for k, arm in enumerate(ARMS[1:]):
      # Set apart a little, so that the intervals do not hide each other.
      figures.draw_differences(
        below,
        curves.points[1:] + 0.2 * (k - 1),
        less[k + 1, :, 1:],
        f"less {arm}",
        index=k,
        margin=metric.scale * metric.margin if k == 0 else None,
      )
    below.set_xlabel("epoch")
    below.set_ylabel(f"decayed less the others ({metric.unit})")
    shown = np.abs(less[:, :, -1].mean(1)).max()
    below.set_ylim(-4 * shown, 4 * shown)
    below.legend(fontsize=8)
  figure.suptitle(
    f"Large rate, then small, tuned by loss, at batch 128; {values.seeds} "
    "seeds, mean and 95 % band"
  )
  return {"decay": figure}


STUDY = study.Study("lr_decay", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
