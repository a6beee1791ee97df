"""S1: one rate does not suit all parameters when features are sparse.

  python -m experiments.adaptive_rates --preset=full

Claim (12.4), 对于很少出现的特征，应使用更大的更新率: where data are sparse and
the frequencies of features very different, not all parameters should be
updated alike; those of rare features want a larger rate.
Data: MNIST in which pixel j is shown in a share p_j of the examples only,
log p_j uniform on [log(--lowest), 0] (mnist_jax.data.sparse); the control is
MNIST as it is. Of both, --examples for training: all 55,000 cost half an hour.
Arms: SGD, with one rate for all parameters; Adagrad and Adam, which find one
for each; and the chapter's own advice, SGD whose rate for the weights of pixel
j is proportional to p_j^-1/2, or to p_j^-1 (pixel_rates.py). Batch 128, 30
epochs. Each at its own rate, of a grid that goes on where an end of it is
likely, tuned for each data set on seeds from 1000 by the mean development
accuracy at the end; the fresh seeds (from 0) run every candidate that other
tuning seeds might have chosen.
Primary, "any": Adagrad's, or Adam's, accuracy is above SGD's on sparse data.
Secondary: the same in loss, of the method that tuning prefers; how much more
it gains there than on the control (the claim is about sparseness); and the
reason: SGD with the power of p_j that tuning prefers beats plain SGD. Should
the primary not hold and the last one does, the claim holds of rates set by
hand. Diagnostic: each method's loss, each power, and whether the methods end
level with the rates by hand.
Margin: 0.1 point of accuracy, 0.005 nats, beyond which a gain is to be shown.
Test: differences paired by seed; the bootstrap resamples the tuning seeds,
chooses anew, and the fresh ones; their median where one is beyond 5 median
absolute deviations, else their mean. Holm over the primary, and over the
secondary parts. A run that diverged counts with its last finite weights.
Cost on two cores: full (30 seeds and 6 to tune with) an estimated 9 minutes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments._shared import study, tuning
from experiments._shared.metric import ACCURACY, BOTH, LOSS, Metric, spread
from experiments.adaptive_rates import pixel_rates
from mnist_jax import plotting, stats, sweep
from mnist_jax.data import sparse as sparse_features
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

SPARSE_SEED = 0
SGD, METHODS = "sgd", ("adagrad", "adam")
GRIDS = {
  SGD: (0.5, 1.0, 2.0),
  "adagrad": (0.1, 0.2, 0.4, 0.8),
  "adam": (0.001, 0.002, 0.004, 0.008),
} | dict.fromkeys(pixel_rates.POWERS, (0.5, 1.0, 2.0))
DATA = ("sparse", "control")
EVALUATIONS = 10  # of each fresh run, for the figures

OPTIONS = (
  study.Option("epochs", 2, 30, "epochs of each run"),
  study.Option("seeds", 2, 30, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 1, 6, "seeds of each tuned rate"),
  study.Option("lowest", 0.01, 0.01, "share in which a pixel may be shown"),
  study.Option("examples", 15_000, 15_000, "to train on"),
)


def _measure(
  run: tuning.Run, families: Mapping[str, sweep.Settings], values: study.Values
) -> tuple[tuning.Tuned, pd.DataFrame]:
  """The families, tuned, and the fresh runs."""
  tuned = tuning.tune_rates(
    run,
    families,
    GRIDS,
    study.tuning_seeds(values.tuning_seeds),
    sweep.Budget(epochs=values.epochs),
    ACCURACY.column,
  )
  budget = sweep.Budget(
    epochs=values.epochs,
    evaluate_every=max(1, values.epochs // EVALUATIONS),
    final_splits=("test",),
  )
  return tuned, tuning.sweep_likely(run, tuned, range(values.seeds), budget)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  sparse = sparse_features.sparsify(lab.dataset, values.lowest, SPARSE_SEED)
  flags = (f"--sparse_lowest={values.lowest}", f"--sparse_seed={SPARSE_SEED}")
  families = {
    kind: sweep.Settings(optimizer=kind, num_train=values.examples)
    for kind in (SGD, *METHODS)
  }
  by_pixel = dict.fromkeys(pixel_rates.POWERS, families[SGD])
  shown = sparse_features.frequencies(values.lowest, SPARSE_SEED)
  found = {
    name: _measure(run, some, values)
    for name, run, some in (
      (
        "sparse",
        functools.partial(
          lab.sweep, dataset=sparse, data_flags=flags, name="sparse"
        ),
        families,
      ),
      (
        "by pixel",
        functools.partial(pixel_rates.run, lab, sparse, shown),
        by_pixel,
      ),
      ("control", functools.partial(lab.sweep, name="control"), families),
    )
  }
  of_data = {"sparse": "sparse", "by pixel": "sparse", "control": "control"}
  own, pixel = found["sparse"][0], found["by pixel"][0]
  return {
    "table": pd.concat(
      [found[key][1].assign(data=name) for key, name in of_data.items()],
      ignore_index=True,
    ),
    "tuning": pd.concat(
      [found[key][0].table.assign(data=name) for key, name in of_data.items()],
      ignore_index=True,
    ),
    "tuned": {
      "sparse": tuning.Tuned(
        {**own.candidates, **pixel.candidates},
        {**own.scores, **pixel.scores},
        pd.concat([own.table, pixel.table], ignore_index=True),
      ),
      "control": found["control"][0],
    },
  }


def _either(arms: list[stats.TunedArm]) -> stats.TunedArm:
  """The candidates of several families as those of one."""
  scores, outcomes = zip(*arms, strict=True)
  return stats.TunedArm(np.hstack(scores), np.hstack(outcomes))


class _Gains:
  """Gains in a metric, on development or test data, with their doubts."""

  def __init__(self, measured: study.Tables, column: str, sign: int):
    self._arms = {
      (name, family): tuning.arm(
        tuned,
        measured["table"].query("data == @name"),
        family,
        column,
        sign=sign,
      )
      for name, tuned in measured["tuned"].items()
      for family in tuned.candidates
    }

  def _arm(self, families: tuple[str, ...], name: str) -> stats.TunedArm:
    return _either([self._arms[name, family] for family in families])

  def of(self, a: tuple[str, ...], b: tuple[str, ...]) -> stats.Effect:
    """By how much the best of families a is better than that of b."""
    arms = [self._arm(families, "sparse") for families in (a, b)]
    return stats.tuned_contrast(arms, (1.0, -1.0), seed=0, median=None)

  def by_sparseness(self, families: tuple[str, ...]) -> stats.Effect:
    """How much more they gain over SGD on sparse data than on the control."""
    arms = [self._arm(own, name) for name in DATA for own in (families, (SGD,))]
    return stats.tuned_contrast(
      arms, (1.0, -1.0, -1.0, 1.0), seed=0, median=None
    )


_POWERS = tuple(pixel_rates.POWERS)
# Name, in words, metric, role, and the families compared.
_ASKED: tuple[tuple[str, str, Metric, verdicts.Role, Any, Any], ...] = (
  *(
    (kind, f"{kind} is above SGD", ACCURACY, "primary", (kind,), (SGD,))
    for kind in METHODS
  ),
  *(
    (kind, f"{kind} is above SGD", LOSS, "diagnostic", (kind,), (SGD,))
    for kind in METHODS
  ),
  (
    "the better method",
    "the method that tuning prefers is above SGD",
    LOSS,
    "secondary",
    METHODS,
    (SGD,),
  ),
  (
    "rates by hand",
    "SGD with larger rates for rarer pixels is above SGD",
    ACCURACY,
    "secondary",
    _POWERS,
    (SGD,),
  ),
  *(
    (power, f"{power}, is above SGD", ACCURACY, "diagnostic", (power,), (SGD,))
    for power in _POWERS
  ),
)


def _note(measured: study.Tables) -> str:
  """The tuned rates, which lie on an end of their grid, and lost runs."""
  texts = []
  for name, tuned in measured["tuned"].items():
    for family, best in tuned.best.items():
      rates = [each.learning_rate for each in tuned.candidates[family]]
      ends = {rates[i] for i in tuned.likely[family]} & {rates[0], rates[-1]}
      end = " (an end of the grid is likely)" if ends else ""
      texts.append(f"{family} {best.learning_rate:g} on {name}{end}")
  table = measured["table"]
  ends = table[table["step"] == table["step"].max()]
  lost = int(tables.lost(ends).sum())
  return f"rates: {', '.join(texts)}; lost runs: {lost} of {len(ends)}"


def _sentence(judged: stats.Judged, values: study.Values) -> str:
  gains = {
    name: ACCURACY.amount(judged.found(f"{name}, accuracy"))
    for name in (*METHODS, "rates by hand")
  }
  return (
    f"With pixels shown in {100 * values.lowest:g} to 100 % of "
    f"{values.examples:,} examples, the gain in development accuracy over SGD "
    f"with one rate, each tuned, is {gains['adagrad']} for Adagrad, "
    f"{gains['adam']} for Adam and {gains['rates by hand']} for SGD with "
    f"rates by hand that grow as pixels get rarer, after {values.epochs} "
    f"epochs, n = {judged.n} seeds."
  )


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  gains = {
    metric.column: (
      _Gains(measured, metric.column, metric.sign),
      _Gains(measured, metric.on_test, metric.sign),
    )
    for metric in BOTH
  }
  parts = []
  for name, text, metric, role, ours, others in _ASKED:
    found, on_test = (each.of(ours, others) for each in gains[metric.column])
    by_hand = "of rates set by hand" if name == "rates by hand" else ""
    parts.append(
      metric.question(
        name, text, found, on_test=on_test, role=role, restriction=by_hand
      )
    )
  found, on_test = (
    each.by_sparseness(METHODS) for each in gains[ACCURACY.column]
  )
  parts.append(
    ACCURACY.question(
      "by sparseness",
      "the method that tuning prefers gains more over SGD than on MNIST as it "
      "is",
      found,
      on_test=on_test,
      role="secondary",
    )
  )
  found, on_test = (
    each.of(METHODS, _POWERS) for each in gains[ACCURACY.column]
  )
  parts.append(
    ACCURACY.question(
      "the methods beside rates by hand",
      "the better method ends level with the better rates by hand",
      found,
      "same",
      on_test=on_test,
      role="diagnostic",
      note=_note(measured),
    )
  )
  sentence = functools.partial(_sentence, values=values)
  return [stats.judge(stats.Claim("S1", parts, sentence, logic="any"))]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds by data, arm and rate: tuning, then fresh."""
  parts = []
  for stage, seeds in (("tuning", "tuning"), ("table", "fresh")):
    own = measured[stage]
    ends = tables.last_rows(
      own.assign(cell=own["data"] + own["arm"] + own["cell"])
    )
    columns = [metric.column for metric in BOTH]
    if stage == "table":
      columns += [metric.on_test for metric in BOTH]
    result = spread(ends, ["data", "arm", "learning_rate"], columns)
    parts.append(result.assign(seeds=seeds))
  return pd.concat(parts, ignore_index=True)


