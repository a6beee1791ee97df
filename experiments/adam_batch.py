"""H5: how does Adam's best rate go with the batch, and how should beta2?

  python -m experiments.adam_batch --preset=full

No sentence of the chapter; its linear scaling is of SGD. For small batches the
best rate should grow like the batch for SGD and like its root for Adam, until
Adam's falls beyond a peak (Li et al. 2024, arXiv 2405.14578). Marek et al.
(2025, arXiv 2507.07101) found it to grow slower than the root in language
models, and keep beta2's half-life the same in examples, beta2^(C / B) from
batch B to C; with a fixed short one small batches did worse.
Arms: SGD, momentum (0.9), and Adam (beta1 0.9) with beta2 of
  default    0.999
  half-life  0.999^(B / 16), so 0.938 at 1024
  short      0.938, where larger batches would have put it
Batches --batches, whole ones only; constant rates; --epochs epochs (few, for
cost), so that larger batches make fewer updates. Rates: by factors of 2, three
to begin with, and on while over 5 % of the resamples are best at an end (by 4
factors at most). Best rate: vertex of the parabola through the mean log
development loss; a lost run counts as guessing, ln 10, or its loss if more.
Seeds are resampled, the same for all arms and batches. Nothing is judged where
over 10 % of the resamples are best at an end. Exponents: of best rate on batch.
Primary (all), the first sizes of --batches, margin 0.15:
  root    default: the exponent over the first two is 1/2
  slower  over the first three SGD's is larger than that of default
Secondary: over the first two SGD's is 1; over the first three momentum's is
  SGD's (both margin 0.15); falls: that of default over the last two is below 0
  (any size). In loss, at each arm's best rate, chosen on seeds from 1000 (the
  interval resamples these too and chooses anew): at the smallest batch
  half-life ends below short by more than 0.005 nats; with half-life the
  smallest batch ends at most 0.005 nats above the second.
Diagnostic: the latter with short; at the largest batch half-life and default
  end within 0.005 nats.
Test: Student's t on the bootstrap's standard error, 95 % intervals; Holm over
the secondary parts. Test set beside.
Cost on two cores: full (30 seeds, 5 that tune) an estimated 15 minutes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import rate_search, study
from experiments._shared.metric import LOSS, interval_columns
from mnist_jax import plotting, stats, sweep
from mnist_jax.stats import effects, grid_minimum, slopes

BETA2 = 0.999  # optax's default
KEPT_FROM, SHORT_FROM = 16, 1024  # batches whose beta2 default and short have
MARGIN = 0.15  # of an exponent
MOST = 4  # factors of 2 by which a grid goes on to one side


class Arm(NamedTuple):
  """An optimizer and how it goes with the batch."""

  optimizer: str
  guess: float  # the rate of batch 64 at which grids begin
  beta2: Callable[[int], float] | None = None  # of a batch size

  def settings(self, size: int) -> dict[str, str]:
    """The fields of `Settings` that name it."""
    if self.beta2 is None:
      return {"optimizer": self.optimizer}
    given = f"b2={self.beta2(size):.6g}"
    return {"optimizer": self.optimizer, "optimizer_args": given}

  def begin(self, size: int) -> int:
    """The middle place of the first grid: it goes like the batch's root."""
    return 2 * round(math.log2(self.guess) + math.log2(size / 64) / 2)


def half_life(size: int) -> float:
  """The beta2 that forgets as much in as many examples, of any batch size."""
  return BETA2 ** (size / KEPT_FROM)


SGD, MOMENTUM = "SGD", "momentum"
DEFAULT, HALF_LIFE, SHORT = "Adam, default", "Adam, half-life", "Adam, short"
ARMS = {
  SGD: Arm("sgd", 0.5),
  MOMENTUM: Arm("momentum", 0.0625),
  DEFAULT: Arm("adam", 2**-8, lambda _: BETA2),
  HALF_LIFE: Arm("adam", 2**-8, half_life),
  SHORT: Arm("adam", 2**-8, lambda _: half_life(SHORT_FROM)),
}

OPTIONS = (
  study.Option(
    "batches", (16, 64, 1024), (16, 64, 256, 1024, 4096), "n", rises=3
  ),
  study.Option("epochs", 1, 2, "of each run"),
  study.Option("seeds", 2, 30, "judged seeds"),
  study.Option("tuning_seeds", 1, 5, "seeds that choose a rate"),
)


