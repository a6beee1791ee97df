"""B7, B8: what do larger batches save, and do they generalise worse?

  python -m experiments.updates_to_target --preset=full

B7 (12.4): larger batches need fewer iterations and give smoother curves, up
to a point. Updates to a development loss of --target, at each of --batches,
its rate tuned: on seeds from 1000, by factors of sqrt 2, on past an end as long
as the best is there; score log updates. Fresh seeds (from 0) at the best, up to
4 times the updates that tuning took, evaluated every 5 % (that is the
resolution; at small batches a lucky dip counts). A run that does not get
there, diverged or not, counts as its limit, and the note counts them. Batches
1 to 8 have the seeds, the grid and the resolution of the others.
Parts, slopes on log axes:
  fewer updates  slope over batches to 64 is below 0, margin 0.1
  falls off      slope over the largest three less that one is above 0, 0.1
  no gain left   slope over the largest three is above -0.1
  smoother       slope of the roughness against batch is below 0, margin 0.1:
                 of mini-batch loss, of development loss. Every second batch
                 size trained as long as tuning took; over 40 updates more, one
                 window each: root of half the mean square successive difference
Beside them: regions, perfect while a local slope's interval (three sizes)
reaches -0.9, none from where it reaches -0.1; one slope against pieces by BIC;
the critical batch of S = S_min + E_min / B (McCandlish et al. 2018), and the
simple noise scale of the batch 128 run after one epoch.
B8 (12.4): too large a batch generalises worse. --gap_batches, rate tuned for
each and for each budget (by factors of 2, mean development accuracy), equal
epochs and equal updates; a batch of which that is over 60 epochs is left out
there. Parts, at each budget, of 16 times 128 and more against 128: accuracy
is lower (margin 0.1 point), development less training loss is larger (0.005
nats). A diverged run counts with its last finite weights. Beside them, after
the equal epochs: sharpness (largest Hessian eigenvalue over the first 5,000
training examples, to 1 %) at the smallest batch and at 2048.
Test: Student's t over seeds, Holm, 95 % bootstrap intervals. Cost on two
cores: full (30 seeds, 2 to tune with) about 18 minutes.
"""

import functools
import math
from collections.abc import Callable

import jax
import pandas as pd

from experiments._shared import progress, study
from experiments._shared.metric import ACCURACY, LOSS
from experiments.updates_to_target import figures, runs, scaling
from experiments.updates_to_target import tables as scaling_tables
from mnist_jax import stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes, verdicts
from mnist_jax.sweep import rate_search, tables

SMALL_TO, SLOPE_MARGIN, FLAT = 64, 0.1, -0.1
LIMIT = 4  # times the updates that tuning took
WINDOWS = 40  # updates over which roughness is measured
REFERENCE, LARGE = 128, 2048  # batches of B8
MOST_EPOCHS = 60
# Of B8: column, the sign of what is worse, its margin, and the claim.
WORSE = {
  "accuracy": ("dev_accuracy", -1, ACCURACY.margin, "accuracy is lower"),
  "gap": ("gap", 1, LOSS.margin, "the gap in loss is larger"),
}

OPTIONS = (
  study.Option(
    "batches", (16, 64, 256), tuple(2**k for k in range(14)), "of B7", rises=3
  ),
  study.Option("target", 0.5, 0.25, "development loss, nats"),
  study.Option("seeds", 2, 30, "fresh seeds"),
  study.Option("tuning_seeds", 1, 2, "seeds of each tuned rate"),
  study.Option(
    "gap_batches",
    (REFERENCE, LARGE),
    (32, REFERENCE, 512, LARGE, 8192),
    "of B8",
    rises=2,
  ),
  study.Option("gap_epochs", 1, 10, "equal epochs of B8"),
  study.Option("gap_updates", 60, 1290, "equal updates of B8"),
)


