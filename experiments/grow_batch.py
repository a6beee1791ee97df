"""B5: can one grow the batch where one would decay the rate?

  python -m experiments.grow_batch --preset=full

Claim (12.4): decaying the rate can be replaced by growing the batch (Smith,
Kindermans, Ying & Le 2018). Arms of one seed share weights, order and epochs:
  decay  the rate x 1/5 at each of two boundaries, batch 128
  grow   the batch x 5 at each, 128, 640, 3200; the rate stays
  half   the batch x 5 at the first, the rate x 1/5 at the second
  fixed  neither, to show that there is something to replace
The rate is the best of --rates for decay, by its mean development accuracy
at the end, on seeds of its own (from 1000).
Metric: accuracy and loss on the development set after each epoch.
Parts, each on accuracy and on loss, paired over fresh seeds (from 0):
  decay better than fixed at the end
  grow and half the same as decay, after every epoch from the first boundary
  on, the last one included: the claim is of curves, so that one epoch beyond
  the margin is enough against it
and that grow makes fewer updates than decay (counted, not sampled).
Margin: 0.1 point of accuracy (five images), 0.005 nats, as in L4 and L5: not
more than the sd between seeds (0.13 point, 0.005 nats in L5). Test: two
one-sided t tests for the same, Student's t for better; Holm over all parts;
95 % bootstrap intervals.
Where it should break: decay and grow again from batch 640, to 3200 and 16000,
beyond a tenth of the 55,000 examples; its rate tuned likewise. This is not
part of the claim: it is judged apart, and is in summary.csv and the figures.
A diverged run counts with its last finite weights; summary.csv counts them.
Cost on two cores: full (40 seeds, 12 epochs, 276 runs) about 5 minutes.
"""

import functools
from typing import Any

import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, COLUMNS, LOSS, Metric
from mnist_jax import plotting, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

GROWN = {"decay": 0, "grow": 2, "half": 1, "fixed": 0}  # boundaries, by arm
ARMS = tuple(GROWN)
FACTOR = 5  # of Smith et al.

OPTIONS = (
  study.Option("epochs", 3, 12, "epochs of each run"),
  study.Option("boundaries", (1, 2), (6, 9), "epochs of the two changes"),
  study.Option("seeds", 3, 40, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 1, 3, "seeds of each rate"),
  study.Option(
    "rates", (0.5, 1.2), (0.3, 0.5, 0.8, 1.2, 1.8, 2.7), "to choose from"
  ),
  study.Option("base", 128, 128, "batch size at the start"),
  study.Option("large_base", 640, 640, "that of where it should break"),
)


def check(values: study.Values) -> None:
  given = f"--boundaries={','.join(map(str, values.boundaries))}"
  if len(values.boundaries) != 2:
    raise InputError(f"{given}: expected two epochs")
  first, second = values.boundaries
  if not 0 < first < second < values.epochs:
    raise InputError(
      f"{given}: expected rising epochs before the last of "
      f"--epochs={values.epochs}"
    )
  if values.base == values.large_base:
    raise InputError(
      f"--large_base={values.large_base}: expected another than --base"
    )


def arm_settings(
  arm: str, base: int, rate: float, boundaries: tuple[int, ...]
) -> sweep.Settings:
  """The run of an arm, one of ARMS.

  Base, the batch size, and rate are those before the first of the two
  boundaries, the epochs after which something changes.
  """
  grown = GROWN[arm]
  fields: dict[str, Any] = {"learning_rate": rate, "batch_size": base}
  if grown:
    starts = (0, *boundaries[:grown])
    pairs = [f"{start}:{base * FACTOR**i}" for i, start in enumerate(starts)]
    fields = {"learning_rate": rate, "batch_schedule": ",".join(pairs)}
  drops = boundaries[grown:] if arm in ("decay", "half") else ()
  if drops:
    fields |= {
      "schedule": "multistep",
      "schedule_unit": "epochs",
      "gamma": 1 / FACTOR,
      "boundaries": tuple(map(float, drops)),
    }
  return sweep.Settings(**fields)


