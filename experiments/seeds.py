"""N1, N2: the book's run over many seeds; would 256 hidden units do better?

  python -m experiments.seeds --preset=full

N1 (12.2): rate 0.2, batch 128, 40 epochs, Xavier. The book's one run has test
accuracy 0.9749, development accuracy 0.9710 and development loss 0.098.
N2 (12.2, exercise): 256 units in the first hidden layer in place of 64.
Metric: at the last epoch; the choice of N2 is judged on the development set.
Grid: seeds x (64, 256); the widths of a seed share the order of examples.
Parts:
  N1 test accuracy   the mean is the book's within half its Wilson interval
  N1 dev accuracy    likewise, of 5,000 examples
  N1 dev loss        likewise within 0.01 nats
  N2 dev accuracy    256 against 64, paired; margin 0.1 point
  N2 dev loss        likewise; margin 0.005 nats
Test: t and two one-sided t tests over seeds, Holm, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds, 40 epochs) about 8 minutes.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import BOTH, spread
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures

BOOK = {"test_accuracy": 0.9749, "dev_accuracy": 0.9710, "dev_loss": 0.098}
BOOK_EXAMPLES = {"test_accuracy": 10_000, "dev_accuracy": 5_000}
LOSS_MARGIN = 0.01

OPTIONS = (
  study.Option("seeds", 4, 30, "seeds of each width"),
  study.Option("epochs", 3, 40, "epochs of each run"),
  study.Option("widths", (64, 256), (64, 256), "first hidden layer: two"),
)


def check(values: study.Values) -> None:
  if len(values.widths) != 2:
    raise InputError(
      f"--widths={','.join(map(str, values.widths))}: expected two, the book's "
      "and the one compared with it"
    )


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  cells = sweep.product(
    hidden_sizes=[(width, 16) for width in values.widths],
    seed=range(values.seeds),
  )
  budget = sweep.Budget(
    epochs=values.epochs, evaluate_every=1, final_splits=("test",)
  )
  return lab.sweep(cells, budget)


def _book_interval(metric: str) -> stats.Effect:
  """Wilson's interval of the book's one number, of an accuracy."""
  n = BOOK_EXAMPLES[metric]
  return stats.wilson_interval(round(BOOK[metric] * n), n)


def _margin(metric: str) -> float:
  if metric not in BOOK_EXAMPLES:
    return LOSS_MARGIN
  interval = _book_interval(metric)
  return (interval.high - interval.low) / 2


def _width(sizes: object) -> str:
  return str(sizes).split(",")[0]


def _ends(table: pd.DataFrame, metric: str) -> Float[np.ndarray, "A S"]:
  return sweep.curves(table, "hidden_sizes", metric).values[:, :, -1]


def judge(table: pd.DataFrame, values: study.Values) -> list[verdicts.Part]:
  questions = [
    verdicts.Question(
      "N1",
      metric.replace("_", " "),
      f"the mean {metric.replace('_', ' ')} over seeds is the book's",
      stats.mean_interval(_ends(table, metric)[0], seed=0),
      "same",
      target=target,
      margin=_margin(metric),
    )
    for metric, target in BOOK.items()
  ]
  for metric in BOTH:
    narrow, wide = _ends(table, metric.column)
    questions.append(
      verdicts.Question(
        "N2",
        metric.column.replace("_", " "),
        f"{values.widths[1]} hidden units do better than {values.widths[0]}",
        stats.mean_interval(metric.gain(wide, narrow), seed=0),
        "greater",
        margin=metric.margin,
      )
    )
  return verdicts.judge(questions)


def summarise(table: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds by width, at the last epoch."""
  return spread(
    sweep.last_rows(table).sort_values("hidden_sizes", kind="stable"),
    "hidden_sizes",
    list(BOOK),
    kinds=("mean", "std", "min", "max", "count"),
  )


def draw(table: pd.DataFrame, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (14, 4.4))
  for ax, metric in zip(axes[0], ("dev_loss", "dev_accuracy"), strict=False):
    curves = sweep.curves(table, "hidden_sizes", metric)
    figures.draw_curves(
      ax, curves, metric, lambda a: f"{_width(a)} hidden units", since=1
    )
  ends = zip(curves.arms, _ends(table, "test_accuracy"), strict=True)
  _draw_tests(axes[0, 2], {_width(arm): values for arm, values in ends})
  figure.suptitle(
    f"The book's run over {values.seeds} seeds (rate 0.2, batch 128, "
    f"{values.epochs} epochs)"
  )
  return {"seeds": figure}


def _draw_tests(
  ax: plotting.Axes, ends: dict[str, Float[np.ndarray, " S"]]
) -> None:
  """Every seed's test accuracy beside the book's one number."""
  interval = _book_interval("test_accuracy")
  ax.axhspan(
    interval.low,
    interval.high,
    color="#888888",
    alpha=0.2,
    linewidth=0,
    label="the book's 0.9749, Wilson 95 %",
  )
  ax.axhline(interval.estimate, color="black", linewidth=1)
  figures.draw_arms(ax, ends)
  for i, values in enumerate(ends.values()):
    mean = stats.mean_interval(values, seed=0)
    plotting.error_bars(
      ax,
      i + 0.35,
      mean.estimate,
      mean.low,
      mean.high,
      color="black",
      marker="_",
      capsize=4,
      label="mean, 95 % interval" if i == 0 else None,
    )
  ax.set_xlabel("hidden units of the first layer (each point a seed)")
  figures.metric_axis(ax, "test_accuracy")
  ax.legend()


STUDY = study.Study("seeds", OPTIONS, measure, judge, draw, summarise, check)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
