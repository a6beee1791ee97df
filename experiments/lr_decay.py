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

from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, LOSS, spread
from mnist_jax import plotting, sweep
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

ARMS = ("decayed", "best fixed", "large alone", "small alone")
CHOICE = ["learning_rate", "gamma", "boundaries"]

OPTIONS = (
  study.Option("epochs", 4, 30, "epochs of each run"),
  study.Option("seeds", 3, 40, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 1, 5, "seeds of each tuned setting"),
  study.Option(
    "rates", (0.2, 0.5, 0.8), (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8), "fixed rates"
  ),
  study.Option("first_rates", (0.8,), (0.5, 0.8, 1.2, 1.8), "before the drop"),
  study.Option("factors", (0.2,), (0.1, 0.3), "of the rate at the drop"),
  study.Option("drops", (0.5,), (0.4, 0.7), "share of the run before the drop"),
)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  families = {
    "fixed": sweep.product(learning_rate=values.rates),
    "decayed": sweep.product(
      schedule="multistep",
      schedule_unit="epochs",
      learning_rate=values.first_rates,
      gamma=values.factors,
      boundaries=[(round(s * values.epochs, 3),) for s in values.drops],
    ),
  }
  tuned = lab.tune(
    families, values.tuning_seeds, sweep.Budget(epochs=values.epochs)
  )
  fixed, decayed = tuned.best["fixed"], tuned.best["decayed"]
  large, factor = decayed.learning_rate, decayed.gamma
  assert factor is not None
  arms = {
    "decayed": decayed,
    "best fixed": fixed,
    "large alone": sweep.Settings(learning_rate=large),
    "small alone": sweep.Settings(learning_rate=large * factor),
  }
  seeds = range(values.seeds)
  table = lab.sweep(
    {arm: sweep.product(base, seed=seeds) for arm, base in arms.items()},
    sweep.Budget(epochs=values.epochs, evaluate_every=1),
  )
  choice = {
    "fixed": fixed.learning_rate,
    "learning_rate": large,
    "gamma": factor,
    "boundaries": decayed.boundaries,
  }
  return {
    "table": table,
    "tuning": tuned.table.drop(columns="arm"),
    "choice": choice,
  }


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  choice, questions = measured["choice"], []
  large, factor = choice["learning_rate"], choice["gamma"]
  note = (
    f"rate {large:g}, from epoch {choice['boundaries'][0]:g} on "
    f"{large * factor:g}; best fixed {choice['fixed']:g}"
  )
  for metric in BOTH:
    curves = sweep.curves(measured["table"], "arm", metric.column)
    decayed, *others = curves.values[:, :, -1]
    questions += [
      metric.question(
        "L5",
        f"against {arm}",
        f"large then small does better than the {arm}",
        metric.gain(decayed, other),
        note=note,
      )
      for arm, other in zip(ARMS[1:], others, strict=True)
    ]
  return verdicts.judge(questions)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds of each arm at the last epoch, and of the tuning."""
  ends = tables.last_rows(measured["tuning"]).assign(arm="tuning")
  table = measured["table"]
  last = table[table["step"] == table["step"].max()]
  both = pd.concat([last, ends], ignore_index=True)
  both["gamma"] = both["gamma"].astype(float)
  return spread(both, ["arm", *CHOICE])


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  choice = measured["choice"]
  large = choice["learning_rate"]
  names = {
    "decayed": f"{large:g}, then {large * choice['gamma']:g}",
    "best fixed": f"best fixed, {choice['fixed']:g}",
    "large alone": f"large alone, {large:g}",
    "small alone": f"small alone, {large * choice['gamma']:g}",
  }
  for (above, below), metric in zip(axes.T, (LOSS, ACCURACY), strict=True):
    curves = sweep.curves(measured["table"], "arm", metric.column)
    figures.draw_curves(
      above, curves, metric.column, lambda arm: names[str(arm)], since=1
    )
    if not metric.is_accuracy:
      plotting.log_axis(above, "y")
    less = metric.scale * (curves.arm("decayed")[None] - curves.values)
    for k, arm in enumerate(ARMS[1:]):
      # Set apart a little, so that the intervals do not hide each other.
      figures.draw_differences(
        below,
        curves.points[1:] + 0.2 * (k - 1),
        less[k + 1, :, 1:],
        f"less {names[arm]}",
        index=k,
        margin=metric.scale * metric.margin if k == 0 else None,
      )
    below.set_xlabel("epoch")
    below.set_ylabel(f"decayed less the others ({metric.unit})")
    shown = np.abs(less[:, :, -1].mean(1)).max()
    below.set_ylim(-4 * shown, 4 * shown)
    below.legend(fontsize=8)
  figure.suptitle(
    f"Large rate, then small, at batch 128; {values.seeds} seeds, mean and "
    "95 % band"
  )
  return {"decay": figure}


STUDY = study.Study("lr_decay", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
