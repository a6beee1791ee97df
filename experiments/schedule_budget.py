"""H6: which schedule is best depends on how many trials one has to tune it.

  python -m experiments.schedule_budget --preset=full

The chapter (12.4) lists six policies and leaves their constants to the reader
(常用学习率下降算法). A policy with more constants can fit better and costs more
trials; what pays at one trial need not at ten.
Methods: the six (fixed, step, multistep, exp, inv, poly); linear to zero,
cosine, warmup-stable-decay (an epoch of warmup); schedule-free SGD (Defazio et
al. 2024) and Prodigy, which finds its rate (Mishchenko & Defazio 2023).
Trials: 10 of each, drawn once at random (`SPACES`): the first rate over five
octaves, log-uniform; the constants of the policy; Prodigy's factor from 1/2
to 2. The default (`DEFAULTS`): rate 0.5, the best of the chapter's four.
Metric: loss on the development set after 30 epochs at batch 128; a run that
is lost counts as guessing, ln 10, or its loss if more. Test set beside.
Primary (both), of linear to zero against a constant rate:
  default  without tuning, both at rate 0.5, on 30 fresh seeds, paired
  tuned    the best of 10 trials by 5 tuning seeds (from 1000), on the fresh
           seeds. The interval resamples trials, tuning seeds, fresh seeds, and
           chooses anew, of the 3 best trials alone: others were not run again;
           the median of the seeds where one is far off
Secondary: both in accuracy.
Shown, not judged: of every method the expected loss of the best of k trials.
One tuning seed chooses and the others give the loss, each in turn; the chance
that rank r is the best of k of N is C(N - r, k - 1) / C(N, k), exactly; bands
resample trials and seeds. The best of each method on 4 fresh seeds.
Margin: 0.005 nats, 0.1 point. Test: Student's t over seeds, that of tuned arms
on the bootstrap's standard error; Holm over the secondary; 95 % intervals.
Cost on two cores: full an estimated 25 minutes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import (
  ACCURACY,
  LOSS,
  Metric,
  interval_columns,
)
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects, verdicts
from mnist_jax.sweep import figures, tables

CONSTANT, LINEAR = "constant", "linear to zero"
AGAIN = 3  # best trials of a judged method that are run on fresh seeds
SHOWN_SEEDS = 4  # fresh ones of the other methods' best
_BANDS = 999  # resamples
_TRIALS_SEED = 12  # of the trials' constants

OPTIONS = (
  study.Option("epochs", 2, 30, "epochs of each run"),
  study.Option("trials", 3, 10, "random trials of each method"),
  study.Option("tuning_seeds", 2, 5, "of each trial of a judged method"),
  study.Option("seeds", 2, 30, "fresh seeds of a judged method"),
)

Draw = Callable[[float, float], float]
Setting = dict[str, Any]
Space = Callable[[int, Draw, Draw], Setting]


def _schedule(name: str, **constants: Any) -> Setting:
  return {"schedule": name, "schedule_unit": "epochs", **constants}


def _drops(epochs: int, first: float) -> tuple[float, float]:
  """Two drops: the second half-way from the first to the end."""
  return round(first * epochs, 3), round((first + 1) / 2 * epochs, 3)


def _stable(epochs: int, share: float) -> Setting:
  """An epoch of warmup, a stable share of the run, linearly to 0."""
  warmup = min(1.0, epochs / 4)
  stable = round(share * epochs - warmup, 3)
  return _schedule("wsd", warmup_steps=warmup, stable_steps=stable)


# Of each method, what a trial draws; `u` is uniform, `log` log-uniform.
SPACES: dict[str, Space] = {
  CONSTANT: lambda e, u, log: {"learning_rate": log(0.1, 3.2)},
  "step": lambda e, u, log: _schedule(
    "step",
    learning_rate=log(0.1, 3.2),
    gamma=u(0.3, 0.9),
    decay_steps=round(e * u(0.1, 0.4), 3),
  ),
  "multistep": lambda e, u, log: _schedule(
    "multistep",
    learning_rate=log(0.1, 3.2),
    gamma=log(0.05, 0.5),
    boundaries=_drops(e, u(0.3, 0.8)),
  ),
  "exp": lambda e, u, log: _schedule(
    "exp",
    learning_rate=log(0.1, 3.2),
    gamma=round(log(0.01, 0.5) ** (1 / e), 6),
  ),
  "inv": lambda e, u, log: _schedule(
    "inv",
    learning_rate=log(0.1, 3.2),
    gamma=round(log(1.0, 100.0) / e, 6),
    power=u(0.5, 1.0),
  ),
  "poly": lambda e, u, log: _schedule(
    "poly", learning_rate=log(0.1, 3.2), power=u(0.5, 3.0)
  ),
  LINEAR: lambda e, u, log: _schedule("poly", learning_rate=log(0.1, 3.2)),
  "cosine": lambda e, u, log: _schedule("cosine", learning_rate=log(0.1, 3.2)),
  "warmup-stable-decay": lambda e, u, log: {
    **_stable(e, u(0.3, 0.9)),
    "learning_rate": log(0.1, 3.2),
  },
  "schedule-free": lambda e, u, log: {
    "optimizer": "schedule_free",
    "learning_rate": log(0.32, 10.0),
  },
  "Prodigy": lambda e, u, log: {
    "optimizer": "prodigy",
    "learning_rate": log(0.5, 2.0),
  },
}
SIX = (CONSTANT, "step", "multistep", "exp", "inv", "poly")
DEFAULTS: dict[str, Callable[[int], Setting]] = {
  CONSTANT: lambda e: {"learning_rate": 0.5},
  LINEAR: lambda e: _schedule("poly", learning_rate=0.5),
}


def trials(epochs: int, number: int) -> dict[str, list[sweep.Settings]]:
  """The random trials of each method; the first of more are those of fewer."""

  def drawn(k: int, i: int) -> sweep.Settings:
    rng = np.random.default_rng([_TRIALS_SEED, k, i])

    def uniform(low: float, high: float) -> float:
      return float(f"{rng.uniform(low, high):.4g}")

    def log(low: float, high: float) -> float:
      return float(f"{low * (high / low) ** rng.uniform():.4g}")

    return sweep.Settings(**list(SPACES.values())[k](epochs, uniform, log))

  return {
    method: [drawn(k, i) for i in range(number)]
    for k, method in enumerate(SPACES)
  }


def check(values: study.Values) -> None:
  for name in ("trials", "tuning_seeds"):
    if getattr(values, name) < 2:
      raise InputError(
        f"--{name}={getattr(values, name)}: expected at least 2 to choose by"
      )


def names(method: str, values: study.Values) -> list[str]:
  """Of its trials, as the tables have them in the column arm."""
  return [f"{method} {i}" for i in range(values.trials)]


def _scores(tuning: pd.DataFrame, method: str, values: study.Values) -> Any:
  """Losses of the tuning runs, [T, N]."""
  found = tables.ends(tuning, "arm", names(method, values), LOSS.column)
  return found[~np.isnan(found).any(axis=1)]  # others have fewer seeds


def _counted(table: pd.DataFrame) -> pd.DataFrame:
  return table.assign(dev_loss=tables.counted_loss(table))


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  every = trials(values.epochs, values.trials)
  budget = sweep.Budget(epochs=values.epochs)
  tuning = _counted(
    lab.sweep(
      {
        arm: sweep.product(
          cell,
          seed=study.tuning_seeds(
            values.tuning_seeds if method in DEFAULTS else 2
          ),
        )
        for method, cells in every.items()
        for arm, cell in zip(names(method, values), cells, strict=True)
      },
      budget,
    )
  )
  arms: dict[str, list[sweep.Settings]] = {}
  for method, cells in every.items():
    judged = method in DEFAULTS
    order = _scores(tuning, method, values).mean(axis=0).argsort()
    seeds = range(values.seeds if judged else min(SHOWN_SEEDS, values.seeds))
    for k in order[: AGAIN if judged else 1]:
      arms[names(method, values)[k]] = sweep.product(cells[k], seed=seeds)
    if judged:
      cell = sweep.Settings(**DEFAULTS[method](values.epochs))
      arms[f"{method} default"] = sweep.product(cell, seed=seeds)
  budget = dataclasses.replace(budget, final_splits=("test",))
  return {"table": _counted(lab.sweep(arms, budget)), "tuning": tuning}


# --- the expected best of k --------------------------------------------------


def chances(number: int) -> Float[np.ndarray, "N N"]:
  """[k - 1, r - 1]: that the best of k of N trials is the one of rank r."""
  return np.array(
    [
      [
        math.comb(number - r, k - 1) / math.comb(number, k)
        for r in range(1, number + 1)
      ]
      for k in range(1, number + 1)
    ]
  )


def expected_best(
  scores: Float[np.ndarray, "T N"],
) -> tuple[
  Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]
]:
  """The expected loss of the best of 1 to N trials, and its 95 % interval.

  One seed chooses and the mean of the others is the loss, so that the best is
  not judged by the luck that chose it; each seed in turn. A resample takes N
  trials, a seed that chooses, and as many of the other seeds, with return.
  """
  t, n = scores.shape
  chance = chances(n)

  def best(
    by: Float[np.ndarray, " N"], loss: Float[np.ndarray, " N"]
  ) -> Float[np.ndarray, " N"]:
    found: Float[np.ndarray, " N"] = chance @ loss[by.argsort(kind="stable")]
    return found

  others = [np.delete(np.arange(t), seed) for seed in range(t)]
  estimate = np.mean(
    [best(scores[s], scores[others[s]].mean(axis=0)) for s in range(t)], axis=0
  )
  rng = np.random.default_rng(0)
  draws = []
  for _ in range(_BANDS):
    seed, some = rng.integers(t), rng.integers(n, size=n)
    judging = rng.choice(others[seed], size=t - 1)
    loss = scores[judging][:, some].mean(axis=0)
    draws.append(best(scores[seed, some], loss))
  low, high = np.quantile(draws, [0.025, 0.975], axis=0)
  return estimate, np.minimum(low, estimate), np.maximum(high, estimate)


# --- the verdict -------------------------------------------------------------


def tuned_gain(
  better: stats.TunedArm, other: stats.TunedArm, sign: int
) -> stats.Effect:
  """Outcome of an arm's best trial less that of another's, times sign.

  As `stats.tuned_difference`, with the trials resampled too; the median of the
  seeds where one is far off. A resample that has none of the trials run again
  takes the best of those.
  """
  rng = np.random.default_rng(0)
  s, resamples = len(better.outcomes), effects.RESAMPLES
  judged = rng.integers(s, size=(resamples, s))
  own, draws = np.zeros(s), np.zeros((resamples, s))
  for arm, weight in ((better, sign), (other, -sign)):
    t, n = arm.scores.shape
    run = ~np.isnan(arm.outcomes).any(axis=0)
    counts = rng.multinomial(t, np.full(t, 1 / t), size=resamples)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples) > 0
    drawn &= run
    drawn |= run & ~drawn.any(axis=1, keepdims=True)
    choice = np.where(drawn, counts @ arm.scores / t, np.inf).argmin(axis=1)
    draws += weight * arm.outcomes[judged, choice[:, None]]
    own += weight * arm.outcomes[:, stats.chosen(arm.scores)]
  if stats.far_off(own).any():
    estimate, of_each = float(np.median(own)), np.median(draws, axis=1)
  else:
    estimate, of_each = float(own.mean()), draws.mean(axis=1)
  return effects.from_draws(
    estimate, of_each, s, "trials, tuning seeds and fresh seeds"
  )


def _gain(
  measured: study.Tables, values: study.Values, column: str, sign: int
) -> stats.Effect:
  arms = [
    stats.TunedArm(
      _scores(measured["tuning"], method, values),
      tables.ends(measured["table"], "arm", names(method, values), column),
    )
    for method in (LINEAR, CONSTANT)
  ]
  return tuned_gain(arms[0], arms[1], sign)


def _parts(
  measured: study.Tables, values: study.Values, metric: Metric
) -> list[verdicts.Question]:
  def default(column: str) -> Float[np.ndarray, " S"]:
    arms = [f"{method} default" for method in (LINEAR, CONSTANT)]
    linear, constant = tables.ends(measured["table"], "arm", arms, column).T
    found: Float[np.ndarray, " S"] = metric.gain(linear, constant)
    return found

  role: verdicts.Role = "secondary" if metric.is_accuracy else "primary"
  every = trials(values.epochs, values.trials)
  best = [
    every[method][_scores(measured["tuning"], method, values).mean(0).argmin()]
    for method in (LINEAR, CONSTANT)
  ]
  return [
    metric.question(
      "default",
      "linear to zero ends ahead of a constant rate, both at 0.5",
      default(metric.column),
      on_test=default(metric.on_test),
      role=role,
    ),
    stats.Question(
      f"tuned, {metric.name}",
      f"linear to zero ends ahead, each the best of {values.trials} trials",
      _gain(measured, values, metric.column, metric.sign),
      margin=metric.margin,
      role=role,
      test_effect=_gain(measured, values, metric.on_test, metric.sign),
      note=" against ".join(cell.describe() for cell in best),
    ),
  ]


def _sentence(judged: stats.Judged, values: study.Values) -> str:
  def side(name: str, metric: Metric) -> str:
    return metric.amount(judged.found(f"{name}, {metric.name}"))

  return (
    f"After {values.epochs} epochs at batch 128 a rate that falls linearly to "
    "0 ends with a development loss below a constant rate's by "
    f"{side('default', LOSS)} untuned, at 0.5, and by {side('tuned', LOSS)} "
    f"with the best of {values.trials} random trials each; in accuracy it is "
    f"ahead by {side('default', ACCURACY)} and {side('tuned', ACCURACY)}; "
    f"n = {judged.n}."
  )


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  parts = [
    part
    for metric in (LOSS, ACCURACY)
    for part in _parts(measured, values, metric)
  ]
  claim = stats.Claim("H6", parts, lambda judged: _sentence(judged, values))
  return [stats.judge(claim)]


# --- what is shown -----------------------------------------------------------


def _best(
  measured: study.Tables, values: study.Values
) -> dict[str, tuple[str, sweep.Settings]]:
  """Of each method the arm and the settings of its best trial."""
  every = trials(values.epochs, values.trials)
  found = {}
  for method, cells in every.items():
    k = int(_scores(measured["tuning"], method, values).mean(axis=0).argmin())
    found[method] = names(method, values)[k], cells[k]
  return found


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By method the expected best of k trials; the default and best run afresh.

  The row of all trials has what the best of them came to on fresh seeds.
  """
  columns = ["dev_loss", "dev_accuracy", "test_loss", "test_accuracy"]
  table, rows = measured["table"], []

  def fresh(arm: str) -> dict[str, Any]:
    own = table[table["arm"] == arm]
    if own.empty:
      return {}
    ends = tables.last_rows(own)
    means = {f"fresh_{name}": ends[name].mean() for name in columns}
    return {**means, "fresh_seeds": len(ends)}

  for method, (arm, cell) in _best(measured, values).items():
    own = measured["tuning"]
    own = own[own["arm"].isin(names(method, values))]
    lost = float(tables.lost(tables.last_rows(own)).mean())
    found = np.transpose(
      expected_best(_scores(measured["tuning"], method, values))
    )
    own_rows: list[dict[str, Any]] = [
      {"method": method, "trials": k}
      | interval_columns("dev_loss", tuple(each))
      for k, each in enumerate(found.tolist(), 1)
    ]
    own_rows[-1] |= {"lost": lost, "best": cell.describe(), **fresh(arm)}
    rows += own_rows
    default = fresh(f"{method} default")
    if default:
      rows.append({"method": f"{method}, default", "trials": 0, **default})
  return pd.DataFrame(rows)