def _column(
  table: pd.DataFrame,
  arm: str,
  size: int,
  metric: str = "dev_loss",
  *,
  tuned: bool = False,
) -> rate_search.Column:
  """The judged runs of an arm and a batch, or those that choose its rate."""
  own = table[table["arm"] == arm]
  own = own[(own["seed"] >= study.TUNING_SEED) == tuned]
  return rate_search.column(own, size, metric)


def more(table: pd.DataFrame, size: int, arm: str) -> list[int]:
  """The places beyond ends at which the best rate is too often."""
  rates, losses, _ = _column(table, arm, size)
  best = stats.mean_minima([rates], [losses], seed=0)
  farthest = 2 * (1 + MOST)
  found = []
  for end, away in ((rates[0], -2), (rates[-1], 2)):
    at_end = max(best.at[0] == end, (best.draws[:, 0] == end).mean())
    beyond = rate_search.place(end) + away
    near = abs(beyond - ARMS[arm].begin(size)) <= farthest
    if at_end > rate_search.AT_END and near:
      found.append(beyond)
  return found


def _run(
  cells: list[sweep.Settings], lab: study.Lab, arm: str, values: study.Values
) -> pd.DataFrame:
  """The runs of all seeds at these batches and rates."""
  seeds = [*range(values.seeds), *study.tuning_seeds(values.tuning_seeds)]
  every = [
    run
    for cell in cells
    for run in sweep.product(
      cell,
      seed=seeds,
      drop_last=True,
      **ARMS[arm].settings(cell.batch_size),
    )
  ]
  budget = sweep.Budget(epochs=values.epochs, final_splits=("test",))
  return lab.sweep({arm: every}, budget)


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  found = []
  for name, arm in ARMS.items():
    begin = {size: arm.begin(size) for size in values.batches}
    found.append(
      rate_search.extended(
        functools.partial(_run, lab=lab, arm=name, values=values),
        {size: (at - 2, at, at + 2) for size, at in begin.items()},
        range(1),  # one cell a place, of which `_run` makes all seeds'
        functools.partial(more, arm=name),
      )
    )
  return pd.concat(found, ignore_index=True)


Best = dict[str, grid_minimum.MeanMinima]


def best_rates(
  table: pd.DataFrame, values: study.Values, metric: str = "dev_loss"
) -> Best:
  """Of each arm, by batch; the resamples are the same for all."""
  found = {}
  for arm in ARMS:
    own = [_column(table, arm, size, metric) for size in values.batches]
    found[arm] = stats.mean_minima(
      [each.rates for each in own], [each.losses for each in own], seed=0
    )
  return found


def _exponents(
  best: grid_minimum.MeanMinima, values: study.Values, where: slice
) -> Float[np.ndarray, " R"]:
  """Of some of the batches: by all seeds first, then the resampled."""
  rates = np.vstack([best.at, best.draws])[:, where]
  return slopes.seed_slopes(np.array(values.batches)[where], rates)


def _effect(draws: Float[np.ndarray, " R"], n: int) -> stats.Effect:
  return effects.from_draws(draws[0], draws[1:], n)


TWO, THREE, LAST = slice(2), slice(3), slice(-2, None)


def _exponent(
  name: str,
  text: str,
  best: Best,
  on_test: Best,
  values: study.Values,
  *,
  where: slice,
  arm: str,
  less: str | None = None,
  **how: Any,
) -> stats.Question:
  """A question about an arm's exponent, or what it is above another's."""
  arms = [arm] if less is None else [arm, less]

  def effect(found: Best) -> stats.Effect:
    first, *other = (_exponents(found[a], values, where) for a in arms)
    return _effect(first - other[0] if other else first, found[arm].n)

  sizes = values.batches[where]
  return stats.Question(
    name,
    f"{text} (exponent of the best rate, batch {sizes[0]} to {sizes[-1]})",
    effect(best),
    censored=max(float(best[a].censored[where].max()) for a in arms),
    test_effect=effect(on_test),
    **how,
  )


def _tuned(
  table: pd.DataFrame, arm: str, size: int, metric: str = "dev_loss"
) -> stats.TunedArm:
  scores = _column(table, arm, size, tuned=True).losses
  return stats.TunedArm(scores, _column(table, arm, size, metric).losses)


