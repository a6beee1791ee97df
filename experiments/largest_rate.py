"""B3: has the learning rate an upper limit, and is it 1.0?

  python -m experiments.largest_rate --preset=full

Claim (12.4): the rate has an upper limit; it cannot exceed 1.0.
Limit: at each of --batch_sizes, --updates updates from scratch at rates from
0.5 to 32 by factors of sqrt 2. Stable is a run that ends finite with a
development loss below ln 10; the largest stable rate of a seed is the largest
such that it and all below it are stable. By code the rates go on above 32
while a seed is stable there, and below 0.5 while one is not (to 2^-10 and 2^8);
a seed with no stable rate counts as a step below the lowest.
Above 1.0: at batch 128 --epochs epochs at 0.5 and at 1.5; a run that has
diverged counts as an accuracy of 0.1.
Parts:
  limit at batch B  the log of the largest stable rate is below 0
  1.5 fails         accuracy at rate 1.5 after the last epoch is below 0.95; its
                    note says how many seeds reach 0.95
  1.5 is worse      than 0.5, paired, by development accuracy, margin 0.1 point
Beside them, not judged: 2 / (largest eigenvalue of the loss Hessian), the rate
above which full-batch descent on a quadratic is unstable (Cohen et al. 2021),
on the first --examples training examples, by Lanczos to a residual of 0.1 %;
at the start and along training at rates 0.2 and 1.0, batch 128, same seeds.
Seeds: from 0, the same everywhere. Nothing is tuned.
Test: Student's t over seeds, Holm over all parts, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds) about 5 minutes.
"""

import functools
import math

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import progress, study
from experiments._shared.metric import ACCURACY
from mnist_jax import data, plotting, stats, sweep, training
from mnist_jax.analysis import curvature
from mnist_jax.stats import grid_minimum, verdicts
from mnist_jax.sweep import figures, rate_search, tables

FIRST, LAST = 0.5, 32.0
LIMIT = 1.0  # the claim's
BATCH, ABOVE, BELOW = 128, 1.5, 0.5
EARLY_POINTS = (0.25, 0.5)  # of the first epoch, for the figure
REACHED, LOST_ACCURACY = 0.95, 0.1
SHARP_RATES = (0.2, 1.0)
SHARP_EPOCHS = (0, 1, 2, 5)  # those within --epochs
TOLERANCE = 1e-3

OPTIONS = (
  study.Option(
    "batch_sizes", (16, 256), (16, 64, 256, 1024), "of the limit", rises=2
  ),
  study.Option("updates", 50, 200, "of each run of the limit"),
  study.Option("epochs", 2, 5, "at rates 0.5 and 1.5"),
  study.Option("seeds", 2, 30, "seeds of all"),
  study.Option("examples", 1000, 5000, "of the Hessian"),
)


def more_rates(table: pd.DataFrame, batch_size: int) -> list[int]:
  """The places beyond the ends where a seed's limit may still be."""
  rates, _, lost = rate_search.column(table, batch_size)
  largest = grid_minimum.largest_stable(rates, ~lost)
  below, above = np.isnan(largest).any(), (largest == rates[-1]).any()
  places = (
    (rate_search.place(rates[0]) - 1, below),
    (rate_search.place(rates[-1]) + 1, above),
  )
  low, high = rate_search.LOWEST, rate_search.HIGHEST
  return [p for p, wanted in places if wanted and low <= p <= high]


def _sharpness(
  dataset: data.Dataset, seed: int, values: study.Values
) -> list[dict[str, float]]:
  """Of a seed's weights, at both rates, at each epoch."""
  config = training.TrainConfig(batch_size=BATCH)
  some = data.Split(*(x[: values.examples] for x in dataset.train))
  epochs = tuple(e for e in SHARP_EPOCHS if e <= values.epochs)
  rows = []
  for rate in SHARP_RATES:
    run = training.params_at(config, rate, dataset.train, seed, epochs)
    for epoch, params in run:
      row = {"seed": seed, "learning_rate": rate, "epoch": float(epoch)}
      key = jax.random.key(seed)
      found = curvature.network_sharpness(
        config.activations, params, some, key, tolerance=TOLERANCE
      )
      row |= {"sharpness": float(found.value), "steps": int(found.steps)}
      rows.append(row | {"residual": float(found.residual)})
  return rows


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  first, last = map(rate_search.place, (FIRST, LAST))
  table = rate_search.extended(
    functools.partial(lab.sweep, budget=sweep.Budget(updates=values.updates)),
    dict.fromkeys(values.batch_sizes, range(first, last + 1)),
    range(values.seeds),
    more_rates,
  )
  above = lab.sweep(
    sweep.product(
      batch_size=BATCH, learning_rate=[BELOW, ABOVE], seed=range(values.seeds)
    ),
    sweep.Budget(
      epochs=values.epochs, evaluate_every=1, evaluate_at=EARLY_POINTS
    ),
  )
  dataset = training.to_device(lab.dataset)
  rows = [
    row
    for seed in progress.each(range(values.seeds), "curvature")
    for row in _sharpness(dataset, seed, values)
  ]
  return {"table": table, "above": above, "sharpness": pd.DataFrame(rows)}