def _measure_from(
  lab: study.Lab, base: int, arms: tuple[str, ...], values: study.Values
) -> tuple[pd.DataFrame, pd.DataFrame, float]:
  """The fresh runs, the tuning's, and the rate chosen."""
  settings = functools.partial(
    arm_settings, base=base, boundaries=values.boundaries
  )
  decay = settings("decay", rate=1.0)
  tuned = lab.tune(
    {"decay": sweep.product(decay, learning_rate=values.rates)},
    values.tuning_seeds,
    sweep.Budget(epochs=values.epochs),
  )
  rate = float(tuned.best["decay"].learning_rate)
  seeds = range(values.seeds)
  cells = {
    arm: sweep.product(settings(arm, rate=rate), seed=seeds) for arm in arms
  }
  table = lab.sweep(cells, sweep.Budget(epochs=values.epochs, evaluate_every=1))
  return table.assign(base=base), tuned.table.assign(base=base), rate


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  arms = {values.base: ARMS, values.large_base: ARMS[:2]}
  found = [_measure_from(lab, base, own, values) for base, own in arms.items()]
  runs, tuning, rates = zip(*found, strict=True)
  return {
    "table": pd.concat(runs, ignore_index=True),
    "tuning": pd.concat(tuning, ignore_index=True),
    "rates": dict(zip(arms, rates, strict=True)),
  }


def _curves(table: pd.DataFrame, base: int, metric: str) -> tables.Curves:
  return tables.curves(table[table["base"] == base], "arm", metric)


def _same(
  curves: tables.Curves, metric: Metric, arm: str, after: int
) -> list[verdicts.Question]:
  """Is the arm's curve that of decay, at each epoch after the boundary?"""
  apart = curves.arm(arm) - curves.arm("decay")
  questions = []
  for point, each in zip(curves.points, apart.T, strict=True):
    if point > after:
      last = point == curves.points[-1]
      at = "the end" if last else f"epoch {point:g}"
      text = f"{metric.name} of {arm} is that of decay at {at}"
      name = f"{arm} at {at}"
      questions.append(metric.question("B5", name, text, each, "same"))
  return questions


def updates(table: pd.DataFrame, base: int) -> dict[str, int]:
  """Updates of a whole run, by arm."""
  own = table[table["base"] == base]
  return own.groupby("arm", sort=False)["step"].max().astype(int).to_dict()


def judge_break(
  measured: study.Tables, values: study.Values
) -> list[verdicts.Part]:
  """Grow against decay from the large base: a family of its own."""
  questions = []
  for metric in BOTH:
    curves = _curves(measured["table"], values.large_base, metric.column)
    questions += _same(curves, metric, "grow", values.boundaries[0])
  return verdicts.judge(questions)


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  table, questions = measured["table"], []
  rate = measured["rates"][values.base]
  for metric in BOTH:
    curves = _curves(table, values.base, metric.column)
    questions.append(
      metric.question(
        "B5",
        "decay against fixed",
        "decay ends better than the fixed rate and batch",
        metric.gain(curves.arm("decay"), curves.arm("fixed"))[:, -1],
        note=f"rate {rate:g} at the start",
      )
    )
    for arm in ("grow", "half"):
      questions += _same(curves, metric, arm, values.boundaries[0])
  made = updates(table, values.base)
  counted = verdicts.derived(
    "B5",
    "updates",
    "grow makes fewer updates than decay",
    made["grow"] < made["decay"],
    note=", ".join(f"{arm} {count}" for arm, count in made.items()),
  )
  return [*verdicts.judge(questions), counted]