def _difference(
  name: str,
  text: str,
  table: pd.DataFrame,
  best: Best,
  values: study.Values,
  *,
  pair: tuple[tuple[str, int], tuple[str, int]],
  **how: Any,
) -> stats.Question:
  """A question about the first arm's loss at a batch less the second's."""

  def effect(metric: str) -> stats.Effect:
    first, second = (_tuned(table, arm, size, metric) for arm, size in pair)
    return stats.tuned_difference(first, second, seed=0, median=None)

  return stats.Question(
    f"{name}, loss",
    text,
    effect("dev_loss"),
    censored=max(
      float(best[arm].censored[values.batches.index(size)])
      for arm, size in pair
    ),
    test_effect=effect("test_loss"),
    **how,
  )


def _exponent_parts(
  table: pd.DataFrame, best: Best, values: study.Values
) -> list[stats.Question]:
  ask = functools.partial(
    _exponent,
    best=best,
    on_test=best_rates(table, values, "test_loss"),
    values=values,
  )
  beside: dict[str, Any] = {"role": "secondary"}
  return [
    ask(
      "root",
      "Adam's best rate grows like the root of the batch",
      where=TWO,
      arm=DEFAULT,
      kind="same",
      target=0.5,
      margin=MARGIN,
      note=_told(best[DEFAULT], values),
    ),
    ask(
      "slower",
      "SGD's best rate grows faster than Adam's",
      where=THREE,
      arm=SGD,
      less=DEFAULT,
      margin=MARGIN,
      note=_told(best[SGD], values),
    ),
    ask(
      "linear",
      "SGD's best rate grows like the batch",
      where=TWO,
      arm=SGD,
      kind="same",
      target=1.0,
      margin=MARGIN,
      **beside,
    ),
    ask(
      "momentum",
      "with momentum it grows as without",
      where=THREE,
      arm=MOMENTUM,
      less=SGD,
      kind="same",
      margin=MARGIN,
      **beside,
    ),
    ask(
      "falls",
      "Adam's best rate falls in the end",
      where=LAST,
      arm=DEFAULT,
      kind="less",
      **beside,
    ),
  ]


def _loss_parts(
  table: pd.DataFrame, best: Best, values: study.Values
) -> list[stats.Question]:
  (small, next_one), largest = values.batches[:2], values.batches[-1]
  ask = functools.partial(_difference, table=table, best=best, values=values)
  as_good: dict[str, Any] = {"kind": "less", "target": LOSS.margin}
  return [
    ask(
      "half-life: gain",
      f"at batch {small} short ends above half-life",
      pair=((SHORT, small), (HALF_LIFE, small)),
      margin=LOSS.margin,
      role="secondary",
    ),
    ask(
      "half-life: as good",
      f"with half-life batch {small} less batch {next_one} is at most the "
      "margin",
      pair=((HALF_LIFE, small), (HALF_LIFE, next_one)),
      role="secondary",
      **as_good,
    ),
    ask(
      "short: as good",
      f"with short batch {small} less batch {next_one} is at most the margin",
      pair=((SHORT, small), (SHORT, next_one)),
      role="diagnostic",
      **as_good,
    ),
    ask(
      "half-life: default",
      f"at batch {largest} default ends as half-life",
      pair=((DEFAULT, largest), (HALF_LIFE, largest)),
      kind="same",
      margin=LOSS.margin,
      role="diagnostic",
    ),
  ]


def _told(best: grid_minimum.MeanMinima, values: study.Values) -> str:
  return "best rates: " + ", ".join(
    f"{rate:.2g} at {size}"
    for rate, size in zip(best.at, values.batches, strict=True)
  )


