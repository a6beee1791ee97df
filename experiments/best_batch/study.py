"""B6: is there a best batch at a fixed rate, growing with rate and data?

  python -m experiments.best_batch --preset=full

Claim (12.4): at a fixed rate some batch size has the best test accuracy; it
grows with the rate and with the number N of training examples. Smith & Le
(2018): it is where the noise scale g = eps (N / B - 1) has its best value, so
the best B is about proportional to eps N; with momentum m, to eps / (1 - m).
Metric: development accuracy at the end; test accuracy is only reported.
Budgets: --updates equal updates, as Smith & Le compare; and one epoch, at
batches from 8, where large ones make few updates and a peak is no surprise.
Grid: --batches x --rates at all examples, and (updates only) at the fewest;
the middle rate at each of --sizes, B <= N / 2; and (updates only, not judged)
the middle rate as momentum 0.9 at a tenth of it.
Tuning seeds (from 1000) choose the best batch that is not on the grid's edge;
fresh seeds (from 0) judge, paired. A diverged run counts with the accuracy of
its last finite weights. Parts, at each budget:
  peak   accuracy there is above that at the smallest and at the largest
         batch, each curve; margin 0.1 point. No peak: one does not hold
  rate   slope of log best batch on log rate is above 0, margin 0.1
  N      the same on log N (equal updates only), margin 0.1
Each seed's best batch: the parabola through the least log error and its
neighbours, over log batch; at the grid's edge the edge (censored, counted).
Curves along a line share one grid, the shortest.
Beside them: curves against g, and g at the best batch. Test: Student's t over
seeds, Holm, 95 % bootstrap intervals. Cost on two cores: full (30 seeds and 3
to tune with) about 10 minutes.
"""

import dataclasses
import functools

import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, interval_columns
from experiments.best_batch import curves as batch_curves
from experiments.best_batch import figures
from mnist_jax import stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import tables

SLOPE_MARGIN = 0.1
MOMENTUM = 0.9
EPOCH_SMALLEST = 8  # batch, where the budget is an epoch

OPTIONS = (
  study.Option("updates", 200, 1000, "of the equal updates"),
  study.Option(
    "batches", (8, 32, 128), tuple(2**k for k in range(2, 10)), "grid", rises=3
  ),
  study.Option(
    "rates", (0.1, 0.4), (0.1, 0.4, 1.6), "fixed, without tuning", rises=2
  ),
  study.Option("sizes", (1000,), (1000, 4000, 15000), "N below all", rises=1),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("tuning_seeds", 1, 3, "seeds that choose the batch"),
)


def check(values: study.Values) -> None:
  found = min(
    len(_batches(values, "updates", values.sizes[0])),
    len(_batches(values, "epochs", 10**9)),
  )
  if found < 3:
    raise InputError(
      f"batches={','.join(map(str, values.batches))}: found {found} "
      f"from {EPOCH_SMALLEST} on for the epoch and up to half of "
      f"sizes={values.sizes[0]}, expected 3 of each"
    )


def _batches(
  values: study.Values, budget_unit: str, examples: int
) -> list[int]:
  least = EPOCH_SMALLEST if budget_unit == "epochs" else 1
  return [b for b in values.batches if least <= b <= examples / 2]


