"""B1, B2: which learning rate does each batch size want?

  python -m experiments.lr_batch_size --preset=full

B1 (12.4): small batches want small rates: of .1 .3 .5 .7, 0.5 is best at batch
32 and 0.1 at 16. B2: the best rate grows linearly with the batch, then like
its square root, then not at all.
Budgets: equal epochs and equal updates, each with a map of rate x batch:
  coarse  --rates at each batch, seeds from 1000. By code, a column goes on by
          a factor of 2 until its best rate (least mean log loss) is inside and
          at its top rate half the runs have diverged (within 2^-10 to 2^8).
  fresh   5 rates by factors of sqrt 2 around it, seeds from 0; by code, up to
          3 more at an end while the best of the mean, or of more than a fifth
          of the seeds, is there.
Metric: development loss at the end. A run that ends not finite or above ln 10
has diverged; it counts as a loss of ln 10, or of its own if that is more.
Best rate of a seed, on the fresh grid: vertex of the parabola through log loss
over log rate at its least and the two neighbours; at an end the end itself,
counted as censored (in the notes and in summary.csv).
Parts in each budget, on slopes of log best rate over log batch, per seed:
  B1 32 above 16   log of the ratio of best rates above 0, margin log 1.1
  B1 slope         from 8 to 128 above 0, margin 0.1
  B2 linear, square root, none: slope 1 from 8 to 64, 1/2 from 64 to 512, 0 from
                   512 to 4096 (equal thirds of the map), margin 0.15
  B2 bends         the first of these is above the last, margin 0.15; its note
                   says which BIC prefers: one line, one break or two
Parts on the chapter's panels, B1 batch 32 and 16: --panel_epochs epochs of its
four rates; at the end the accuracy of 0.5 (at 16: of 0.1) is above each
other's, paired, margin 0.1 point.
Test: Student's t over seeds, Holm over all parts, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds, 3 coarse) about 25 minutes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, Metric, interval_columns
from mnist_jax import plotting, stats, sweep
from mnist_jax.plotting.axes import outlined
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes, verdicts
from mnist_jax.sweep import figures, rate_search, tables

ANCHOR = 128  # the lines of slope 1 and 1/2 go through its best rate
BUDGETS = {"epochs": "equal epochs", "updates": "equal updates"}
THIRDS = {"linear": (8, 64), "square root": (64, 512), "none": (512, 4096)}
EXPONENTS = (1.0, 0.5, 0.0)  # of each third
SMALL = (8, 128)  # where B1 looks for a slope
PANELS = {32: 0.5, 16: 0.1}  # the chapter's best rate of each
PANEL_RATES = (0.1, 0.3, 0.5, 0.7)
PANEL_POINTS = (0.1, 0.25, 0.5)  # evaluated within the first epoch
MARGINS = {"slope": 0.15, "small": 0.1, "ratio": math.log(1.1)}
_POINTS = 15  # of accuracy that the map's colours span

OPTIONS = (
  study.Option(
    "batch_sizes",
    (16, 32, 128, 512, 1024),
    tuple(2**k for k in range(3, 13)),
    "of the map",
  ),
  study.Option(
    "rates",
    (0.25, 0.5, 1.0, 2.0, 4.0),
    tuple(2.0**k for k in range(-5, 4)),
    "coarse",
  ),
  study.Option("epochs", 0.2, 2.0, "of each run, equal epochs"),
  study.Option("updates", 40, 300, "of each run, equal updates"),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("tuning_seeds", 2, 3, "seeds of the coarse map"),
  study.Option("panel_epochs", 1, 5, "of the chapter's panels"),
)


def _between(values: study.Values, ends: tuple[int, int]) -> list[int]:
  return [size for size in values.batch_sizes if ends[0] <= size <= ends[1]]


def check(values: study.Values) -> None:
  sizes = list(values.batch_sizes)
  shown = ",".join(map(str, sizes))
  few = [name for name, e in THIRDS.items() if len(_between(values, e)) < 2]
  if sizes != sorted(set(sizes)) or len(sizes) < 5 or few:
    raise InputError(
      f"--batch_sizes={shown}: expected at least five, rising, two or more of "
      "them in each of 8-64, 64-512 and 512-4096"
    )
  missing = {*PANELS, ANCHOR} - set(sizes)
  if missing:
    raise InputError(
      f"--batch_sizes={shown}: expected {min(missing)} among them"
    )
  powers = [math.log2(rate) if rate > 0 else math.nan for rate in values.rates]
  whole = all(power.is_integer() for power in powers)
  if len(powers) < 3 or not whole or not (np.diff(powers) == 1).all():
    raise InputError(
      f"--rates={','.join(map(str, values.rates))}: expected at least three "
      "powers of 2, each twice the one before"
    )


class Ridge(NamedTuple):
  """The best rates of S seeds at K batch sizes.

  Attributes:
    sizes: [K] rising, ANCHOR among them.
    rates: [S, K].
    fit: of them, all numbers of breaks.
  """

  sizes: Int[np.ndarray, " K"]
  rates: Float[np.ndarray, "S K"]
  fit: slopes.PiecewiseFit

  @property
  def best_fit(self) -> slopes.Segments:
    """The one of the lowest BIC."""
    return self.fit.fit(self.fit.best)


def fitted(ridge: Ridge, x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """The best fit's line at x, at the level of the mean log rates.

  Args:
    x: batch sizes, within those of the ridge.
  """
  fit = ridge.best_fit
  places = [place.estimate for place in fit.breakpoints]
  knots = np.log([ridge.sizes[0], *places, ridge.sizes[-1]])
  rises = np.diff(knots) * [slope.estimate for slope in fit.slopes]
  line = np.append(0.0, np.cumsum(rises))
  middle = np.interp(np.log(ridge.sizes), knots, line).mean()
  level = np.log(ridge.rates).mean() - middle
  return np.exp(level + np.interp(np.log(x), knots, line))


def fit_text(ridge: Ridge) -> str:
  """The slopes of the best fit and where it bends, in words."""
  fit = ridge.best_fit
  # + 0.0, or a small slope may be called -0.00.
  rounded = [round(slope.estimate, 2) + 0.0 for slope in fit.slopes]
  exponents = ", ".join(f"{slope:.2f}" for slope in rounded)
  places = ", ".join(f"{place.estimate:.0f}" for place in fit.breakpoints)
  bends = f", bends at {places}" if places else ""
  return f"fit ({fit.name}): slope {exponents}{bends}"


def _map(lab: study.Lab, kind: str, values: study.Values) -> pd.DataFrame:
  budget = sweep.Budget(**{kind: getattr(values, kind)})
  return rate_search.search(
    lambda cells: lab.sweep(cells, budget),
    values.batch_sizes,
    values.rates,
    tuning_seeds=study.tuning_seeds(values.tuning_seeds),
    seeds=range(values.seeds),
  ).assign(kind=kind)


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  maps = [_map(lab, kind, values) for kind in BUDGETS]
  panels = lab.sweep(
    sweep.product(
      batch_size=list(PANELS),
      learning_rate=PANEL_RATES,
      seed=range(values.seeds),
    ),
    sweep.Budget(
      epochs=values.panel_epochs, evaluate_every=1, evaluate_at=PANEL_POINTS
    ),
  )
  return {"table": pd.concat(maps, ignore_index=True), "panels": panels}


def _stage(table: pd.DataFrame, kind: str, stage: str) -> pd.DataFrame:
  return table[(table["kind"] == kind) & (table["stage"] == stage)]


def _ridge(
  table: pd.DataFrame, kind: str, values: study.Values
) -> tuple[Ridge, Int[np.ndarray, "S K"]]:
  """The best rates of a budget, and which of them are censored."""
  fresh = _stage(table, kind, "fresh")
  rates, edge = rate_search.best_rates(fresh, values.batch_sizes)
  sizes = np.array(values.batch_sizes)
  fit = slopes.piecewise_slopes(sizes, rates, seed=0)
  return Ridge(sizes, rates, fit), edge


def _slopes(found: Ridge, ends: tuple[int, int]) -> Float[np.ndarray, " S"]:
  """Each seed's exponent between two batch sizes, both included."""
  chosen = (found.sizes >= ends[0]) & (found.sizes <= ends[1])
  return slopes.seed_slopes(found.sizes[chosen], found.rates[:, chosen])