def _differences(parts: list[verdicts.Part], base: int) -> list[dict[str, Any]]:
  return [
    {
      "base": base,
      "what": part.name,
      "effect": part.effect.estimate,
      "low": part.effect.low,
      "high": part.effect.high,
      "margin": part.margin,
      "seeds": part.n,
      "verdict": str(part.verdict),
    }
    for part in parts
    if part.effect is not None
  ]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Where each arm ended, its updates and diverged runs; every difference."""
  table = measured["table"]
  ends = tables.last_rows(table).assign(what="end")
  tuned = sweep.last_rows(measured["tuning"]).assign(what="tuning")
  ended = pd.concat([ends, tuned], ignore_index=True)
  ended["diverged"] = ended["diverged_step"].notna()
  by = ended.groupby(["base", "what", "arm", "learning_rate"], sort=False)
  arms = by.agg(
    updates=("step", "max"),
    seeds=("seed", "count"),
    diverged=("diverged", "sum"),
    **{f"{m}_{kind}": (m, kind) for m in COLUMNS for kind in ("mean", "std")},
  ).reset_index()
  apart = _differences(judge(measured, values), values.base)
  apart += _differences(judge_break(measured, values), values.large_base)
  return pd.concat([arms, pd.DataFrame(apart)], ignore_index=True)


def _sizes(arm: str, base: int) -> str:
  return " → ".join(f"{base * FACTOR**i}" for i in range(GROWN[arm] + 1))


def _draw_curves(
  measured: study.Tables, base: int, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  table = measured["table"]
  made = updates(table, base)
  for row, metric in enumerate(("dev_loss", "dev_accuracy")):
    curves = _curves(table, base, metric)
    steps = _curves(table, base, "step").values[:, 0]
    for column, ax in enumerate(axes[row]):
      for i, arm in enumerate(curves.arms):
        plotting.bands(
          ax,
          (steps[i] if column else curves.points)[1:],
          curves.arm(arm)[:, 1:],
          f"{arm}: batch {_sizes(arm, base)}, {made[arm]} updates",
          index=ARMS.index(arm),
        )
      figures.metric_axis(ax, metric)
      ax.set_xlabel("updates" if column else "epoch")
      plotting.integer_ticks(ax.xaxis)
      if metric == "dev_loss":
        plotting.log_axis(ax, "y")
    for boundary in values.boundaries:
      axes[row, 0].axvline(boundary, color="black", linestyle=":", linewidth=1)
  axes[0, 0].legend(fontsize=8)
  figure.suptitle(
    f"Rate {measured['rates'][base]:g} decayed, or batch {base} grown, "
    f"×{FACTOR} at the dotted epochs; {values.seeds} seeds, mean and 95 % "
    "band"
  )
  return figure


def _draw_differences(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  rows = ((values.base, ("grow", "half")), (values.large_base, ("grow",)))
  for row, (base, arms) in zip(axes, rows, strict=True):
    for ax, metric in zip(row, (LOSS, ACCURACY), strict=True):
      curves = _curves(measured["table"], base, metric.column)
      for arm in arms:
        k = ARMS.index(arm)
        figures.draw_differences(
          ax,
          # Set apart a little, so that the intervals do not hide each other.
          curves.points[1:] + 0.2 * (k - 1),
          metric.scale * (curves.arm(arm) - curves.arm("decay"))[:, 1:],
          f"{arm}, batch {_sizes(arm, base)}",
          index=k,
          margin=metric.scale * metric.margin if arm == "grow" else None,
        )
      for boundary in values.boundaries:
        ax.axvline(boundary, color="black", linestyle=":", linewidth=1)
      unit = "points" if metric.is_accuracy else "nats"
      ylabel = f"{metric.name} less that of decay ({unit})"
      ax.set(xlabel="epoch", ylabel=ylabel)
      plotting.integer_ticks(ax.xaxis)
      low, high = ax.get_ylim()
      ax.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
      ax.legend(fontsize=8, loc="upper left")
  figure.suptitle(
    f"A growing batch less a decaying rate, paired over {values.seeds} "
    "seeds, 95 % intervals;\nabove as claimed, below beyond a tenth of the "
    "training set"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "curves": _draw_curves(measured, values.base, values),
    "curves_large": _draw_curves(measured, values.large_base, values),
    "differences": _draw_differences(measured, values),
  }


STUDY = study.Study(
  "grow_batch", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
