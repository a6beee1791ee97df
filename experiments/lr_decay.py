"""L5: a large rate first and a smaller one later, better than either alone?

  python -m experiments.lr_decay --preset=full

Claim (12.4): start with a large rate, so that loss falls fast, and go on with
a smaller one from some point; that beats keeping either rate.
Metric: accuracy and loss on the development set at the last epoch.
Tuning, on its own seeds (from 1000): the fixed rate, of --rates; and the
decay, of first rate x factor x time of the drop. The best mean development
accuracy is taken, in each family by itself.
Then, on fresh seeds (from 0), paired: the decay, the best fixed rate, the
decay's large rate alone, its small rate alone.
Parts, on accuracy and on loss: the decay against each of the other three.
Margin: 0.1 point of accuracy, 0.005 nats. Test: Student's t over seeds, Holm
over all parts, 95 % bootstrap intervals.
Cost on two cores: full (40 seeds and 5 to tune with, 30 epochs) about 10
minutes.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from mnist_jax import plotting, stats, sweep
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

MARGINS = {"dev_accuracy": 0.001, "dev_loss": 0.005}
ARMS = ("decayed", "best fixed", "large alone", "small alone")
TUNING_SEED = 1000
CHOICE = ["learning_rate", "gamma", "boundaries"]

SETTINGS = (
  study.Setting("epochs", 4, 30, "epochs of each run"),
  study.Setting("seeds", 3, 40, "fresh seeds of each arm"),
  study.Setting("tuning_seeds", 1, 5, "seeds of each tuned setting"),
  study.Setting(
    "rates", (0.2, 0.5, 0.8), (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8), "fixed rates"
  ),
  study.Setting("first_rates", (0.8,), (0.5, 0.8, 1.2, 1.8), "before the drop"),
  study.Setting("factors", (0.2,), (0.1, 0.3), "of the rate at the drop"),
  study.Setting(
    "drops", (0.5,), (0.4, 0.7), "share of the run before the drop"
  ),
)


def _decays(values: SimpleNamespace, seeds: range) -> list[sweep.Settings]:
  base = sweep.Settings(
    schedule="multistep",
    schedule_unit="epochs",
    boundaries=(1.0,),
  )
  return sweep.product(
    base,
    learning_rate=values.first_rates,
    gamma=values.factors,
    boundaries=[(round(d * values.epochs, 3),) for d in values.drops],
    seed=seeds,
  )


def _arms(choice: dict[str, Any], seeds: range) -> dict[str, Any]:
  """The cells of each arm."""
  large, factor = choice["learning_rate"], choice["gamma"]
  decayed = sweep.Settings(
    learning_rate=large,
    gamma=factor,
    boundaries=choice["boundaries"],
    schedule="multistep",
    schedule_unit="epochs",
  )
  rates = {
    "best fixed": choice["fixed"],
    "large alone": large,
    "small alone": large * factor,
  }
  arms = {"decayed": sweep.product(decayed, seed=seeds)}
  return arms | {
    name: sweep.product(learning_rate=rate, seed=seeds)
    for name, rate in rates.items()
  }


def measure(lab: study.Lab, values: SimpleNamespace) -> dict[str, Any]:
  tuning = range(TUNING_SEED, TUNING_SEED + values.tuning_seeds)
  at_end = sweep.Budget(epochs=values.epochs)
  fixed = lab.sweep(
    sweep.product(learning_rate=values.rates, seed=tuning), at_end
  )
  decays = lab.sweep(_decays(values, tuning), at_end)
  large, factor, boundary = tables.best_arm(decays, CHOICE, "dev_accuracy")
  choice = {
    "fixed": float(tables.best_arm(fixed, "learning_rate", "dev_accuracy")),
    "learning_rate": float(large),
    "gamma": float(factor),
    "boundaries": (float(boundary),),
  }
  arms = _arms(choice, range(values.seeds))
  # An arm may be another's rate: each cell is run once and serves both.
  cells = list(dict.fromkeys(cell for some in arms.values() for cell in some))
  budget = sweep.Budget(epochs=values.epochs, evaluate_every=1)
  table = lab.sweep(cells, budget)
  keyed = []
  for arm, some in arms.items():
    keys = [sweep.cell_key(cell, budget) for cell in some]
    keyed.append(table[table["cell"].isin(keys)].assign(arm=arm))
  return {
    "table": pd.concat(keyed, ignore_index=True),
    "tuning": pd.concat([fixed, decays], ignore_index=True),
    "choice": choice,
  }


def judge(
  measured: dict[str, Any], values: SimpleNamespace
) -> list[verdicts.Part]:
  questions = []
  for metric, margin in MARGINS.items():
    ends = tables.curves(measured["table"], "arm", metric).values[:, :, -1]
    sign = 1 if metric == "dev_accuracy" else -1
    for arm, other in zip(ARMS[1:], ends[1:], strict=True):
      questions.append(
        verdicts.Question(
          "L5",
          f"against {arm}, {metric.removeprefix('dev_')}",
          f"large then small does better than the {arm}",
          stats.mean_interval(sign * (ends[0] - other), seed=0),
          "greater",
          margin=margin,
          note=_choice_text(measured["choice"]),
        )
      )
  return verdicts.judge(questions)


def _choice_text(choice: dict[str, Any]) -> str:
  large, factor = choice["learning_rate"], choice["gamma"]
  return (
    f"rate {large:g}, from epoch {choice['boundaries'][0]:g} on "
    f"{large * factor:g}; best fixed {choice['fixed']:g}"
  )


def summarise(
  measured: dict[str, Any], values: SimpleNamespace
) -> pd.DataFrame:
  """Mean and sd over seeds of each arm at the last epoch, and of the tuning."""
  ends = tables.last_rows(measured["tuning"]).assign(arm="tuning")
  table = measured["table"]
  last = table[table["step"] == table["step"].max()]
  both = pd.concat([last, ends], ignore_index=True)
  both["gamma"] = both["gamma"].astype(float)
  grouped = both.groupby(["arm", *CHOICE], sort=False, dropna=False)
  result = grouped[list(MARGINS)].agg(["mean", "std", "count"])
  result.columns = ["_".join(names) for names in result.columns]
  return result.reset_index()


def draw(
  measured: dict[str, Any], values: SimpleNamespace
) -> dict[str, plotting.Figure]:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  choice = measured["choice"]
  large = choice["learning_rate"]
  names = {
    "decayed": f"{large:g}, then {large * choice['gamma']:g}",
    "best fixed": f"best fixed, {choice['fixed']:g}",
    "large alone": f"large alone, {large:g}",
    "small alone": f"small alone, {large * choice['gamma']:g}",
  }
  for i, metric in enumerate(("dev_loss", "dev_accuracy")):
    curves = tables.curves(measured["table"], "arm", metric)
    ax = axes[0, i]
    figures.draw_curves(
      ax, curves, metric, lambda arm: names[str(arm)], since=1
    )
    if metric == "dev_loss":
      plotting.log_axis(ax, "y")
    scale = 100 if metric == "dev_accuracy" else 1
    ax = axes[1, i]
    for k, arm in enumerate(ARMS[1:]):
      # Set apart a little, so that the intervals do not hide each other.
      figures.draw_differences(
        ax,
        curves.points[1:] + 0.2 * (k - 1),
        scale * (curves.arm("decayed") - curves.arm(arm))[:, 1:],
        f"less {names[arm]}",
        index=k,
        margin=scale * MARGINS[metric] if k == 0 else None,
      )
    ax.set_xlabel("epoch")
    unit = "points of accuracy" if scale > 1 else "nats"
    ax.set_ylabel(f"decayed less the others ({unit})")
    shown = np.abs(
      scale * (curves.arm("decayed")[None] - curves.values)[:, :, -1].mean(1)
    ).max()
    ax.set_ylim(-4 * shown, 4 * shown)
    with plotting.style():
      ax.legend(fontsize=8)
  with plotting.style():
    figure.suptitle(
      f"Large rate, then small, at batch 128; {values.seeds} seeds, mean and "
      "95 % band"
    )
  return {"decay": figure}


STUDY = study.Study("lr_decay", SETTINGS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
