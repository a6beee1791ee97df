"""B6: is there a best batch at a fixed rate, growing with rate and data?

  python -m experiments.best_batch --preset=full

12.4: "对于一个固定的学习率，存在一个最优的batch size能够最大化测试精度，这个
batch size和学习率以及训练集的大小正相关" (at a fixed rate some batch size has
the best test accuracy; it goes up with the rate and with the training set).
Smith & Le (2018): it is where the noise scale g = rate (N / B - 1) has its best
value, so the best B is about proportional to rate and N.
Metric: development accuracy at the end; test accuracy beside each part. Whole
batches only. A lost run counts with the accuracy of its last finite weights in
differences, as 90 % wrong where a best batch is looked for.
Curves of accuracy over batch, without tuning:
  main   rate 0.5, all examples, --epochs, --batches
  epoch  the same after one epoch, from batch 1
  rates  one epoch, all examples, each of --rates
  sizes  --epochs, rate 0.5, each of --sizes and all examples
Those of the last two begin at batches 8, 16, 32 and go on by factors of 2 while
over 5 % of the resamples have their best at an end (from 1 to N / 8). Best
batch: vertex of the parabola through the mean log error and its neighbours; the
seeds are resampled.
Primary (all), on main: accuracy at the best batch inside the grid is above that
  at the smallest, and above that at the largest, paired, margin 0.1 point. The
  inside batch of each half of the seeds is the best of the other half.
Secondary: on epoch accuracy inside is above that at the better of the ends of
  each seed; the slope of log best batch on log rate, and on log N, is above 0
  (any growth counts, so no margin; not judged where over 10 % of the resamples
  are at an end).
Beside them: the curves against g, and how far apart the best g are.
Test: Student's t, 95 % bootstrap intervals over seeds, Holm over the
secondaries. Cost on two cores: full (30 seeds) 16 minutes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from experiments._shared import rate_search, study
from experiments._shared.metric import ACCURACY, interval_columns
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects, grid_minimum
from mnist_jax.sweep import figures, tables

RATE = 0.5  # the chapter's
BEGIN = (8, 16, 32)  # where the grids begin that go on by code
FEWEST = 8  # batches of an epoch

OPTIONS = (
  study.Option(
    "batches",
    (16, 64, 256),
    (4, 16, 32, 64, 128, 256, 1024),
    "of the main curve",
    rises=3,
  ),
  study.Option("epochs", 1, 30, "of the main curve"),
  study.Option(
    "rates", (0.25, 1.0), (0.125, 0.25, 0.5, 1.0), "for one epoch", rises=2
  ),
  study.Option("sizes", (2000,), (2000, 10_000), "N below all", rises=1),
  study.Option("seeds", 2, 30, "seeds"),
)


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of accuracy against batch size."""

  epochs: int
  examples: int  # N
  learning_rate: float

  def __str__(self) -> str:
    end = "" if self.epochs == 1 else "s"
    return (
      f"rate {self.learning_rate:g}, N {self.examples}, {self.epochs} "
      f"epoch{end}"
    )

  def noise_scale(self, batches: Any) -> Any:
    """g = rate (N / B - 1), Smith & Le (2018), of batches > 0."""
    return self.learning_rate * (self.examples / batches - 1)


_FIELDS = [field.name for field in dataclasses.fields(Curve)]


def check(values: study.Values) -> None:
  if values.sizes[0] < 2 * FEWEST * BEGIN[-1]:
    raise InputError(
      f"sizes={','.join(map(str, values.sizes))}: expected at least "
      f"{2 * FEWEST * BEGIN[-1]}, for batches of {BEGIN[-1]}"
    )


def all_examples(table: pd.DataFrame) -> int:
  """The most that a curve has."""
  return int(table["examples"].max())


def main_curve(count: int, values: study.Values) -> Curve:
  """The chapter's: its rate, all examples."""
  return Curve(values.epochs, count, RATE)


