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

from types import SimpleNamespace

import numpy as np
import pandas as pd

from experiments._shared import study
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

MARGINS = {"dev_accuracy": 0.001, "dev_loss": 0.005}
UNITS = {"dev_accuracy": "accuracy", "dev_loss": "loss"}
BOOK = 0.5  # the rate the chapter finds best
FAST = 0.8  # the one it says is faster at first
LAST = 5  # epochs averaged at the end

SETTINGS = (
  study.Setting("rates", (0.2, 0.3, 0.5, 0.8), (0.2, 0.3, 0.5, 0.8), "rates"),
  study.Setting("seeds", 4, 50, "seeds of each rate"),
  study.Setting("epochs", 12, 30, "epochs of each run"),
  study.Setting("crossing", 10, 10, "epoch by which 0.5 passes 0.8"),
)


def check(values: SimpleNamespace) -> None:
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


def measure(lab: study.Lab, values: SimpleNamespace) -> pd.DataFrame:
  cells = sweep.product(learning_rate=values.rates, seed=range(values.seeds))
  return lab.sweep(cells, sweep.Budget(epochs=values.epochs, evaluate_every=1))


def _question(
  metric: str, name: str, text: str, gains: np.ndarray
) -> verdicts.Question:
  """Whether the first arm does better: gains [S] are in its favour if > 0."""
  return verdicts.Question(
    "L4",
    f"{name}, {UNITS[metric]}",
    text,
    stats.mean_interval(gains, seed=0),
    "greater",
    margin=MARGINS[metric],
  )


def judge(table: pd.DataFrame, values: SimpleNamespace) -> list[verdicts.Part]:
  questions = []
  for metric in MARGINS:
    curves = tables.curves(table, "learning_rate", metric)
    sign = 1 if metric == "dev_accuracy" else -1
    gain = sign * (curves.arm(BOOK) - curves.arm(FAST))  # [S, K]
    epochs = curves.points
    after = epochs > values.crossing
    ends = epochs > values.epochs - LAST
    questions += [
      _question(
        metric,
        "first",
        f"{FAST} is ahead of {BOOK} after epoch 1",
        -gain[:, epochs == 1][:, 0],
      ),
      _question(
        metric,
        "passed",
        f"{BOOK} is ahead of {FAST} after epoch {values.crossing}",
        gain[:, epochs == values.crossing][:, 0],
      ),
      _question(
        metric,
        "stays",
        f"{BOOK} is ahead of {FAST} after that (mean of the epochs)",
        gain[:, after].mean(axis=1),
      ),
    ]
    questions += [
      _question(
        metric,
        f"best of {BOOK} and {rate:g}",
        f"{BOOK} is ahead of {rate:g} in the last {LAST} epochs",
        sign * (curves.arm(BOOK) - curves.arm(rate))[:, ends].mean(axis=1),
      )
      for rate in values.rates
      if rate != BOOK
    ]
  return verdicts.judge(questions)


def summarise(table: pd.DataFrame, values: SimpleNamespace) -> pd.DataFrame:
  """Mean and sd over seeds by rate and epoch."""
  grouped = table.groupby(["learning_rate", "epoch"])[list(MARGINS)]
  result = grouped.agg(["mean", "std", "count"])
  result.columns = ["_".join(names) for names in result.columns]
  return result.reset_index()


def draw(
  table: pd.DataFrame, values: SimpleNamespace
) -> dict[str, plotting.Figure]:
  book, axes = plotting.panels(1, 2, (11, 4.4))
  paired, below = plotting.panels(1, 2, (11, 4.4))
  for i, metric in enumerate(("dev_loss", "dev_accuracy")):
    curves = tables.curves(table, "learning_rate", metric)
    ax = axes[0, i]
    figures.draw_curves(
      ax, curves, metric, lambda rate: f"rate {rate:g}", since=1
    )
    if metric == "dev_loss":
      plotting.log_axis(ax, "y")
    ax = below[0, i]
    scale = 100 if metric == "dev_accuracy" else 1
    figures.draw_differences(
      ax,
      curves.points[1:],
      scale * (curves.arm(BOOK) - curves.arm(FAST))[:, 1:],
      f"rate {BOOK:g} less rate {FAST:g}",
      margin=scale * MARGINS[metric],
    )
    ax.axvline(values.crossing, color="black", linestyle=":", linewidth=1)
    ax.set_xlabel("epoch")
    better = "above 0: 0.5 is better" if scale > 1 else "below 0: 0.5 is better"
    unit = "points of accuracy" if scale > 1 else "nats"
    ax.set_ylabel(f"paired difference ({unit})\n{better}")
    with plotting.style():
      ax.legend()
  n = values.seeds
  with plotting.style():
    book.suptitle(f"Learning rates at batch 128, {n} seeds, mean and 95 % band")
    paired.suptitle(
      f"Rate {BOOK:g} against {FAST:g}, {n} seeds, 95 % intervals; the dotted "
      f"line is the chapter's epoch {values.crossing}"
    )
  return {"curves": book, "differences": paired}


STUDY = study.Study(
  "lr_comparison", SETTINGS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
