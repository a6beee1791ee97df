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
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import ACCURACY, interval_columns
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum, slopes, verdicts
from mnist_jax.sweep import figures, tables

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


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of accuracy against batch size."""

  budget_unit: str  # "updates" or "epochs"
  examples: int  # N
  momentum: float  # 0 for plain SGD
  effective_rate: float  # rate / (1 - momentum)

  def __str__(self) -> str:
    kind = "equal updates" if self.budget_unit == "updates" else "one epoch"
    more = f", momentum {self.momentum:g}" if self.momentum else ""
    return f"{kind}, rate {self.effective_rate:g}, N {self.examples}{more}"

  def noise_scale(self, batches: Any) -> Any:
    """g = eps / (1 - m) (N / B - 1), Smith & Le (2018), of batches > 0."""
    return self.effective_rate * (self.examples / batches - 1)


_FIELDS = [field.name for field in dataclasses.fields(Curve)]


def curves_of(table: pd.DataFrame) -> list[Curve]:
  """The curves of a table, in its order."""
  rows = table[_FIELDS].drop_duplicates().to_dict("records")
  return [Curve(**{str(k): v for k, v in row.items()}) for row in rows]


def by_batch(
  table: pd.DataFrame, curve: Curve, metric: str = "dev_accuracy"
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"]]:
  """The curve's batches, and its metric at the end of each seed's run.

  Raises:
    InputError: a batch lacks a seed that another has.
  """
  same = table[_FIELDS] == pd.Series(dataclasses.asdict(curve))
  own = table[same.all(axis=1)]
  found = tables.curves(own, "budget_unit", metric, point="batch_size")
  return found.points, found.values[0]


def inner_best(tuning: pd.DataFrame, curve: Curve) -> int:
  """The column of the best batch of those with a neighbour on both sides."""
  _, accuracy = by_batch(tuning, curve)
  return 1 + int(accuracy.mean(axis=0)[1:-1].argmax())


def best_batches(
  table: pd.DataFrame, curve: Curve, largest: float = math.inf
) -> grid_minimum.GridMinimum:
  """Each seed's best batch and whether it is at the grid's end.

  The parabola through the least log error and its neighbours, over log batch;
  see `grid_minimum.minimum`.

  Args:
    largest: batches above it are left out.
  """
  batches, accuracy = by_batch(table, curve)
  kept = batches <= largest
  # No error at all would have no log: as if half of one example were wrong.
  errors = np.maximum(1 - accuracy[:, kept], 1e-4)
  return grid_minimum.minimum(batches[kept], errors)


def lines(table: pd.DataFrame) -> dict[str, tuple[str, list[Curve]]]:
  """By name: the curves along which one thing changes, and which it is."""
  plain = [curve for curve in curves_of(table) if not curve.momentum]
  sizes = sorted({curve.examples for curve in plain})
  updates = [curve for curve in plain if curve.budget_unit == "updates"]
  epochs = [curve for curve in plain if curve.budget_unit == "epochs"]
  own = {n: [c for c in updates if c.examples == n] for n in sizes}
  # The rate that was run at every N: the only one, between fewest and all.
  common = set.intersection(
    *({c.effective_rate for c in curves} for curves in own.values())
  )
  middle = sorted(common)[len(common) // 2]
  along = [c for c in updates if c.effective_rate == middle]
  return {
    f"rate, equal updates, N {sizes[-1]}": ("effective_rate", own[sizes[-1]]),
    f"rate, equal updates, N {sizes[0]}": ("effective_rate", own[sizes[0]]),
    f"rate, one epoch, N {sizes[-1]}": ("effective_rate", epochs),
    f"N, equal updates, rate {middle:g}": (
      "examples",
      sorted(along, key=lambda c: c.examples),
    ),
  }


def line(
  table: pd.DataFrame, along: str, curves: list[Curve]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "S K"], tuple[int, int]]:
  """x, the seeds' best batches, and how many are at the grid's two ends.

  Of the batches that all curves have: a grid that ends later at a larger N
  would by itself let the best batch grow.
  """
  x = np.array([getattr(curve, along) for curve in curves], np.float64)
  largest = min(float(by_batch(table, curve)[0].max()) for curve in curves)
  found = [best_batches(table, curve, largest) for curve in curves]
  low, high = np.sum([best.censored() for best in found], axis=0).tolist()
  return x, np.stack([best.at for best in found], axis=1), (low, high)


def slope(
  x: Float[np.ndarray, " K"], best: Float[np.ndarray, "S K"]
) -> stats.Effect:
  """The exponent of best ~ x^p over seeds; exactly 0 where nothing changes."""
  # Each seed's own level is not in the slope; dividing by it leaves no rounding
  # where all best batches are the same end of the grid.
  return slopes.loglog_slope(x, best / best[:, :1], seed=0)


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


def _curves(values: study.Values, count: int) -> list[Curve]:
  """What is measured; count is the number of all training examples."""
  rates = [float(rate) for rate in values.rates]
  middle, fewest = rates[len(rates) // 2], values.sizes[0]
  plain = [("updates", count, rate) for rate in rates]
  plain += [("updates", fewest, rate) for rate in rates]
  plain += [("updates", n, middle) for n in values.sizes[1:]]
  plain += [("epochs", count, rate) for rate in rates]
  return [
    *(Curve(unit, n, 0.0, rate) for unit, n, rate in plain),
    Curve("updates", count, MOMENTUM, middle),
  ]


def _cells(
  curve: Curve, values: study.Values, count: int
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
  for curve in curves_of(table):
    if curve.momentum:
      continue
    batches, accuracy = by_batch(table, curve)
    best = inner_best(tuning, curve)
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
  for name, (along, curves) in lines(table).items():
    x, best_of, (low, high) = line(table, along, curves)
    questions.append(
      ask(
        name,
        "the best batch grows: its log against the other's log has a slope "
        "above 0",
        slope(x, best_of),
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
  for curve in curves_of(table):
    batches, accuracy = by_batch(table, curve)
    _, test = by_batch(table, curve, "test_accuracy")
    chosen = inner_best(measured["tuning"], curve)
    found = best_batches(table, curve)
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


def _draw_accuracy(
  table: pd.DataFrame, batches: Sequence[int]
) -> plotting.Figure:
  """Mean accuracy of each curve, one panel for each of `lines`."""
  figure, axes = plotting.panels(2, 2, (12, 9))
  for ax, (name, (along, curves)) in zip(
    axes.flat, lines(table).items(), strict=True
  ):
    lowest = 1.0
    for i, curve in enumerate(curves):
      x, accuracy = by_batch(table, curve)
      value = getattr(curve, along)
      label = f"N = {value}" if along == "examples" else f"rate {value:g}"
      plotting.bands(ax, x, accuracy, label, index=i)
      means = accuracy.mean(axis=0)
      lowest = min(lowest, float(means[len(means) // 2 :].min()))
    plotting.log_axis(ax, "x", batches)
    # What fails at the small batches would flatten all the rest.
    ax.set_ylim(max(0.0, lowest - 0.12), min(1.0, ax.get_ylim()[1] + 0.005))
    figures.metric_axis(ax, "dev_accuracy")
    ax.set(xlabel="batch size", title=name.partition(", ")[2])
    ax.legend(loc="lower right", fontsize=9)
  figure.suptitle(
    "Accuracy against batch size at fixed rates, mean and 95 % band over seeds"
  )
  return figure


def _draw_best(table: pd.DataFrame, batches: Sequence[int]) -> plotting.Figure:
  """The best batch against rate and against N, with slopes."""
  figure, axes = plotting.panels(1, 2, (13, 5.6))
  names = {"effective_rate": "learning rate", "examples": "training examples N"}
  places = dict(zip(names, axes[0], strict=True))
  ticks: dict[str, set[float]] = {along: set() for along in names}
  for i, (name, (along, curves)) in enumerate(lines(table).items()):
    x, best, _ = line(table, along, curves)
    found = slope(x, best)
    label = (
      f"{name.partition(', ')[2]}: slope {found.estimate:.2f} "
      f"[{found.low:.2f}, {found.high:.2f}]"
    )
    figures.draw_geometric(places[along], x, best, label, index=i)
    ticks[along] |= set(x.tolist())
  low, high = batches[0] / 1.5, batches[-1] * 1.5
  for along, ax in places.items():
    x = np.array(sorted(ticks[along]))
    middle = np.sqrt(low * high / x[0] / x[-1]) * x
    ax.plot(x, middle, "k:", linewidth=1.2, label="slope 1, as Smith & Le")
    ax.set(xlabel=names[along], ylabel="best batch size (geometric mean, 95 %)")
    ax.legend(fontsize=9, loc="upper left")
    plotting.log_axis(ax, "x", x)
    plotting.log_axis(ax, "y", batches)
    # Room above the largest batch for the legend.
    ax.set_ylim(low, high * (high / low) ** 0.45)
  figure.suptitle("Best batch size of each seed, at fixed rates")
  return figure


def _spread(values: Sequence[float]) -> str:
  """By what factor positive numbers differ: exp of the sd of their logs."""
  return f"spread by a factor of {np.exp(np.log(values).std(ddof=1)):.2g}"


def _draw_collapse(
  table: pd.DataFrame, batches: Sequence[int]
) -> plotting.Figure:
  """Accuracy below the curve's best, against batch and against noise scale.

  Of the curves of equal updates, those with momentum among them. The titles
  say how far apart the curves' best batches are, and the noise scales there:
  at a perfect collapse the second is a factor of 1.
  """
  figure, axes = plotting.panels(1, 2, (13, 6.4))
  left, right = axes[0]
  best, noise = [], []
  wanted = [c for c in curves_of(table) if c.budget_unit == "updates"]
  for i, curve in enumerate(wanted):
    sizes, accuracy = by_batch(table, curve)
    below = ACCURACY.scale * (accuracy - accuracy.mean(axis=0).max())
    name = str(curve).partition(", ")[2]
    plotting.bands(left, sizes, below, name, index=i)
    plotting.bands(right, curve.noise_scale(sizes), below, name, index=i)
    best.append(stats.geometric_mean(best_batches(table, curve).at)[0])
    noise.append(curve.noise_scale(best[-1]))
  plotting.log_axis(left, "x", batches)
  plotting.log_axis(right, "x")
  left.set(title=f"best batches {_spread(best)}", xlabel="batch size")
  right.set_title(f"noise scales there {_spread(noise)}")
  right.set_xlabel("noise scale ε / (1 − m) · (N / B − 1)")
  below_best = "accuracy less the curve's best (points)"
  for ax in (left, right):
    ax.set(ylim=(-6, 0.6), ylabel=below_best)
  handles = left.get_legend_handles_labels()
  figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=9)
  figure.suptitle(
    "Do curves fall together at equal noise scale? Equal updates, mean and "
    "95 % band"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  table = measured["table"]
  return {
    "accuracy": _draw_accuracy(table, values.batches),
    "best_batch": _draw_best(table, values.batches),
    "noise_scale": _draw_collapse(table, values.batches),
  }


STUDY = study.Study(
  "best_batch", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