def lines(count: int, values: study.Values) -> dict[str, list[Curve]]:
  """By the field that changes along them: the curves of a line."""
  return {
    "learning_rate": [Curve(1, count, float(rate)) for rate in values.rates],
    "examples": [Curve(values.epochs, n, RATE) for n in (*values.sizes, count)],
  }


def begin(count: int, values: study.Values) -> dict[Curve, list[int]]:
  """The first batches of every curve."""
  found: dict[Curve, set[int]] = {}
  main = main_curve(count, values)
  for curves in lines(count, values).values():
    found |= {curve: set(BEGIN) for curve in curves if curve != main}
  wanted = {main: values.batches}
  one = dataclasses.replace(main, epochs=1)
  wanted[one] = sorted({1, *values.batches})
  for curve, batches in wanted.items():
    found[curve] = found.get(curve, set()) | set(batches)
  return {curve: sorted(batches) for curve, batches in found.items()}


def by_batch(
  table: pd.DataFrame, curve: Curve, column: str = "dev_accuracy"
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  """The curve's batches, and a column at the end of each seed's run.

  Raises:
    InputError: a batch lacks a seed that another has.
  """
  same = table[_FIELDS] == pd.Series(dataclasses.asdict(curve))
  own = table[same.all(axis=1)]
  found = tables.curves(own, "examples", column, point="batch_size")
  return found.points, found.values[0]


def best_batches(
  table: pd.DataFrame, curves: Sequence[Curve], metric: str = "dev_error"
) -> grid_minimum.MeanMinima:
  """The batch of the least mean log error of each curve, with resamples."""
  counted = table.assign(error=rate_search.counted(table, metric))
  found = [by_batch(counted, curve, "error") for curve in curves]
  return grid_minimum.mean_minima(
    [batches for batches, _ in found], [errors for _, errors in found], seed=0
  )


def more(table: pd.DataFrame, curve: Curve) -> list[int]:
  """The batches beyond ends at which the best is too often."""
  batches, _ = by_batch(table, curve)
  best = best_batches(table, [curve])
  found = []
  for end, beyond in (
    (batches[0], int(batches[0]) // 2),
    (batches[-1], 2 * int(batches[-1])),
  ):
    at_end = max(best.at[0] == end, (best.draws[:, 0] == end).mean())
    if at_end > rate_search.AT_END and 1 <= beyond <= curve.examples // FEWEST:
      found.append(beyond)
  return found


def _run(
  lab: study.Lab, todo: Mapping[Curve, Sequence[int]], values: study.Values
) -> pd.DataFrame:
  """The last rows of all curves' runs, each with its curve's fields."""
  count = len(lab.dataset.train.labels)
  found = []
  for epochs in sorted({curve.epochs for curve in todo}):
    own = {str(curve): curve for curve in todo if curve.epochs == epochs}
    cells = {
      name: sweep.product(
        batch_size=todo[curve],
        learning_rate=curve.learning_rate,
        num_train=None if curve.examples == count else curve.examples,
        drop_last=True,
        seed=range(values.seeds),
      )
      for name, curve in own.items()
    }
    budget = sweep.Budget(epochs=epochs, final_splits=("test",))
    table = sweep.last_rows(lab.sweep(cells, budget))
    fields = pd.DataFrame([own[name] for name in table.pop("arm")])
    found.append(table.assign(**fields))
  return pd.concat(found, ignore_index=True)


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  count = len(lab.dataset.train.labels)
  if values.sizes[-1] >= count:
    raise InputError(
      f"sizes=...,{values.sizes[-1]}: expected below the {count} training "
      "examples"
    )
  fixed = {main_curve(count, values)}
  todo = begin(count, values)
  parts = []
  while todo:
    parts.append(_run(lab, todo, values))
    table = pd.concat(parts, ignore_index=True)
    lacking = {
      curve: more(table, curve) for curve in todo if curve not in fixed
    }
    todo = {curve: batches for curve, batches in lacking.items() if batches}
  return table


def inside(accuracy: Float[np.ndarray, "S K"]) -> Int[np.ndarray, " S"]:
  """The best column but the first and the last, by the other half's mean.

  The halves are every second seed: what is chosen on some is judged on others.
  """
  found = np.zeros(len(accuracy), int)
  for half in (0, 1):
    means = accuracy[1 - half :: 2].mean(axis=0)
    found[half::2] = 1 + means[1:-1].argmax()
  return found


def _peak(
  table: pd.DataFrame, curve: Curve, batches: Sequence[int]
) -> dict[str, tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]]:
  """By how much accuracy inside these batches is above that at the ends.

  Returns:
    Above the "smallest", the "largest" and the better of them in each seed
    ("both ends"): on development and on test data.
  """
  own = table[table["batch_size"].isin(batches)]
  _, accuracy = by_batch(own, curve)
  best, rows = inside(accuracy), np.arange(len(accuracy))
  found = []
  for column in (ACCURACY.column, ACCURACY.on_test):
    _, values = by_batch(own, curve, column)
    above = values[rows, best][:, None] - values[:, [0, -1]]
    found.append([*above.T, above.min(axis=1)])
  names = ("smallest", "largest", "both ends")
  return dict(zip(names, zip(*found, strict=True), strict=True))


def _peak_parts(
  table: pd.DataFrame, main: Curve, values: study.Values
) -> list[stats.Question]:
  """The primary parts, then the same after one epoch in one part."""
  sizes = list(values.batches)
  above = _peak(table, main, sizes)
  parts = [
    ACCURACY.question(
      f"above the {end}",
      f"{main}: an inner batch is more accurate than batch {size}",
      above[end][0],
      on_test=above[end][1],
      note=_failures(table, main, size),
    )
    for end, size in (("smallest", sizes[0]), ("largest", sizes[-1]))
  ]
  one = dataclasses.replace(main, epochs=1)
  gain, on_test = _peak(table, one, [1, *sizes])["both ends"]
  return [
    *parts,
    ACCURACY.question(
      "one epoch",
      f"{one}: an inner batch is more accurate than the better of the ends, "
      f"1 and {sizes[-1]}",
      gain,
      on_test=on_test,
      role="secondary",
      restriction="after one epoch",
      note=_failures(table, one, 1),
    ),
  ]


def _failures(table: pd.DataFrame, curve: Curve, size: int) -> str:
  """How often runs of a batch diverge, in words."""
  own = table.assign(lost=tables.lost(table) * 1.0)
  batches, lost = by_batch(own, curve, "lost")
  here = lost[:, batches == size]
  share = stats.wilson_interval(int(here.sum()), len(here))
  return f"at batch {size} {stats.share(share)} of the runs diverge"


def slope(
  table: pd.DataFrame, along: str, curves: Sequence[Curve], metric: str
) -> tuple[stats.Effect, float]:
  """The exponent of best batch ~ x^p, and the largest share censored."""
  best = best_batches(table, curves, metric)
  x = np.array([getattr(curve, along) for curve in curves], np.float64)
  effect = stats.draws_slope(x, best.at, best.draws, best.n)
  return effect, float(best.censored.max())


_NAMES = {"learning_rate": "rate", "examples": "N"}


def judge(table: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  sweep.require_whole_batches(table)
  count = all_examples(table)
  main = main_curve(count, values)
  parts = _peak_parts(table, main, values)
  peaks = [part.name for part in parts if part.role == "primary"]
  for along, curves in lines(count, values).items():
    effect, censored = slope(table, along, curves, "dev_error")
    parts.append(
      stats.Question(
        _NAMES[along],
        f"the best batch grows with the {_NAMES[along]} (slope on log axes)",
        effect,
        role="secondary",
        censored=censored,
        test_effect=slope(table, along, curves, "test_error")[0],
        note="Smith & Le: about 1",
      )
    )
  best = best_batches(table, [main])
  place = stats.as_ratio(_place(best, 0))

  def sentence(found: stats.Judged) -> str:
    ends = [ACCURACY.amount(found.found(name)) for name in peaks]
    rate, n = (stats.amount(found.found(name)) for name in _NAMES.values())
    return (
      f"At rate {RATE:g} after {values.epochs} epochs the error is least at "
      "batch {:.0f} ({:.0f} to {:.0f}); ".format(*place)
      + f"an inner batch is {ends[0]} above batch {values.batches[0]} and "
      f"{ends[1]} above {values.batches[-1]} in development accuracy; the best "
      f"batch goes with the rate (one epoch) to the power {rate} and with N "
      f"({values.epochs} epochs) to the power {n}, n = {found.n}."
    )

  return [stats.judge(stats.Claim("B6", parts, sentence))]


def _place(best: grid_minimum.MeanMinima, i: int) -> stats.Effect:
  """The log of the i-th best batch."""
  return effects.from_draws(
    np.log(best.at[i]), np.log(best.draws[:, i]), best.n
  )


def curves_of(table: pd.DataFrame) -> list[Curve]:
  """The curves of a table, in its order."""
  rows = table[_FIELDS].drop_duplicates().to_dict("records")
  return [Curve(**{str(k): v for k, v in row.items()}) for row in rows]


def summarise(table: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """By curve and batch: accuracies; the best batch and its noise scale.

  If curves collapsed at equal noise scale, its column would hold one number.
  """
  rows = []
  for curve in curves_of(table):
    best = best_batches(table, [curve])
    place = stats.as_ratio(_place(best, 0))
    batches, accuracy = by_batch(table, curve)
    _, on_test = by_batch(table, curve, ACCURACY.on_test)
    _, lost = by_batch(
      table.assign(lost=tables.lost(table) * 1.0), curve, "lost"
    )
    rows += [
      dataclasses.asdict(curve)
      | {
        "batch_size": int(size),
        "seeds": len(accuracy),
        "dev_accuracy": accuracy[:, i].mean(),
        "dev_accuracy_std": accuracy[:, i].std(ddof=1),
        "test_accuracy": on_test[:, i].mean(),
        "diverged": int(lost[:, i].sum()),
        **interval_columns("best_batch", place),
        "censored": best.censored[0],
        "noise_scale_at_best": float(curve.noise_scale(place[0])),
      }
      for i, size in enumerate(batches)
    ]
  return pd.DataFrame(rows)


def _draw_accuracy(
  table: pd.DataFrame, values: study.Values
) -> plotting.Figure:
  """Mean accuracy of each curve: the chapter's rate, the rates, the sizes."""
  count = all_examples(table)
  main = main_curve(count, values)
  groups = {
    f"rate {RATE:g}, all examples": [
      *dict.fromkeys([main, dataclasses.replace(main, epochs=1)])
    ],
    "one epoch: rates": lines(count, values)["learning_rate"],
    f"rate {RATE:g}: training examples": lines(count, values)["examples"],
  }
  figure, axes = plotting.panels(1, 3, (16, 5.4))
  for ax, (title, curves) in zip(axes[0], groups.items(), strict=True):
    lowest, ticks = 1.0, set()
    for i, curve in enumerate(curves):
      batches, accuracy = by_batch(table, curve)
      plotting.bands(ax, batches, accuracy, str(curve), index=i)
      lowest = min(lowest, float(np.median(accuracy)))
      ticks |= set(batches.tolist())
    plotting.log_axis(ax, "x", sorted(ticks))
    # What fails at the ends would flatten all the rest.
    ax.set_ylim(max(0.0, lowest - 0.03), min(1.0, ax.get_ylim()[1] + 0.005))
    figures.metric_axis(ax, "dev_accuracy")
    ax.set(xlabel="batch size", title=title)
    ax.legend(loc="lower center", fontsize=8)
  figure.suptitle(
    "Accuracy against batch size at fixed rates, mean and 95 % band over seeds"
  )
  return figure


def _draw_best(table: pd.DataFrame, values: study.Values) -> plotting.Figure:
  """The best batch against the rate and against N, with slopes."""
  figure, axes = plotting.panels(1, 2, (12, 5.2))
  labels = {"learning_rate": "learning rate", "examples": "training examples N"}
  found = lines(all_examples(table), values)
  for ax, (along, curves) in zip(axes[0], found.items(), strict=True):
    best = best_batches(table, curves)
    x = np.array([getattr(curve, along) for curve in curves], np.float64)
    places = [stats.as_ratio(_place(best, i)) for i in range(len(x))]
    middle, low, high = np.array(places).T
    effect, censored = slope(table, along, curves, "dev_error")
    label = (
      f"slope {effect.estimate:.2f} [{effect.low:.2f}, {effect.high:.2f}], "
      f"n = {best.n}"
    )
    if censored > 0.1:
      label += f"; up to {100 * censored:.0f} % of resamples at an end"
    plotting.error_bars(ax, x, middle, low, high, label=label, linestyle="-")
    through = middle[len(x) // 2] * x / x[len(x) // 2]
    ax.plot(x, through, "k:", linewidth=1.2, label="slope 1, as Smith & Le")
    ax.set(xlabel=labels[along], ylabel="best batch size (95 %)")
    ax.set_title(f"epochs of training: {curves[0].epochs}")
    ax.legend(fontsize=9, loc="upper left")
    plotting.log_axis(ax, "x", x)
    plotting.log_axis(ax, "y")
  figure.suptitle("The batch of least development error, at fixed rates")
  return figure


def _spread(values: Sequence[float] | Float[np.ndarray, " K"]) -> str:
  """By what factor positive numbers differ: exp of the sd of their logs."""
  return f"spread by a factor of {np.exp(np.log(values).std(ddof=1)):.2g}"


def _draw_collapse(
  table: pd.DataFrame, values: study.Values
) -> plotting.Figure:
  """Accuracy below the curve's best, against batch and against noise scale.

  The titles say how far apart the curves' best batches are, and the noise
  scales there: at a perfect collapse the second is a factor of 1.
  """
  figure, axes = plotting.panels(1, 2, (13, 6.4))
  left, right = axes[0]
  found = lines(all_examples(table), values)
  wanted = list(dict.fromkeys([*found["learning_rate"], *found["examples"]]))
  best = best_batches(table, wanted).at
  noise = [c.noise_scale(b) for c, b in zip(wanted, best, strict=True)]
  for i, curve in enumerate(wanted):
    batches, accuracy = by_batch(table, curve)
    below = ACCURACY.scale * (accuracy - accuracy.mean(axis=0).max())
    plotting.bands(left, batches, below, str(curve), index=i)
    scale = curve.noise_scale(batches)
    plotting.bands(right, scale, below, str(curve), index=i)
  plotting.log_axis(left, "x")
  plotting.log_axis(right, "x")
  left.set(title=f"best batches {_spread(best)}", xlabel="batch size")
  right.set_title(f"noise scales there {_spread(noise)}")
  right.set_xlabel("noise scale ε (N / B − 1)")
  for ax in (left, right):
    ax.set(ylim=(-6, 0.6), ylabel="accuracy less the curve's best (points)")
  handles = left.get_legend_handles_labels()
  figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=9)
  figure.suptitle(
    "Do curves fall together at equal noise scale? Mean and 95 % band"
  )
  return figure


def draw(table: pd.DataFrame, values: study.Values) -> study.Figures:
  return {
    "accuracy": _draw_accuracy(table, values),
    "best_batch": _draw_best(table, values),
    "noise_scale": _draw_collapse(table, values),
  }


STUDY = study.Study(
  "best_batch", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
