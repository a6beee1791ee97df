"""N1, N2: the book's run over many seeds; would 256 hidden units do better?

  python -m experiments.seeds --preset=full

N1 (12.2): the network learns MNIST. The book's one run, rate 0.2, batch 128, 40
epochs, Xavier, has test accuracy 0.9749, development accuracy 0.9710 and
development loss 0.098.
N2 (12.2, exercise): 256 units in the first hidden layer in place of 64.
Metric: at the last epoch; N2 is judged on the development set, with the test
set's effect beside it. Grid: seeds x (64, 256); the widths of a seed share the
order of examples.
N1, all of: the book's run is an ordinary draw of ours, that is, each of its
three numbers lies within 2 of the seeds' standard deviations of their mean.
Secondary: the mean of ours is the book's, of
accuracies within half of Wilson's interval of its own, of the loss within 0.01
nats (which says how near one run can be known to be).
N2, primary: accuracy, 256 less 64, paired, margin 0.1 point. Secondary: loss,
margin 0.005 nats.
Test: t over seeds, 95 % bootstrap intervals; Holm over the secondaries.
Cost on two cores: full (30 seeds, 40 epochs) about 8 minutes.
"""

import math

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, spread
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import figures

BOOK = {"test_accuracy": 0.9749, "dev_accuracy": 0.9710, "dev_loss": 0.098}
BOOK_EXAMPLES = {"test_accuracy": 10_000, "dev_accuracy": 5_000}
LOSS_MARGIN = 0.01
ORDINARY = 2.0  # standard deviations

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


def _ordinary(table: pd.DataFrame, metric: str) -> stats.Question:
  """How many of the seeds' standard deviations the book's run is off.

  The error of a standardised mean, by Hedges & Olkin (1985), section 5.B:
  1 / n for the mean, and z^2 / 2 (n - 1) for the standard deviation.
  """
  ends = _ends(table, metric)[0]
  n, mean, sd = len(ends), float(ends.mean()), float(ends.std(ddof=1))
  z = (BOOK[metric] - mean) / sd
  error = math.sqrt(1 / n + z * z / (2 * (n - 1)))
  reach = float(scipy.stats.t.isf(0.025, n - 1)) * error
  words = metric.replace("_", " ")
  return stats.Question(
    words,
    f"the book's {words} less the mean over seeds, in the seeds' sd",
    stats.Effect(
      z, z - reach, z + reach, n, 0.95, "Student t interval", error, "Student t"
    ),
    "same",
    margin=ORDINARY,
    note=f"the book's {BOOK[metric]:g}; {n} seeds {mean:.4f}, sd {sd:.4f}",
  )


def _n1(table: pd.DataFrame, values: study.Values) -> stats.Judged:
  parts = [_ordinary(table, metric) for metric in BOOK]
  parts += [
    stats.Question(
      f"mean {metric.replace('_', ' ')}",
      f"the mean {metric.replace('_', ' ')} over seeds is the book's",
      stats.mean_interval(_ends(table, metric)[0], seed=0),
      "same",
      target=target,
      margin=_margin(metric),
      role="secondary",
    )
    for metric, target in BOOK.items()
  ]

  def sentence(found: stats.Judged) -> str:
    accuracy = stats.amount(found.found("mean test accuracy"), "%", scale=100.0)
    loss = stats.amount(found.found("mean dev loss"), "nats", digits=4)
    spread = 100 * _ends(table, "test_accuracy")[0].std(ddof=1)
    return (
      f"After {values.epochs} epochs at rate 0.2 and batch 128, "
      f"{values.seeds} seeds have a mean test accuracy of {accuracy}, a seed's "
      f"standard deviation is {spread:.2f} point, and a mean development loss "
      f"of {loss}; the book's one run had {100 * BOOK['test_accuracy']:g} % "
      f"and {BOOK['dev_loss']:g}."
    )

  return stats.judge(stats.Claim("N1", parts, sentence))


def _n2(table: pd.DataFrame, values: study.Values) -> stats.Judged:
  narrow, wide = values.widths
  parts = []
  for metric in BOTH:
    gain, on_test = (
      metric.gain(*_ends(table, column)[::-1])
      for column in (metric.column, metric.on_test)
    )
    parts.append(
      metric.question(
        "wider",
        f"{wide} hidden units do better than {narrow}",
        gain,
        on_test=on_test,
        role="primary" if metric.is_accuracy else "secondary",
      )
    )

  def sentence(found: stats.Judged) -> str:
    accuracy, loss = (
      metric.amount(found.found(f"wider, {metric.name}")) for metric in BOTH
    )
    on_test = found["wider, accuracy"].test_effect
    assert on_test is not None
    test = ACCURACY.amount(on_test)
    return (
      f"{wide} hidden units in place of {narrow} gain {accuracy} of "
      f"development accuracy and {loss} of loss ({test} on test data) after "
      f"{values.epochs} epochs at rate 0.2 and batch 128, n = {found.n}."
    )

  return stats.judge(stats.Claim("N2", parts, sentence))


def judge(table: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  return [_n1(table, values), _n2(table, values)]


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
