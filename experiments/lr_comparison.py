"""L4: at batch 128, is 0.5 the best of 0.2, 0.3, 0.5, 0.8?

  python -m experiments.lr_comparison --preset=full

Claim (12.4): 0.5 is best; 0.8 rises faster at first, but by epoch 10 the curve
of 0.5 passes it and stays above.
Metric: accuracy and loss on the development set, per epoch.
Grid: the four rates x seeds; the rates of a seed share weights and order.
Parts, each on accuracy and on loss, paired over seeds:
  first   0.8 against 0.5 after epoch 1
  passed  0.5 against 0.8 after epoch 10
  stays   0.5 against 0.8, mean over the epochs after the 10th
  best    0.5 against each other rate, mean over the last five epochs
Margin: 0.1 point of accuracy, 0.005 nats: an effect in the claimed direction
that is shown to be smaller does not count as one (does not hold).
Test: Student's t over seeds, Holm over all parts, 95 % bootstrap intervals.
Cost on two cores: full (50 seeds, 30 epochs, 200 runs) about 8 minutes.
"""

import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, LOSS, spread
from mnist_jax import plotting, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures

BOOK = 0.5  # the rate the chapter finds best
FAST = 0.8  # the one it says is faster at first
LAST = 5  # epochs averaged at the end

OPTIONS = (
  study.Option("rates", (0.2, 0.3, 0.5, 0.8), (0.2, 0.3, 0.5, 0.8), "rates"),
  study.Option("seeds", 4, 50, "seeds of each rate"),
  study.Option("epochs", 12, 30, "epochs of each run"),
  study.Option("crossing", 10, 10, "epoch by which 0.5 passes 0.8"),
)


def check(values: study.Values) -> None:
  missing = {BOOK, FAST} - set(values.rates)
  if missing:
    raise InputError(
      f"--rates={','.join(map(str, values.rates))}: expected {min(missing)} "
      "among them, which the claim is about"
    )
  if values.epochs <= values.crossing:
    raise InputError(
      f"--epochs={values.epochs}: expected more than --crossing="
      f"{values.crossing}"
    )


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  cells = sweep.product(learning_rate=values.rates, seed=range(values.seeds))
  return lab.sweep(cells, sweep.Budget(epochs=values.epochs, evaluate_every=1))


def judge(table: pd.DataFrame, values: study.Values) -> list[verdicts.Part]:
  questions = []
  for metric in BOTH:
    curves = sweep.curves(table, "learning_rate", metric.column)
    epochs, book = curves.points, curves.arm(BOOK)
    gain = metric.gain(book, curves.arm(FAST))  # [S, K]
    ends = epochs > values.epochs - LAST
    asked = [
      (
        "first",
        f"{FAST} is ahead of {BOOK} after epoch 1",
        -gain[:, epochs == 1][:, 0],
      ),
      (
        "passed",
        f"{BOOK} is ahead of {FAST} after epoch {values.crossing}",
        gain[:, epochs == values.crossing][:, 0],
      ),
      (
        "stays",
        f"{BOOK} is ahead of {FAST} after that (mean of the epochs)",
        gain[:, epochs > values.crossing].mean(axis=1),
      ),
    ]
    asked += [
      (
        f"best of {BOOK} and {rate:g}",
        f"{BOOK} is ahead of {rate:g} in the last {LAST} epochs",
        metric.gain(book, curves.arm(rate))[:, ends].mean(axis=1),
      )
      for rate in values.rates
      if rate != BOOK
    ]
    questions += [metric.question("L4", *each) for each in asked]
  return verdicts.judge(questions)


def summarise(table: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds by rate and epoch."""
  return spread(
    table.sort_values(["learning_rate", "epoch"]), ["learning_rate", "epoch"]
  )


def draw(table: pd.DataFrame, values: study.Values) -> study.Figures:
  book, axes = plotting.panels(1, 2, (11, 4.4))
  paired, below = plotting.panels(1, 2, (11, 4.4))
  for ax, gap, metric in zip(axes[0], below[0], (LOSS, ACCURACY), strict=True):
    curves = sweep.curves(table, "learning_rate", metric.column)
    figures.draw_curves(
      ax, curves, metric.column, lambda rate: f"rate {rate:g}", since=1
    )
    if not metric.is_accuracy:
      plotting.log_axis(ax, "y")
    figures.draw_differences(
      gap,
      curves.points[1:],
      metric.scale * (curves.arm(BOOK) - curves.arm(FAST))[:, 1:],
      f"rate {BOOK:g} less rate {FAST:g}",
      margin=metric.scale * metric.margin,
    )
    gap.axvline(values.crossing, color="black", linestyle=":", linewidth=1)
    side = "above" if metric.is_accuracy else "below"
    gap.set_xlabel("epoch")
    gap.set_ylabel(
      f"paired difference ({metric.unit})\n{side} 0: 0.5 is better"
    )
    gap.legend()
  n = values.seeds
  book.suptitle(f"Learning rates at batch 128, {n} seeds, mean and 95 % band")
  paired.suptitle(
    f"Rate {BOOK:g} against {FAST:g}, {n} seeds, 95 % intervals; the dotted "
    f"line is the chapter's epoch {values.crossing}"
  )
  return {"curves": book, "differences": paired}


STUDY = study.Study(
  "lr_comparison", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