def check(values: study.Values) -> None:
  if not {REFERENCE, LARGE} <= set(values.gap_batches):
    raise InputError(
      f"gap_batches={','.join(map(str, values.gap_batches))}: expected "
      f"{REFERENCE} and {LARGE} in it"
    )


def _tune_to_target(
  lab: study.Lab, batch_size: int, values: study.Values
) -> rate_search.Tuned:
  # About the updates to a loss of 0.25, from runs on other seeds (2000).
  expected = 160 + 22_000 / batch_size
  budget = runs.budget(math.ceil(2 * expected), values.target)
  return rate_search.tune(
    functools.partial(lab.sweep, budget=budget),
    batch_size,
    min(2.0, 0.04 * batch_size**0.85),
    study.tuning_seeds(values.tuning_seeds),
    lambda rows: runs.score(rows, values.target),
  )


def _rough(
  lab: study.Lab, cells: list[sweep.Settings], took: int
) -> pd.DataFrame:
  """Of each run: the roughness of its losses over WINDOWS late updates."""
  budget = sweep.Budget(
    updates=took + WINDOWS,
    evaluate_at=tuple(range(took, took + WINDOWS)),
  )
  table = lab.sweep(cells, budget)
  late = table[table["step"] > took]
  rough = {}
  for metric in figures.ROUGH:
    curves = tables.curves(late, "batch_size", metric, point="step")
    rough[metric] = runs.roughness(curves.values[0])
  where = {"batch_size": cells[0].batch_size, "seed": curves.seeds}
  return pd.DataFrame(where | rough)


def _measure_target(
  lab: study.Lab, values: study.Values
) -> dict[str, pd.DataFrame]:
  """B7: the fresh runs, the tuning, the roughness, the noise scale."""
  fresh, tuning, rough = [], [], []
  rates = {}
  for i, size in enumerate(values.batches):
    tuned = _tune_to_target(lab, size, values)
    own = tuned.runs[tuned.runs["learning_rate"] == tuned.rate]
    rates[size], took = tuned.rate, runs.took(own)
    cells = sweep.product(
      batch_size=size, learning_rate=tuned.rate, seed=range(values.seeds)
    )
    budget = runs.budget(LIMIT * took, values.target)
    ends = tables.last_rows(lab.sweep(cells, budget))
    fresh.append(ends.assign(limit=LIMIT * took))
    tuning.append(tuned.runs)
    if i % 2 == 0:
      rough.append(_rough(lab, cells, took))
  near = min(rates, key=lambda size: abs(math.log(size / REFERENCE)))
  noise = _at_end(
    runs.noise_scale, "noise_scale", lab, near, rates[near], values.seeds, 1
  )
  found = {"table": fresh, "tuning": tuning, "roughness": rough}
  return _joined(found) | {"noise": noise}