def largest(
  table: pd.DataFrame, batch_size: int
) -> tuple[Float[np.ndarray, " S"], int]:
  """Each seed's largest stable rate, and how many had none."""
  rates, _, lost = rate_search.column(table, batch_size)
  found = grid_minimum.largest_stable(rates, ~lost)
  none = np.isnan(found)
  below = rate_search.rate(rate_search.place(rates[0]) - 1)
  return np.where(none, below, found), int(none.sum())


def _accuracies(above: pd.DataFrame) -> tables.Curves:
  """At rates 0.5 and 1.5, as counted."""
  broken = tables.lost(above) & (above["step"] > 0)
  counted = above["dev_accuracy"].where(~broken, LOST_ACCURACY)
  return tables.curves(
    above.assign(accuracy=counted), "learning_rate", "accuracy"
  )


def _limit_question(table: pd.DataFrame, size: int) -> verdicts.Question:
  found, none = largest(table, size)
  effect = stats.mean_interval(np.log(found), seed=0)
  mean, low, high = stats.as_ratio(effect)
  note = f"largest stable rate {mean:.3g} ({low:.3g} to {high:.3g})"
  return verdicts.Question(
    "B3",
    f"limit at batch {size}",
    f"at batch {size} the largest stable rate is below {LIMIT:g} (its log)",
    effect,
    "less",
    target=math.log(LIMIT),
    note=note + (f"; {none} seeds had none" if none else ""),
  )


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  questions = [
    _limit_question(measured["table"], size) for size in values.batch_sizes
  ]
  curves = _accuracies(measured["above"])
  above, below = (curves.arm(rate)[:, -1] for rate in (ABOVE, BELOW))
  count = int((above >= REACHED).sum())
  reached = stats.wilson_interval(count, len(above))
  ask = functools.partial(verdicts.Question, "B3")
  share = f"{reached.low:.0%} to {reached.high:.0%}"
  questions += [
    ask(
      f"{ABOVE:g} fails",
      f"at batch {BATCH} rate {ABOVE:g} ends with an accuracy below {REACHED}",
      stats.mean_interval(above, seed=0),
      "less",
      target=REACHED,
      note=f"{count} of {reached.n} seeds reach it, {share}",
    ),
    ask(
      f"{ABOVE:g} is worse",
      f"at batch {BATCH} rate {ABOVE:g} ends with a lower accuracy than "
      f"{BELOW:g}",
      stats.mean_interval(above - below, seed=0),
      "less",
      margin=ACCURACY.margin,
    ),
  ]
  return verdicts.judge(questions)


