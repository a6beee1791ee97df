"""L4: at batch 128, is 0.5 the best of 0.2, 0.3, 0.5, 0.8?

  python -m experiments.lr_comparison --preset=full

Claim (12.4), 学习率为0.5时效果最好，虽然0.8的学习率开始时上升得很快，但是到了
10个epoch时，0.5的曲线就超上来了，最后稳定在0.8的曲线之上: 0.5 does best; 0.8
rises fast at first, but by epoch 10 the curve of 0.5 has passed it and stays
above. Curves that rise and lie above are those of accuracy.
Metric: accuracy and loss on the development set, per epoch; at the end the
test set's beside them.
Grid: the four rates x seeds; the rates of a seed share weights and order.
Parts, paired over seeds; primary in accuracy (all of them), secondary in loss:
  first   0.8 against 0.5 after epoch 1
  passed  0.5 against 0.8 after epoch 10
  stays   0.5 against 0.8, mean over the epochs after the 10th
  best    0.5 against each other rate, mean over the last five epochs
Diagnostic: the epoch from which on the mean of 0.5 is ahead of that of 0.8,
resampled over seeds; without one it counts as the last epoch.
Margin: 0.1 point of accuracy, 0.005 nats. Test: Student's t over seeds, the
median where a run is far off, 95 % bootstrap intervals.
Cost on two cores: full (50 seeds, 30 epochs, 200 runs) about 8 minutes.
"""

import dataclasses

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, LOSS, Metric, spread
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects, verdicts
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
  budget = sweep.Budget(
    epochs=values.epochs, evaluate_every=1, final_splits=("test",)
  )
  return lab.sweep(cells, budget)


def crossing(
  epochs: Float[np.ndarray, " K"], gain: Float[np.ndarray, "S K"]
) -> tuple[stats.Effect, float]:
  """The epoch from which on the mean gain is above 0, and how often none is.

  Between two epochs it is on the line from the one to the other; the last
  epoch where the mean ends at or below 0, the first where it never is.
  """

  def of(means: Float[np.ndarray, "R K"]) -> Float[np.ndarray, " R"]:
    behind = means <= 0
    last = means.shape[1] - 1
    k = np.where(behind.any(axis=1), last - behind[:, ::-1].argmax(axis=1), -1)
    rows, inside = np.arange(len(means)), np.clip(k, 0, last - 1)
    low, high = means[rows, inside], means[rows, inside + 1]
    step = np.where(high > low, -low / np.where(high > low, high - low, 1), 0.0)
    between = epochs[inside] + step * (epochs[inside + 1] - epochs[inside])
    return np.where(k < 0, epochs[0], np.where(k == last, epochs[-1], between))

  n = len(gain)
  draws = np.random.default_rng(0).multinomial(
    n, np.full(n, 1 / n), size=effects.RESAMPLES
  )
  means = draws @ gain / n
  found = effects.from_draws(float(of(gain.mean(0)[None])[0]), of(means), n)
  return found, float((means[:, -1] <= 0).mean())


def _parts(
  metric: Metric, table: pd.DataFrame, values: study.Values
) -> list[verdicts.Question]:
  curves = sweep.curves(table, "learning_rate", metric.column)
  test = sweep.curves(table, "learning_rate", metric.on_test)
  role = "primary" if metric.is_accuracy else "secondary"
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
  questions = [metric.question(*each, role=role) for each in asked]
  questions += [
    metric.question(
      f"best of {BOOK} and {rate:g}",
      f"{BOOK} is ahead of {rate:g} in the last {LAST} epochs",
      metric.gain(book, curves.arm(rate))[:, ends].mean(axis=1),
      on_test=metric.gain(test.arm(BOOK), test.arm(rate))[:, -1],
      role=role,
    )
    for rate in values.rates
    if rate != BOOK
  ]
  at, without = crossing(epochs[1:], gain[:, 1:])
  return [
    *questions,
    verdicts.Question(
      f"crossing, {metric.name}",
      f"the means of {BOOK} and {FAST} cross for good by epoch "
      f"{values.crossing}",
      at,
      "less",
      float(values.crossing),
      role="diagnostic",
      note=f"in {100 * without:.0f} % of the resamples not by epoch "
      f"{values.epochs}",
    ),
  ]


def lead(effect: stats.Effect, arm: str, other: str) -> str:
  """Which of two is ahead in accuracy, and by how much."""
  if effect.estimate < 0:
    arm, other = other, arm
    effect = dataclasses.replace(
      effect, estimate=-effect.estimate, low=-effect.high, high=-effect.low
    )
  return f"{arm} is {ACCURACY.amount(effect)} above {other}"


def _sentence(judged: verdicts.Judged, values: study.Values) -> str:
  def of(name: str) -> stats.Effect:
    return judged.found(f"{name}, accuracy")

  def crossed(metric: Metric) -> str:
    at = judged.found(f"crossing, {metric.name}")
    if at.estimate >= values.epochs:
      return f"in {metric.name} they do not cross for good"
    return f"in {metric.name} they do at epoch {stats.amount(at, digits=1)}"

  ends = [
    lead(of(f"best of {BOOK} and {rate:g}"), f"{BOOK:g}", f"{rate:g}")
    for rate in values.rates
    if rate != BOOK
  ]
  return (
    "In dev accuracy at batch 128 rate "
    f"{lead(of('first'), f'{FAST:g}', f'{BOOK:g}')} after epoch 1, "
    f"{lead(of('passed'), f'{BOOK:g}', f'{FAST:g}')} after epoch "
    f"{values.crossing}, in the last {LAST} of {values.epochs} "
    f"{', '.join(ends)}; {crossed(ACCURACY)}, {crossed(LOSS)}; n = {judged.n}."
  )


def judge(table: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  parts = [part for metric in BOTH for part in _parts(metric, table, values)]
  claim = stats.Claim("L4", parts, lambda judged: _sentence(judged, values))
  return [stats.judge(claim)]


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
    gap.axvline(
      values.crossing,
      color="black",
      linestyle=":",
      linewidth=1,
      label=f"the chapter's epoch {values.crossing}",
    )
    gain = metric.gain(curves.arm(BOOK), curves.arm(FAST))
    at, _ = crossing(curves.points[1:], gain[:, 1:])
    if at.estimate < values.epochs:
      gap.axvspan(
        at.low,
        at.high,
        color="grey",
        alpha=0.3,
        label=f"the means cross for good, epoch {at.estimate:.1f} (95 %)",
      )
    side = "above" if metric.is_accuracy else "below"
    gap.set_xlabel("epoch")
    gap.set_ylabel(
      f"paired difference ({metric.unit})\n{side} 0: 0.5 is better"
    )
    gap.legend()
  n = values.seeds
  book.suptitle(f"Learning rates at batch 128, {n} seeds, mean and 95 % band")
  paired.suptitle(
    f"Rate {BOOK:g} against {FAST:g} at batch 128, {n} seeds, 95 % intervals"
  )
  return {"curves": book, "differences": paired}


STUDY = study.Study(
  "lr_comparison", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