def _curves(values: study.Values, count: int) -> list[batch_curves.Curve]:
  """What is measured; count is the number of all training examples."""
  rates = [float(rate) for rate in values.rates]
  middle, fewest = rates[len(rates) // 2], values.sizes[0]
  plain = [("updates", count, rate) for rate in rates]
  plain += [("updates", fewest, rate) for rate in rates]
  plain += [("updates", n, middle) for n in values.sizes[1:]]
  plain += [("epochs", count, rate) for rate in rates]
  return [
    *(batch_curves.Curve(unit, n, 0.0, rate) for unit, n, rate in plain),
    batch_curves.Curve("updates", count, MOMENTUM, middle),
  ]


def _cells(
  curve: batch_curves.Curve, values: study.Values, count: int
) -> list[sweep.Settings]:
  rate = curve.effective_rate * (1 - curve.momentum)
  return sweep.product(
    batch_size=_batches(values, curve.budget_unit, curve.examples),
    learning_rate=float(f"{rate:.6g}"),
    optimizer="momentum" if curve.momentum else "sgd",
    momentum=curve.momentum or None,
    num_train=None if curve.examples == count else curve.examples,
    seed=[*range(values.seeds), *study.tuning_seeds(values.tuning_seeds)],
  )


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  count = len(lab.dataset.train.labels)
  if values.sizes[-1] >= count:
    raise InputError(
      f"sizes=...,{values.sizes[-1]}: expected below the {count} training "
      "examples"
    )
  budgets = {
    "updates": sweep.Budget(updates=values.updates, final_splits=("test",)),
    "epochs": sweep.Budget(epochs=1, final_splits=("test",)),
  }
  curves = {str(curve): curve for curve in _curves(values, count)}
  found = []
  for unit, budget in budgets.items():
    cells = {
      name: _cells(curve, values, count)
      for name, curve in curves.items()
      if curve.budget_unit == unit
    }
    found.append(tables.last_rows(lab.sweep(cells, budget)))
  both = pd.concat(found, ignore_index=True)
  fields = pd.DataFrame([curves[name] for name in both.pop("arm")])
  both = both.assign(**fields)
  tuning = both["seed"] >= study.TUNING_SEED
  return {"table": both[~tuning], "tuning": both[tuning]}


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  table, tuning = measured["table"], measured["tuning"]
  ask = functools.partial(verdicts.Question, "B6")
  questions = []
  for curve in batch_curves.curves_of(table):
    if curve.momentum:
      continue
    batches, accuracy = batch_curves.by_batch(table, curve)
    best = batch_curves.inner_best(tuning, curve)
    at, note = f"batch {batches[best]:g}", f"{batches[0]:g} to {batches[-1]:g}"
    for end, column in (("smallest", 0), ("largest", -1)):
      questions.append(
        ask(
          f"peak above the {end}, {curve}",
          f"accuracy at {at} is above that at {batches[column]:g}",
          stats.paired_difference(
            accuracy[:, best], accuracy[:, column], seed=0
          ),
          margin=ACCURACY.margin,
          note=f"{at} of {note}",
        )
      )
  for name, (along, curves) in batch_curves.lines(table).items():
    x, best_of, (low, high) = batch_curves.line(table, along, curves)
    questions.append(
      ask(
        name,
        "the best batch grows: its log against the other's log has a slope "
        "above 0",
        batch_curves.slope(x, best_of),
        margin=SLOPE_MARGIN,
        note=f"Smith & Le: 1; of {best_of.size} best batches {low} at the "
        f"smallest, {high} at the largest",
      )
    )
  return verdicts.judge(questions)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By curve: best batch, noise scale there, accuracies there and at the ends.

  The noise scale is at the geometric mean of the best batches. If curves
  collapsed at equal noise scale, its column would hold one number.
  """
  table = measured["table"]
  rows = []
  for curve in batch_curves.curves_of(table):
    batches, accuracy = batch_curves.by_batch(table, curve)
    _, test = batch_curves.by_batch(table, curve, "test_accuracy")
    chosen = batch_curves.inner_best(measured["tuning"], curve)
    found = batch_curves.best_batches(table, curve)
    best = stats.geometric_mean(found.at)
    row = dataclasses.asdict(curve) | {
      "seeds": len(accuracy),
      **interval_columns("best_batch", best),
      "at_smallest": found.censored()[0],
      "at_largest": found.censored()[1],
      "noise_scale_at_best": float(curve.noise_scale(best[0])),
      "tuned_batch": int(batches[chosen]),
    }
    places = {"smallest": 0, "tuned": chosen, "largest": -1}
    rows.append(
      row
      | {
        f"{name}_accuracy_{where}": float(ends[:, column].mean())
        for name, ends in (("dev", accuracy), ("test", test))
        for where, column in places.items()
      }
    )
  return pd.DataFrame(rows)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  table = measured["table"]
  return {
    "accuracy": figures.draw_accuracy(table, values.batches),
    "best_batch": figures.draw_best(table, values.batches),
    "noise_scale": figures.draw_collapse(table, values.batches),
  }


STUDY = study.Study(
  "best_batch", OPTIONS, measure, judge, draw, summarise, check
)