def _bounds(sharpness: pd.DataFrame) -> tables.Curves:
  """2 / sharpness by rate, seed and epoch."""
  bound = sharpness.assign(bound=2 / sharpness["sharpness"])
  return tables.curves(bound, "learning_rate", "bound")


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Largest stable rates by batch, and 2 / sharpness by rate and epoch."""
  rows = []
  for size in values.batch_sizes:
    found, none = largest(measured["table"], size)
    rows.append(
      {"what": "largest stable rate", "batch_size": size, "none": none}
      | _row(found)
    )
  curves = _bounds(measured["sharpness"])
  for rate in curves.arms:
    for epoch, bounds in zip(curves.points, curves.arm(rate).T, strict=True):
      place = {"batch_size": BATCH, "learning_rate": rate, "epoch": epoch}
      rows.append({"what": "2 / sharpness"} | place | _row(bounds))
  return pd.DataFrame(rows)


def _row(rates: Float[np.ndarray, " S"]) -> dict[str, float]:
  good = rates[np.isfinite(rates)]
  mean, low, high = stats.geometric_mean(good)
  spread = {"least": good.min(), "most": good.max(), "seeds": len(good)}
  return {"mean": mean, "low": low, "high": high} | spread


def _draw_limits(
  ax: plotting.Axes, measured: study.Tables, values: study.Values
) -> None:
  sizes = np.array(values.batch_sizes, np.float64)
  ends = sizes[[0, -1]] * np.array([0.7, 1.4])
  curves = _bounds(measured["sharpness"])
  last = f"after epoch {curves.points[-1]:g}"
  shown = {"at the start": curves.values[0, :, 0]} | {
    f"{last} at {rate:g}": curves.arm(rate)[:, -1] for rate in curves.arms
  }
  for i, (when, bounds) in enumerate(shown.items(), 1):
    both = np.stack([bounds, bounds], axis=1)
    line = plotting.bands(ax, ends, both, f"2 / λ {when}", index=i)
    line.set_marker("")
  found = [largest(measured["table"], size)[0] for size in values.batch_sizes]
  rates = np.stack(found, axis=1)
  figures.draw_seeds(ax, sizes, rates, octaves=0.2)
  means = figures.geometric_means(rates)
  plotting.error_bars(
    ax, sizes, *means, capsize=4, label="largest stable rate, 95 %"
  )
  ax.axhline(LIMIT, color="black", linewidth=1, label="the claim's limit, 1.0")
  plotting.log_axis(ax, "x", values.batch_sizes)
  plotting.log_axis(ax, "y")
  ax.set(xlabel="batch size", ylabel="learning rate")
  ax.legend(fontsize=8)


def _draw_by_rate(
  loss: plotting.Axes,
  share: plotting.Axes,
  table: pd.DataFrame,
  values: study.Values,
) -> None:
  least = math.inf
  for i, size in enumerate(values.batch_sizes):
    rates, losses, lost = rate_search.column(table, size)
    least = min(least, losses.min())
    name = f"batch {size}"
    plotting.bands(loss, rates, losses, name, index=i)
    share.plot(rates, 100 * lost.mean(axis=0), label=name, **plotting.series(i))
  loss.axhline(
    tables.GUESSING, color="black", linestyle=":", label="guessing, ln 10"
  )
  plotting.log_axis(loss, "y")
  loss.set_ylim(bottom=least / 2)
  figures.metric_axis(loss, "dev_loss")
  share.set_ylabel("diverged (% of seeds)")
  for ax in (loss, share):
    plotting.log_axis(ax, "x")
    ax.axvline(LIMIT, color="black", linewidth=1)
    ax.set_xlabel(f"learning rate, {values.updates} updates")
    ax.legend(fontsize=8)


def _draw_curvature(ax: plotting.Axes, sharpness: pd.DataFrame) -> None:
  curves = _bounds(sharpness)
  for i, rate in enumerate(curves.arms):
    line = plotting.bands(
      ax, curves.points, curves.arm(rate), f"2 / λ at rate {rate:g}", index=i
    )
    look = {"color": line.get_color(), "linestyle": line.get_linestyle()}
    ax.axhline(rate, linewidth=1, label=f"the rate, {rate:g}", **look)
  plotting.log_axis(ax, "y")
  plotting.integer_ticks(ax.xaxis)
  ylabel = "2 / λ, λ the largest curvature"
  ax.set(xlabel=f"epoch, at batch {BATCH}", ylabel=ylabel)
  ax.legend(fontsize=8)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  limits, axes = plotting.panels(2, 2, (12, 9))
  _draw_limits(axes[0, 0], measured, values)
  _draw_by_rate(axes[0, 1], axes[1, 1], measured["table"], values)
  _draw_curvature(axes[1, 0], measured["sharpness"])
  above, panels = plotting.panels(1, 2, (11, 4.4))
  for ax, metric in zip(panels[0], ("dev_accuracy", "dev_loss"), strict=True):
    curves = tables.curves(measured["above"], "learning_rate", metric)
    figures.draw_curves(
      ax, curves, metric, "rate {:g}".format, since=EARLY_POINTS[0]
    )
  n = values.seeds
  panels[0, 0].axhline(REACHED, color="black", linestyle=":")
  limits.suptitle(f"The largest stable learning rate, {n} seeds")
  above.suptitle(
    f"Below and above rate 1.0 at batch {BATCH}, {n} seeds, mean and 95 % band"
  )
  return {"largest_rate": limits, "above_one": above}


STUDY = study.Study("largest_rate", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
