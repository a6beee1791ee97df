"""B1, B2, H1: which learning rate does each batch size want, and how long?

  python -m experiments.lr_batch_size --preset=full

12.4. B1: "当批大小小到一定数量级后，学习率要和批大小匹配" (small batches, small
rates; its panels: 0.5 best at 32, 0.1 at 16). B2: the best rate grows linearly
(线性缩放) with the batch, then like its root, then not at all. H1 (ours): the
longer the training, the smaller the best rate (Bjorck et al. 2024), and the
more it grows with the batch. Rates are constant, so one sweep holds every
horizon: 1, 2, 5, 10, 20 epochs and --epochs. Whole batches only.
Panels: rates .1 .3 .5 .7 at 16 and 32, paired over seeds; accuracy (margin 0.1
  point), loss (0.005 nats), test.
  B1 primary (all), accuracy at the end: at 16 0.1 above each other rate; at 32
  0.5; 0.5 less 0.1 is larger at 32 than at 16. Secondary: the same in loss, and
  after 5 and 20 epochs.
Map: seeds from 1000 find by factors of 2 where rates are best; those from 0
  take that rate and one to each side (by 2; by sqrt 2 next to rates that
  diverge), and more by code while over 5 % of resamples are best at an end.
  Best rate: vertex of the parabola through the mean log development loss; a
  lost run counts ln 10 or more. Batches below 32 only to 2 epochs. Seeds are
  resampled; no exponent with over 10 % censored is judged. Margin 0.15.
  B2 primary (ordered), at the end, of the exponent between neighbours from 32
  on: first two within 0.15 of 1 (linear); last but one below 0.85 (less); last
  below 0.15 (none). Secondary: it falls from first to last (any amount); last
  but one near 1/2; linear (from the smallest batch) and none at each horizon;
  all three by error, on the grid of the loss. Diagnostic: BIC of the pieces.
  H1 primary (all): at the smallest full batch the best rate has a slope below 0
  on the horizon (any amount); over the first three sizes the exponent is more
  than 0.15 larger at the end than after one epoch. Secondary: the slope at the
  other sizes. Diagnostic: the exponent falls below 1/2 at a larger batch.
Cost on two cores: full (30 seeds, 2 that tune) an estimated 50 minutes.
"""

import math

import numpy as np
import pandas as pd

from experiments._shared import rate_search, study
from experiments._shared.metric import COLUMNS, interval_columns
from experiments.lr_batch_size import figures, panels, scaling
from experiments.lr_batch_size.panels import PANEL_RATES, PANELS
from experiments.lr_batch_size.ridges import (
  SHORT,
  crossing,
  effect_of,
  full_sizes,
  ridges,
  targets,
)
from mnist_jax import stats, sweep
from mnist_jax.runtime.errors import InputError

FULL = 5  # sizes that are run to the end

OPTIONS = (
  study.Option(
    "batch_sizes",
    (32, 128, 512, 2048, 8192),
    (8, 32, 128, 512, 2048, 8192),
    "of the map",
    rises=FULL,
  ),
  study.Option(
    "rates",
    (0.25, 0.5, 1.0, 2.0),
    (0.125, 0.25, 0.5, 1.0),
    "first of the search",
  ),
  study.Option("epochs", 2, 30, "of each run"),
  study.Option("seeds", 2, 30, "judged seeds"),
  study.Option("tuning_seeds", 1, 2, "seeds of the search"),
)


def check(values: study.Values) -> None:
  sizes = values.batch_sizes
  if len(full_sizes(values)) < FULL:
    raise InputError(
      f"batch_sizes={','.join(map(str, sizes))}: expected at least {FULL} from "
      f"{SHORT[0]} on"
    )
  powers = [math.log2(rate) if rate > 0 else math.nan for rate in values.rates]
  whole = all(power.is_integer() for power in powers)
  if len(powers) < 3 or not whole or not (np.diff(powers) == 1).all():
    raise InputError(
      f"rates={','.join(map(str, values.rates))}: expected at least three "
      "powers of 2, each twice the one before"
    )
  if values.epochs < 2:
    raise InputError(f"epochs={values.epochs}: expected at least 2")


def _budget(epochs: study.Number) -> sweep.Budget:
  return sweep.Budget(epochs=epochs, evaluate_every=1, final_splits=("test",))


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  own = lab.sweep(
    sweep.product(
      batch_size=list(PANELS),
      learning_rate=PANEL_RATES,
      seed=range(values.seeds),
      drop_last=True,
    ),
    _budget(values.epochs),
  )
  table = rate_search.search(
    lambda cells, epochs: lab.sweep(cells, _budget(epochs)),
    targets(values),
    values.rates,
    tuning_seeds=study.tuning_seeds(values.tuning_seeds),
    seeds=range(values.seeds),
  )
  return {"table": table, "panels": own}


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  sweep.require_whole_batches(measured["table"])
  found = ridges(measured, values)
  test = ridges(measured, values, test=True)
  return [
    panels.judge_b1(measured, values),
    scaling.judge_b2(found, test, values),
    scaling.judge_h1(found, values),
  ]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By horizon and batch: best rate, what was run, exponents."""
  table = measured["table"]
  fresh = table[table["stage"] == "fresh"]
  rows = []
  for target, ridge in ridges(measured, values).items():
    at, censored = crossing(ridge)
    local = ridge.local()[1][0]
    for i, size in enumerate(ridge.sizes.tolist()):
      rows_at = rate_search.at_horizon(fresh, target.epoch)
      column = rate_search.column(rows_at, size, target.metric)
      near = rows_at[
        (rows_at["batch_size"] == size)
        & (rows_at["learning_rate"] == column.best)
      ]
      best = effect_of(np.log(ridge.rates[:, i]), ridge.n)
      rows.append(
        {
          "epochs": target.epoch,
          "by": target.metric,
          "batch_size": size,
          "seeds": ridge.n,
          **interval_columns("best_rate", stats.as_ratio(best)),
          "censored": ridge.best.censored[i],
          "exponent_to_next": local[i] if i < len(local) else math.nan,
          "lowest_rate": column.rates[0],
          "highest_rate": column.rates[-1],
          "runs": column.lost.size,
          "diverged": int(column.lost.sum()),
          "grid_best": column.best,
          **{name: near[name].mean() for name in COLUMNS},
          "exponent_half_at": at[0],
          "exponent_half_censored": censored,
        }
      )
  return pd.DataFrame(rows)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  found = ridges(measured, values)
  return {
    "horizons": figures.draw_horizons(found, values),
    "map": figures.draw_map(measured, found, values),
    "panels": panels.draw_panels(measured["panels"], values),
  }


STUDY = study.Study(
  "lr_batch_size", OPTIONS, measure, judge, draw, summarise, check
)
