"""B7, B8: what do larger batches save, and do they generalise worse?

  python -m experiments.updates_to_target --preset=full

B7 (12.4, 较大的batch size可以减少迭代次数 ... 曲线平滑, 在一定范围内): larger
batches need fewer iterations and give smoother curves, up to a point.
Updates to a development loss of each of --targets, evaluated every 5 %, rate
tuned per batch and target: on seeds from 1000, by factors of sqrt 2, on past
an end as long as the best is there; the minimum by a parabola, and these
smoothed over the batches by 1 / rate = a + b / B, so that no batch is mistuned
alone. Fresh seeds (from 0) at that rate, up to 4 times the updates that tuning
took; a run that does not get there counts as its limit, and notes count them.
Curves: rate 0.5 at --smooth_batches, 30 epochs, development loss each half
epoch; roughness over the last two thirds: root of half the mean square
successive difference.
Primary (all hold), slopes on log axes below 0, of any size:
  fewer updates, to each target, over batches to 64
  smoother: roughness against batch, at the fixed rate of the chapter's panel
Secondary, at the second target: the slope over the first three batches is -1
  (margin 0.1); over the middle three within -0.9 to -0.1; over the last three
  above -0.1. Beside them: regions by local slopes, the noise scale, and at each
  target the critical batch of S = S_min + E_min / B (McCandlish et al. 2018).
B8 (过大的batch size会使得模型的泛化能力下降，验证或测试的误差增加): too large a
batch generalises worse. Rates tuned by factors of 2 on 5 seeds by development
accuracy at the end of 30 epochs; the intervals resample these seeds too.
Primary (all): development and test accuracy at 2048 and 8192 are lower than at
  128, equal epochs, by more than 0.1 point.
Secondary: the same at equal updates, 128 trained (and tuned) for as many as the
  large batch makes in 30 epochs.
Diagnostic, why: training loss is higher too; development less training loss is
  larger (0.005 nats); the largest Hessian eigenvalue (over the first 5,000
  training examples, to 1 %) is larger at 2048.
Short last batches are dropped. A diverged run counts with its last finite
weights. Test: Student's t over seeds, the median where a run is beyond 5 MAD,
Holm over secondary parts. Cost on two cores: full an estimated 27 minutes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from experiments._shared import progress, rate_search, study, tuning
from experiments.updates_to_target import figures, judging, runs, scaling
from experiments.updates_to_target import tables as scaling_tables
from experiments.updates_to_target.judging import LARGE, REFERENCE
from mnist_jax import stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import tables

LIMIT = 4  # times the updates that tuning took
FIXED_RATE = 0.5

OPTIONS = (
  study.Option("targets", (0.9, 0.7, 0.5), (0.4, 0.25, 0.18), "losses, nats"),
  study.Option(
    "batches",
    (16, 64, 256),
    tuple(2**k for k in range(13)),
    "to the second target",
    rises=3,
  ),
  study.Option(
    "few_batches",
    (16, 64, 256),
    (1, 8, 64, 512),
    "to the other targets",
    rises=3,
  ),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("tuning_seeds", 1, 2, "seeds of each rate of B7"),
  study.Option(
    "smooth_batches", (32, 256), (32, 64, 128, 256), "at rate 0.5", rises=2
  ),
  study.Option("smooth_epochs", 3, 30, "epochs at rate 0.5"),
  study.Option(
    "gap_batches",
    (REFERENCE, LARGE),
    (REFERENCE, LARGE, 8192),
    "of B8",
    rises=2,
  ),
  study.Option("gap_epochs", 1, 30, "equal epochs of B8"),
  study.Option("gap_tuning_seeds", 1, 5, "seeds of each rate of B8"),
  study.Option("few_seeds", 2, 6, "seeds of sharpness and noise scale"),
)


def check(values: study.Values) -> None:
  sizes = values.gap_batches
  if sizes[0] != REFERENCE or LARGE not in sizes:
    raise InputError(
      f"gap_batches={','.join(map(str, sizes))}: expected {REFERENCE} first, "
      f"and {LARGE} in it"
    )
  targets = values.targets
  if len(targets) < 2 or list(targets) != sorted(set(targets), reverse=True):
    raise InputError(
      f"targets={','.join(map(str, targets))}: expected at least two that fall"
    )


def _whole(
  lab: study.Lab, budget: sweep.Budget, cells: list[sweep.Settings]
) -> pd.DataFrame:
  """A sweep of these cells without short batches."""
  whole = [dataclasses.replace(cell, drop_last=True) for cell in cells]
  return lab.sweep(whole, budget)


def _tune_to_target(
  lab: study.Lab, batch_size: int, target: float, values: study.Values
) -> rate_search.Tuned:
  # About the updates to a loss of 0.25, from runs on other seeds (2000).
  expected = (160 + 22_000 / batch_size) * (0.25 / target) ** 2
  budget = runs.budget(math.ceil(2 * expected), target)
  return rate_search.tune(
    functools.partial(_whole, lab, budget),
    batch_size,
    min(2.0, 0.04 * batch_size**0.85),
    study.tuning_seeds(values.tuning_seeds),
    lambda rows: runs.score(rows, target),
  )


def _to_target(
  lab: study.Lab, target: float, values: study.Values
) -> dict[str, pd.DataFrame]:
  """The fresh runs to a target, the tuning, and the rates."""
  main = target == values.targets[1]
  sizes = values.batches if main else values.few_batches
  tuned = {size: _tune_to_target(lab, size, target, values) for size in sizes}
  best = np.array([runs.best_rate(found.runs) for found in tuned.values()])
  smooth = scaling.smooth_rates(np.array(sizes), best)
  fresh = []
  for size, rate in zip(sizes, smooth.tolist(), strict=True):
    own = tuned[size].runs
    took = runs.took(own[own["learning_rate"] == tuned[size].rate])
    budget = runs.budget(LIMIT * took, target)
    cells = sweep.product(
      batch_size=size, learning_rate=rate, seed=range(values.seeds)
    )
    ends = tables.last_rows(_whole(lab, budget, cells))
    fresh.append(ends.assign(limit=LIMIT * took))
  rates = {"batch_size": sizes, "tuned": best, "smoothed": smooth}
  found = {
    "table": pd.concat(fresh, ignore_index=True),
    "tuning": pd.concat([t.runs for t in tuned.values()], ignore_index=True),
    "rates": pd.DataFrame(rates),
  }
  return {name: table.assign(target=target) for name, table in found.items()}


def _measure_targets(
  lab: study.Lab, values: study.Values
) -> dict[str, pd.DataFrame]:
  found = [_to_target(lab, target, values) for target in values.targets]
  return {
    name: pd.concat([each[name] for each in found], ignore_index=True)
    for name in found[0]
  }


def _measure_smooth(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """Of each run at the fixed rate: the roughness of its development loss."""
  epochs = values.smooth_epochs
  cells = sweep.product(
    batch_size=values.smooth_batches,
    learning_rate=FIXED_RATE,
    seed=range(values.seeds),
  )
  budget = sweep.Budget(epochs=epochs, evaluate_every=0.5)
  table = _whole(lab, budget, cells)
  late = table[table["epoch"] >= epochs / 3]
  rough = []
  for size, own in late.groupby("batch_size"):
    curves = tables.curves(own, "batch_size", "dev_loss", point="step")
    found: dict[str, Any] = {"batch_size": size, "seed": curves.seeds}
    found["dev_loss"] = runs.roughness(curves.values[0])
    rough.append(pd.DataFrame(found))
  return pd.concat(rough, ignore_index=True).assign(learning_rate=FIXED_RATE)


def _at_end(
  find: Callable[..., float],
  name: str,
  lab: study.Lab,
  batch_size: int,
  rate: float,
  seeds: int,
  epochs: int,
) -> pd.DataFrame:
  """What is found of single runs after so many epochs, a row for each seed."""
  cell = sweep.Settings(batch_size=batch_size, drop_last=True)
  config = cell.train_config()
  split = jax.device_put(lab.dataset.train)
  row = {"batch_size": batch_size, "learning_rate": rate}
  return pd.DataFrame(
    row | {"seed": seed, name: find(config, rate, split, seed, epochs)}
    for seed in progress.each(range(seeds), f"{name}, batch {batch_size}")
  )


def _tuned_ends(
  lab: study.Lab,
  sizes: dict[str, int],
  budget: sweep.Budget,
  values: study.Values,
) -> tuple[tuning.Tuned, pd.DataFrame]:
  """Families of rates, by name of these batch sizes, tuned within a budget."""
  families, rates = {}, {}
  for family, size in sizes.items():
    families[family] = sweep.Settings(batch_size=size, drop_last=True)
    centre = 2.0 ** round(math.log2(min(2.0, 0.06 * size**0.45)))
    rates[family] = (centre / 2, centre, 2 * centre)
  tuned = tuning.tune_rates(
    lab.sweep,
    families,
    rates,
    study.tuning_seeds(values.gap_tuning_seeds),
    budget,
    "dev_accuracy",
  )
  ends = lab.sweep_likely(tuned, range(values.seeds), budget)
  return tuned, tables.last_rows(ends)


def _measure_gap(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  """B8: the ends of runs of both budgets, their tuning, and the sharpness."""
  epochs, splits = values.gap_epochs, ("train", "test")
  sizes = {str(size): size for size in values.gap_batches}
  budget = sweep.Budget(epochs=epochs, final_splits=splits)
  first, ends = _tuned_ends(lab, sizes, budget, values)
  tuned, gap = dict.fromkeys(sizes, first), [ends]
  for size in values.gap_batches[1:]:
    updates = epochs * (len(lab.dataset.train.labels) // size)
    budget = sweep.Budget(updates=updates, final_splits=splits)
    family = judging.equal_updates(size)
    tuned[family], ends = _tuned_ends(lab, {family: REFERENCE}, budget, values)
    gap.append(ends)
  sharp = [
    _at_end(
      runs.sharpness,
      "sharpness",
      lab,
      size,
      first.best[str(size)].learning_rate,
      values.few_seeds,
      epochs,
    )
    for size in (REFERENCE, LARGE)
  ]
  table = pd.concat(gap, ignore_index=True)
  return {
    "gap": table.assign(gap=table["dev_loss"] - table["train_loss"]),
    "gap_tuned": tuned,
    "sharpness": pd.concat(sharp, ignore_index=True),
  }


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  found = _measure_targets(lab, values)
  rates = found["rates"].query("target == @values.targets[1]")
  near = (np.log(rates["batch_size"] / REFERENCE)).abs().idxmin()
  noise = _at_end(
    runs.noise_scale,
    "noise_scale",
    lab,
    int(rates.loc[near, "batch_size"]),
    float(rates.loc[near, "smoothed"]),
    values.few_seeds,
    1,
  )
  smooth = {"roughness": _measure_smooth(lab, values), "noise": noise}
  return found | smooth | _measure_gap(lab, values)


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  for name in ("table", "gap"):
    sweep.require_whole_batches(measured[name])
  claims = (judging.b7(measured, values), judging.b8(measured, values))
  return [stats.judge(claim) for claim in claims]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  return scaling_tables.summary(measured)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "updates_to_target": figures.draw_target(measured, values.targets[1]),
    "generalisation": figures.draw_gap(measured, values.gap_epochs),
  }


STUDY = study.Study(
  "updates_to_target", OPTIONS, measure, judge, draw, summarise, check
)