def judge(table: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  sweep.require_whole_batches(table)
  best, sizes = best_rates(table, values), values.batches
  parts = [
    *_exponent_parts(table, best, values),
    *_loss_parts(table, best, values),
  ]

  def sentence(found: stats.Judged) -> str:
    adam, sgd, last = (
      stats.amount(found.found(name)) for name in ("root", "linear", "falls")
    )
    gain = LOSS.amount(found.found("half-life: gain, loss"))
    return (
      f"From batch {sizes[0]} to {sizes[1]} the best rate goes with the batch "
      f"to the power {adam} for Adam and {sgd} for SGD, from {sizes[-2]} to "
      f"{sizes[-1]} {last} for Adam (epochs: {values.epochs}); at {sizes[0]} a "
      f"beta2 of {half_life(SHORT_FROM):.3g} costs {gain} of loss beside one "
      f"of {half_life(sizes[0]):.3g}, n = {found.n}."
    )

  return [stats.judge(stats.Claim("H5", parts, sentence))]


def _ends(
  table: pd.DataFrame, arm: str, size: int, metric: str
) -> tuple[float, float, float]:
  """The loss at the arm's chosen rate, with its interval."""
  own = _tuned(table, arm, size, metric)
  found = stats.tuned_contrast([own], [1.0], seed=0, median=None)
  return found.estimate, found.low, found.high


def summarise(table: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """By arm and batch: the best rate, and what the chosen rate's runs end at."""
  rows = []
  for name, best in best_rates(table, values).items():
    beta2 = ARMS[name].beta2
    for i, size in enumerate(values.batches):
      column = _column(table, name, size)
      scores = _column(table, name, size, tuned=True).losses
      draws = np.log([best.at[i], *best.draws[:, i]])
      at = stats.as_ratio(_effect(draws, best.n))
      rows.append(
        {
          "arm": name,
          "batch_size": size,
          "beta2": math.nan if beta2 is None else beta2(size),
          "seeds": best.n,
          **interval_columns("best_rate", at),
          "censored": best.censored[i],
          "lowest_rate": column.rates[0],
          "highest_rate": column.rates[-1],
          "runs": column.lost.size,
          "lost": int(column.lost.sum()),
          "chosen_rate": column.rates[stats.chosen(scores)],
          **interval_columns("dev_loss", _ends(table, name, size, "dev_loss")),
          **interval_columns(
            "test_loss", _ends(table, name, size, "test_loss")
          ),
        }
      )
  return pd.DataFrame(rows)


def _draw_rates(
  ax: plotting.Axes, table: pd.DataFrame, values: study.Values
) -> None:
  """Loss against rate, the batches of the default Adam."""
  for i, size in enumerate(values.batches):
    rates, losses, lost = _column(table, DEFAULT, size)
    kept = np.where(lost, np.nan, losses)
    plotting.bands(ax, rates, kept, f"batch {size}", index=i)
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.set(xlabel="learning rate", ylabel="development loss (nats)")
  ax.set_title(DEFAULT)


def _draw_best(
  ax: plotting.Axes, table: pd.DataFrame, values: study.Values
) -> None:
  """Best rates, each arm's relative to its own at the smallest batch."""
  sizes = np.array(values.batches)
  for i, (name, best) in enumerate(best_rates(table, values).items()):
    rates = np.vstack([best.at, best.draws])
    ratios = rates / rates[:, :1]
    ends = np.quantile(ratios[1:], (0.025, 0.975), axis=0)
    low, high = np.minimum(ends[0], ratios[0]), np.maximum(ends[1], ratios[0])
    label = f"{name} ({best.at[0]:.2g} at {sizes[0]}; n = {best.n})"
    look = plotting.series(i) | {"label": label}
    at = sizes * 1.03**i
    plotting.error_bars(ax, at, ratios[0], low, high, index=i, **look)
  guide: dict[str, Any] = {"color": "0.6", "linewidth": 1, "marker": ""}
  for power, name, style in ((1.0, "batch", "-"), (0.5, "root", "--")):
    line = (sizes / sizes[0]) ** power
    ax.plot(sizes, line, linestyle=style, label=f"like the {name}", **guide)
  plotting.log_axis(ax, "x", values.batches)
  plotting.log_axis(ax, "y")
  ax.set(xlabel="batch size", ylabel=f"best rate over that at batch {sizes[0]}")


def _draw_ends(
  ax: plotting.Axes, table: pd.DataFrame, values: study.Values
) -> None:
  """The loss at the chosen rate, by batch."""
  rows = summarise(table, values)
  for i, (name, own) in enumerate(rows.groupby("arm", sort=False)):
    plotting.error_bars(
      ax,
      own["batch_size"].to_numpy() * 1.03**i,
      *(own[f"dev_loss{end}"].to_numpy() for end in ("", "_low", "_high")),
      index=i,
      **plotting.series(i) | {"label": str(name)},
    )
  plotting.log_axis(ax, "x", values.batches)
  plotting.log_axis(ax, "y")
  ax.set(
    xlabel="batch size", ylabel="development loss at the chosen rate (nats)"
  )


def draw(table: pd.DataFrame, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (16, 4.8))
  for ax, panel in zip(
    axes[0], (_draw_rates, _draw_best, _draw_ends), strict=True
  ):
    panel(ax, table, values)
    ax.legend(fontsize=8)
  figure.suptitle(
    f"Best rates by batch, epochs: {values.epochs}, {values.seeds} seeds, mean "
    "and 95 %; crosses: runs that are lost"
  )
  return {"adam_batch": figure}


STUDY = study.Study("adam_batch", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