def _draw_curves(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """Of each arm at the rate that tuning chose."""
  figure, axes = plotting.panels(2, 2, (12, 9))
  for row, name in zip(axes, DATA, strict=True):
    tuned, table = measured["tuned"][name], measured["table"]
    chosen = [
      (name, family, stats.chosen(scores))
      for family, scores in tuned.scores.items()
    ]
    own = pd.MultiIndex.from_frame(table[["data", "arm", "candidate"]])
    table = table[own.isin(chosen)]
    labels = {
      family: f"{family}: {best.learning_rate:g}"
      for family, best in tuned.best.items()
    }
    for ax, metric in zip(row, BOTH, strict=True):
      curves = tables.curves(table, "arm", metric.column)
      figures.draw_curves(
        ax, curves, metric.column, labels.__getitem__, since=1
      )
      ax.set_title(
        f"pixels shown in {100 * values.lowest:g} to 100 % of examples"
        if name == "sparse"
        else "MNIST as it is"
      )
  figure.suptitle(
    f"Each method at its tuned rate, {values.examples:,} examples, batch 128, "
    f"{values.seeds} seeds, mean and 95 % band"
  )
  return figure


def _draw_tuning(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """Accuracy against rate on the tuning seeds; what the fresh seeds gain."""
  figure, axes = plotting.panels(1, 2, (13, 4.8))
  left, right = axes[0]
  tuned = measured["tuned"]["sparse"]
  for i, (family, scores) in enumerate(tuned.scores.items()):
    rates = [each.learning_rate for each in tuned.candidates[family]]
    ratio = np.array(rates) / tuned.best[family].learning_rate
    error = 100 * (1 + np.where(np.isfinite(scores), scores, 0.0))
    plotting.bands(left, ratio, error, family, index=i)
  plotting.log_axis(left, "x")
  plotting.log_axis(left, "y")
  left.set_xlabel("rate / tuned rate")
  left.set_ylabel("development error (%)")
  left.set_title(f"tuning on sparse data, {values.tuning_seeds} seeds")
  left.legend(fontsize=8)
  gains = _Gains(measured, ACCURACY.column, ACCURACY.sign)
  effects = {family: gains.of((family,), (SGD,)) for family in tuned.scores}
  del effects[SGD]
  effects["more than on MNIST:\nbetter of Adagrad, Adam"] = gains.by_sparseness(
    METHODS
  )
  figures.draw_effects(
    right,
    list(effects),
    list(effects.values()),
    scale=ACCURACY.scale,
    margin=ACCURACY.margin,
  )
  right.legend(loc="upper left")  # the gains that matter lie to the right
  right.set_xlabel("gain over SGD with one rate (points of dev accuracy)")
  right.set_title(f"fresh seeds, n = {values.seeds}, 95 %")
  figure.suptitle(
    f"What a rate for each parameter gains on sparse pixels: "
    f"{values.examples:,} examples, epochs: {values.epochs}"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "adaptive_rates": _draw_curves(measured, values),
    "gains": _draw_tuning(measured, values),
  }


STUDY = study.Study("adaptive_rates", OPTIONS, measure, judge, draw, summarise)