def _draw_trials(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  figure, axes = plotting.panels(1, 2, (12, 4.8))
  k = np.arange(1, values.trials + 1)
  beyond = [CONSTANT, *(method for method in SPACES if method not in SIX)]
  for ax, some, title in (
    (axes[0, 0], SIX, "the chapter's six"),
    (axes[0, 1], beyond, "beyond the chapter, and the constant rate"),
  ):
    for index, method in enumerate(some):
      scores = _scores(measured["tuning"], method, values)
      estimate, low, high = expected_best(scores)
      shown = np.tile(estimate, (values.trials, 1))
      plotting.bands(ax, k, shown, method, index=index, interval=(low, high))
    plotting.log_axis(ax, "x")
    plotting.log_axis(ax, "y")
    ax.set_xlabel("random trials, the best by one run each")
    figures.metric_axis(ax, LOSS.column)
    ax.set_title(title)
    ax.legend(fontsize=8)
  ends = np.array([ax.get_ylim() for ax in axes[0]])
  for ax in axes[0]:
    ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
  figure.suptitle(
    f"Expected loss of the best of k trials after {values.epochs} epochs, "
    f"batch 128 (n trials; 95 % bands over trials and seeds)"
  )
  return figure


def _draw_best(measured: study.Tables, values: study.Values) -> plotting.Figure:
  """Every method's best trial against that of the constant rate."""
  figure, axes = plotting.panels(1, 2, (12, 4.8))
  best = _best(measured, values)
  for ax, column, where in (
    (axes[0, 0], LOSS.column, "development"),
    (axes[0, 1], LOSS.on_test, "test"),
  ):
    gains = {}
    for method, (arm, _) in best.items():
      pairs = {f"{method}, best": (arm, best[CONSTANT][0])}
      if method == LINEAR:
        pairs[f"{method}, both at 0.5"] = (
          f"{LINEAR} default",
          f"{CONSTANT} default",
        )
      for name, pair in pairs.items():
        if pair[0] != pair[1]:
          ends = tables.ends(measured["table"], "arm", pair, column)
          ends = ends[~np.isnan(ends).any(axis=1)]
          gain = stats.mean_interval(ends[:, 0] - ends[:, 1], seed=0)
          gains[f"{name} (n = {len(ends)})"] = gain
    figures.draw_effects(
      ax, list(gains), list(gains.values()), margin=LOSS.margin
    )
    ax.set_ylim(len(gains) + 0.8, -0.5)
    ax.legend(loc="lower left", fontsize=8)
    ax.set_title(f"{where} loss")
    ax.set_xlabel("less that of the constant rate (nats, 95 %)")
  figure.suptitle(
    f"The best of {values.trials} trials of each method against that of a "
    f"constant rate, fresh seeds, {values.epochs} epochs at batch 128"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "trials": _draw_trials(measured, values),
    "best": _draw_best(measured, values),
  }


STUDY = study.Study(
  "schedule_budget", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