def _map_questions(
  table: pd.DataFrame, kind: str, values: study.Values
) -> list[verdicts.Question]:
  found, edge = _ridge(table, kind, values)
  small, big = (found.sizes.tolist().index(size) for size in (16, 32))
  ratio = np.log(found.rates[:, big] / found.rates[:, small])
  thirds = [_slopes(found, ends) for ends in THIRDS.values()]
  censored = f"{np.count_nonzero(edge)} of {edge.size} censored"
  fit, margin = found.fit, MARGINS["slope"]

  def ask(
    claim: str, name: str, text: str, x: Float[np.ndarray, " S"], **how: Any
  ) -> verdicts.Question:
    how = {"note": censored} | how
    effect = stats.mean_interval(x, seed=0)
    full = f"{name}, {BUDGETS[kind]}"
    return verdicts.Question(claim, full, text, effect, **how)

  questions = [
    ask(
      "B1",
      "32 above 16",
      "the best rate is higher at batch 32 than at 16 (log of the ratio)",
      ratio,
      margin=MARGINS["ratio"],
    ),
    ask(
      "B1",
      "slope",
      f"the best rate rises from batch {SMALL[0]} to {SMALL[1]} (slope)",
      _slopes(found, SMALL),
      margin=MARGINS["small"],
    ),
  ]
  for (name, ends), p, x in zip(THIRDS.items(), EXPONENTS, thirds, strict=True):
    text = f"best rate ~ batch^{p:g} from {ends[0]} to {ends[1]}"
    same = {"kind": "same", "target": p, "margin": margin}
    questions.append(ask("B2", name, text, x, **same))
  text = "the slope falls from the first third of the map to the last"
  bic = f"BIC prefers {fit.best}, by {fit.bic_difference:.3g}; {censored}"
  fall = thirds[0] - thirds[-1]
  bends = ask("B2", "bends", text, fall, margin=margin, note=bic)
  return [*questions, bends]