def _joined(parts: dict[str, list[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
  return {name: pd.concat(p, ignore_index=True) for name, p in parts.items()}


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
  config = sweep.Settings(batch_size=batch_size).train_config()
  split = jax.device_put(lab.dataset.train)
  row = {"batch_size": batch_size, "learning_rate": rate}
  return pd.DataFrame(
    row | {"seed": seed, name: find(config, rate, split, seed, epochs)}
    for seed in progress.each(range(seeds), f"{name}, batch {batch_size}")
  )


def _measure_gap(
  lab: study.Lab, values: study.Values
) -> dict[str, pd.DataFrame]:
  """B8: runs of both budgets with their tuning, and the sharpness."""
  most = MOST_EPOCHS * len(lab.dataset.train.labels)
  lengths = {"epochs": values.gap_epochs, "updates": values.gap_updates}
  gap, tuning, sharp = [], [], []
  for unit, length in lengths.items():
    budget = sweep.Budget(**{unit: length}, final_splits=("train",))
    for size in values.gap_batches:
      if unit == "updates" and length * size > most:
        continue
      tuned = rate_search.tune(
        functools.partial(lab.sweep, budget=budget),
        size,
        min(2.0, 0.08 * size**0.5),
        study.tuning_seeds(values.tuning_seeds),
        lambda rows: -rows["dev_accuracy"],
        step=2,
      )
      cells = sweep.product(
        batch_size=size, learning_rate=tuned.rate, seed=range(values.seeds)
      )
      ends = tables.last_rows(lab.sweep(cells, budget))
      ends["gap"] = ends["dev_loss"] - ends["train_loss"]
      gap.append(ends.assign(budget_unit=unit))
      tuning.append(tuned.runs.assign(budget_unit=unit))
      if unit == "epochs" and size in (values.gap_batches[0], LARGE):
        where = (lab, size, tuned.rate, values.seeds, length)
        sharp.append(_at_end(runs.sharpness, "sharpness", *where))
  return _joined({"gap": gap, "gap_tuning": tuning, "sharpness": sharp})


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  return _measure_target(lab, values) | _measure_gap(lab, values)


def _b7(measured: study.Tables) -> list[verdicts.Question]:
  table = measured["table"]
  batches, updates = scaling.by_batch(table, "step")
  few = batches <= max(SMALL_TO, batches[1])
  small = slopes.loglog_slope(batches[few], updates[:, few], seed=0)
  large = slopes.loglog_slope(batches[-3:], updates[:, -3:], seed=0)
  change = slopes.seed_slopes(batches[-3:], updates[:, -3:])
  change -= slopes.seed_slopes(batches[few], updates[:, few])
  short = int((~table["reached"].astype(bool)).sum())
  note = f"{short} of {len(table)} runs did not get there"
  sizes = f"{batches[-3]:g} to {batches[-1]:g}"
  ask = functools.partial(verdicts.Question, "B7")
  questions = [
    ask(
      "fewer updates",
      f"updates fall with batch up to {batches[few][-1]:g}: slope below 0",
      small,
      "less",
      margin=SLOPE_MARGIN,
      note=note,
    ),
    ask(
      "falls off",
      f"the slope over {sizes} is above that up to {batches[few][-1]:g}",
      stats.mean_interval(change, seed=0),
      margin=SLOPE_MARGIN,
      note=note,
    ),
    ask(
      "no gain left",
      f"updates fall no more over {sizes}: slope above {FLAT}",
      large,
      target=FLAT,
      note=note,
    ),
  ]
  for metric, name in figures.ROUGH.items():
    rough = scaling.by_batch(measured["roughness"], metric)
    slope = slopes.loglog_slope(*rough, seed=0)
    text = f"roughness of the {name} falls with batch: slope below 0"
    questions.append(
      ask(f"smoother, {name}", text, slope, "less", margin=SLOPE_MARGIN)
    )
  return questions


def _b8(gap: pd.DataFrame) -> list[verdicts.Question]:
  questions = []
  for unit, own in gap.groupby("budget_unit", sort=False):
    rates = own.groupby("batch_size")["learning_rate"].first()
    for batch in rates.index[rates.index >= LARGE]:
      for name, (column, sign, margin, worse) in WORSE.items():
        batches, found = scaling.by_batch(own, column)
        here, there = (found[:, batches == b][:, 0] for b in (batch, REFERENCE))
        questions.append(
          verdicts.Question(
            "B8",
            f"{name}, batch {batch:g}, equal {unit}",
            f"{worse} at {batch:g} than at {REFERENCE}, equal {unit}",
            stats.mean_interval(sign * (here - there), seed=0),
            margin=margin,
            note=f"rates {rates[batch]:g} and {rates[REFERENCE]:g}",
          )
        )
  return questions


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  return verdicts.judge([*_b7(measured), *_b8(measured["gap"])])


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  return scaling_tables.summary(measured)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "updates_to_target": figures.draw_target(measured, values.target),
    "generalisation": figures.draw_gap(measured),
  }


STUDY = study.Study(
  "updates_to_target", OPTIONS, measure, judge, draw, summarise, check
)