def _panel_questions(panels: pd.DataFrame) -> list[verdicts.Question]:
  questions = []
  for size, best in PANELS.items():
    own = panels[panels["batch_size"] == size]
    curves = tables.curves(own, "learning_rate", "dev_accuracy")
    ends = {rate: curves.arm(rate)[:, -1] for rate in curves.arms}
    questions += [
      verdicts.Question(
        "B1",
        f"batch {size}: {best:g} above {rate:g}",
        f"at batch {size} rate {best:g} ends with a higher accuracy than "
        f"{rate:g}",
        stats.mean_interval(ends[best] - ends[rate], seed=0),
        margin=ACCURACY.margin,
      )
      for rate in PANEL_RATES
      if rate != best
    ]
  return questions


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  questions = _panel_questions(measured["panels"])
  for kind in BUDGETS:
    questions += _map_questions(measured["table"], kind, values)
  return verdicts.judge(questions)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By budget and batch: best rate, censored seeds, divergence, the fit."""
  rows = []
  for kind in BUDGETS:
    found, edge = _ridge(measured["table"], kind, values)
    stages = [
      _stage(measured["table"], kind, stage) for stage in ("coarse", "fresh")
    ]
    for i, size in enumerate(values.batch_sizes):
      coarse, near = (rate_search.column(stage, size) for stage in stages)
      broken = coarse.rates[coarse.lost.mean(axis=0) >= 0.5]
      of_size = stages[1][stages[1]["batch_size"] == size]
      own = of_size[of_size["learning_rate"] == near.best]
      best = stats.geometric_mean(found.rates[:, i])
      rows.append(
        {
          "budget": BUDGETS[kind],
          "batch_size": size,
          "seeds": len(edge),
          "coarse_best": coarse.best,
          "diverges_from": broken.min() if len(broken) else math.nan,
          **interval_columns("best_rate", best),
          "sd_of_log2": np.log2(found.rates[:, i]).std(ddof=1),
          "censored_low": int((edge[:, i] < 0).sum()),
          "censored_high": int((edge[:, i] > 0).sum()),
          "fresh_diverged": int(near.lost.sum()),
          "fresh_best": near.best,
          "dev_loss": own["dev_loss"].mean(),
          "dev_accuracy": own["dev_accuracy"].mean(),
          "bic_best": found.fit.best,
          "bic_difference": found.fit.bic_difference,
          "fit": fit_text(found),
        }
      )
  return pd.DataFrame(rows)


def _draw_best(
  ax: plotting.Axes, ridge: Ridge, looks: Sequence[dict[str, Any]], name: str
) -> None:
  """The mean best rates, their fit and the two scaling rules."""
  means, low, high = figures.geometric_means(ridge.rates)
  x = np.geomspace(ridge.sizes[0], ridge.sizes[-1], 200)
  ratio = x / ANCHOR
  anchor = means[ridge.sizes == ANCHOR]
  lines = {
    fit_text(ridge): fitted(ridge, x),
    f"linear, through batch {ANCHOR}": anchor * ratio,
    f"square root, through batch {ANCHOR}": anchor * np.sqrt(ratio),
  }
  for (label, y), line in zip(lines.items(), looks, strict=True):
    ax.plot(x, y, label=label, **line)
  ax.vlines(ridge.sizes, low, high, zorder=5, **outlined())
  look: dict[str, Any] = {"color": "white", "markeredgecolor": "black"}
  ax.plot(ridge.sizes, means, "o", zorder=6, label=name, **look)
  ax.set_xlabel("batch size")


def _heat_map(ax: plotting.Axes, table: pd.DataFrame, metric: Metric) -> None:
  """A metric by rate and batch size, mean over seeds.

  Cells where at least half the runs are lost are hatched; grey ones were not
  run.

  Args:
    table: last rows, of a `rate_search` grid.
    metric: accuracy is shown in percent down to 15 points below the best cell,
      loss as the counted losses' geometric mean.
  """
  if metric.is_accuracy:
    value = metric.scale * table[metric.column]
  else:
    value = np.log(tables.counted_loss(table))
  both = table.assign(value=value, lost=tables.lost(table)).pivot_table(
    index="learning_rate", columns="batch_size", values=["value", "lost"]
  )
  means = both["value"].to_numpy(np.float64)
  lost = both["lost"].to_numpy(np.float64) >= 0.5
  best = float(np.nanmax(np.where(lost, np.nan, means)))
  plotting.heat_map(
    ax,
    both["value"].columns.to_numpy(),
    both.index.to_numpy(),
    means if metric.is_accuracy else np.exp(means),
    f"development {'accuracy (%)' if metric.is_accuracy else 'loss (nats)'}",
    lost=lost,
    low_is_good=not metric.is_accuracy,
    limits=(best - _POINTS, best) if metric.is_accuracy else None,
  )


def _draw_map(
  measured: study.Tables, kind: str, values: study.Values
) -> plotting.Figure:
  """Heat maps of both metrics; over them best rates, their fit, the rules."""
  found, _ = _ridge(measured["table"], kind, values)
  coarse = _stage(measured["table"], kind, "coarse")
  figure, axes = plotting.panels(1, 2, (14, 6))
  looks = [
    outlined(),
    outlined("#E69F00") | {"linestyle": "--"},
    outlined("#56B4E9") | {"linestyle": ":"},
  ]
  for ax, metric in zip(axes[0], BOTH, strict=True):
    _heat_map(ax, coarse, metric)
    _draw_best(ax, found, looks, "best rate (mean, 95 %)")
    ax.set_ylabel("learning rate")
  length = f"{getattr(values, kind):g} {kind}"
  figure.legend(
    *axes[0, 0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=5,
    fontsize=9,
  )
  figure.suptitle(
    f"Rate and batch, {BUDGETS[kind]} ({length}): map of "
    f"{values.tuning_seeds} seeds, best rates of {values.seeds} others"
  )
  return figure


def _draw_ridges(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """The best rates of each seed, their means, their fit and the two rules."""
  figure, axes = plotting.panels(1, 2, (12, 5))
  looks = [plotting.series(i) | {"marker": None} for i in range(3)]
  for ax, kind in zip(axes[0], BUDGETS, strict=True):
    found, edge = _ridge(measured["table"], kind, values)
    figures.draw_seeds(ax, found.sizes, found.rates, octaves=0.24)
    _draw_best(ax, found, looks, "geometric mean, 95 %")
    plotting.log_axis(ax, "x", found.sizes.tolist())
    plotting.log_axis(ax, "y")
    ax.set_ylim(found.rates.min() / 2, found.rates.max() * 2)
    ax.set_ylabel("best learning rate")
    ax.set_title(
      f"{BUDGETS[kind]}: {getattr(values, kind):g} {kind}; "
      f"{np.count_nonzero(edge)} of {edge.size} censored"
    )
    ax.legend(fontsize=8)
  figure.suptitle(f"Best rate of each batch size, {values.seeds} seeds")
  return figure


def _draw_panels(panels: pd.DataFrame, values: study.Values) -> plotting.Figure:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  for row, size in zip(axes, sorted(PANELS), strict=True):
    own = panels[panels["batch_size"] == size]
    for ax, metric in zip(row, ("dev_accuracy", "dev_loss"), strict=True):
      curves = tables.curves(own, "learning_rate", metric)
      figures.draw_curves(
        ax, curves, metric, "rate {:g}".format, since=PANEL_POINTS[0]
      )
      ax.set_title(f"batch {size}; the chapter's best: {PANELS[size]:g}")
  figure.suptitle(
    f"The chapter's rates at batches 16 and 32, {values.seeds} seeds, mean "
    "and 95 % band"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    **{f"map_{kind}": _draw_map(measured, kind, values) for kind in BUDGETS},
    "ridge": _draw_ridges(measured, values),
    "panels": _draw_panels(measured["panels"], values),
  }


STUDY = study.Study(
  "lr_batch_size", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
