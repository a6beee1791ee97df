"""H3: three critical batches, and how they go as the loss falls.

  python -m experiments.critical_batch --preset=full

No sentence of the chapter: it says that larger batches save iterations within
a range (在一定范围内, B7). Where does the range end? By three measures, at the
losses of a base run (batch 32, rate 0.2) after each of --epochs_at:
  noise    the simple noise scale tr(Sigma) / |G|^2 there, over all training
           examples (McCandlish et al. 2018)
  target   E_min / S_min of S = S_min + E_min / B, S the updates from the start
           to that loss with batches 32 k of --target_factors. A rate whose
           tuning runs mostly are above the last loss after --target_epochs,
           none of them lost, has twice as many (the first run had not, and
           batch 2048 was censored); a run that does not get there counts as
           the longest of its batch
  branch   the run goes on from there with batches 32 k of --factors for one
           epoch; the largest that ends within 5 % of the loss of k = 1, by
           interpolation over log k (after Merrill et al. 2025, arXiv
           2505.23971, who branch with a rate that grows with the root of k)
Rates of a batch 32 k: 0.2 k^p, p of 1/2, 3/4, 1, chosen by mean log loss (of
target: by mean log updates) on seeds from 1000. Whole batches. The intervals
resample these seeds and the judged ones (from 0), and choose anew. A lost run
counts as guessing.
Metric: development loss; log of the critical batch.
Primary (all): by each measure the critical batch grows as the loss falls: its
  exponent against the loss is below 0 (any size, so no margin). Not judged
  where over 10 % of the resamples lie at an end of the factors, or of the runs
  at the chosen rate did not get to the loss.
Secondary: at the middle loss noise and branch are each within a factor of 2 of
  target (the log of the ratio is 0, margin log 2): may one be taken for
  another?
Test: Student's t on the bootstrap's standard error, 95 % intervals; Holm over
the secondary parts.
Cost on two cores: full (30 seeds, 5 that tune) an estimated 15 minutes.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from experiments._shared import scaled_updates, study
from experiments._shared.metric import interval_columns
from mnist_jax import analysis, plotting, stats, sweep, training
from mnist_jax.analysis import critical_batches
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects
from mnist_jax.sweep import tables

BASE, RATE = 32, 0.2
POWERS = (0.5, 0.75, 1.0)
TOLERANCE = math.log(1.05)
RESAMPLES = 1_000
LABELS = {
  "noise": "noise scale",
  "target": "updates to the loss",
  "branch": "branches from there",
}

OPTIONS = (
  study.Option("epochs_at", (1, 2), (1, 2, 4), "of the base run", rises=2),
  study.Option(
    "factors", (1, 8, 64), (1, 2, 4, 8, 16, 32, 64), "k of branch", rises=3
  ),
  study.Option(
    "target_factors", (1, 8, 64), (1, 4, 16, 64), "k of target", rises=3
  ),
  study.Option("target_epochs", 4, 20, "the longest run of target"),
  study.Option("seeds", 2, 30, "judged seeds"),
  study.Option("tuning_seeds", 1, 5, "seeds that choose rates"),
)


def check(values: study.Values) -> None:
  for name in ("factors", "target_factors"):
    given = getattr(values, name)
    if given[0] != 1:
      raise InputError(
        f"{name}={','.join(map(str, given))}: expected 1 first, the base"
      )
  if values.target_epochs < values.epochs_at[-1]:
    raise InputError(
      f"target_epochs={values.target_epochs}: expected at least the last of "
      f"epochs_at, {values.epochs_at[-1]}"
    )


def rates(factor: int) -> list[float]:
  """Those of a batch `factor` times the base's."""
  return [float(f"{RATE * factor**power:.4g}") for power in POWERS]


def _seeds(values: study.Values) -> list[int]:
  return [*range(values.seeds), *study.tuning_seeds(values.tuning_seeds)]


def _config(factor: int) -> training.TrainConfig:
  cell = sweep.Settings(batch_size=BASE * factor, drop_last=True)
  return cell.train_config()


def _from_there(
  lab: study.Lab, epoch: int, values: study.Values
) -> list[dict[str, Any]]:
  """Of each seed the noise scale there, and the ends of its branches."""
  split, config = jax.device_put(lab.dataset.train), _config(1)
  there: dict[int, mlp.Params] = {}
  records: list[dict[str, Any]] = []
  for seed in _seeds(values):
    states = training.params_at(config, RATE, split, seed, (epoch,))
    there[seed] = next(states)[1]
    moments = analysis.network_moments(config.activations, there[seed], split)
    row = {"epoch": epoch, "seed": seed, "measure": "noise"}
    records.append(row | {"value": float(moments.noise_scale)})
  layer: Any = mlp.Layer
  for factor in values.factors:
    found = scaled_updates.train(
      _config(factor),
      lab.dataset,
      [*there],
      np.array(rates(factor)),
      (layer(None, None),) * 3,
      1,
      1,
      lambda seed, _: there[seed],
    )
    for i, power in enumerate(POWERS):
      for s, seed in enumerate(there):
        row = {"epoch": epoch, "seed": seed, "measure": "branch"}
        row |= {"factor": factor, "power": power}
        if factor == 1:
          row["begin"] = float(found["dev_loss"][0, s, i])
        records.append(row | {"value": float(found["dev_loss"][-1, s, i])})
  return records


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  cases = {
    f"{epoch} {values.factors} {_seeds(values)} {lab.data_digest}": (
      functools.partial(_from_there, lab, epoch, values)
    )
    for epoch in values.epochs_at
  }
  cells = {
    f"{factor} {power}": sweep.product(
      batch_size=BASE * factor,
      learning_rate=rate,
      seed=_seeds(values),
      drop_last=True,
    )
    for factor in values.target_factors
    for power, rate in zip(POWERS, rates(factor), strict=True)
  }
  there = pd.DataFrame(lab.collect(cases))
  budget = sweep.Budget(epochs=values.target_epochs, evaluate_every=0.25)
  table = lab.sweep(cells, budget)
  slow = too_slow(table, levels(there, values)[-1], values)
  if slow:
    longer = dataclasses.replace(budget, epochs=2 * values.target_epochs)
    again = lab.sweep({arm: cells[arm] for arm in slow}, longer)
    table = pd.concat([table[~table["arm"].isin(slow)], again])
  sweep.require_whole_batches(table)
  return {"there": there, "target": table.reset_index(drop=True)}


def too_slow(
  table: pd.DataFrame, level: float, values: study.Values
) -> list[str]:
  """The arms that the longest run is too short for, by the tuning seeds.

  Most of their runs end above the level, and none is lost.
  """
  seeds = study.tuning_seeds(values.tuning_seeds)
  ends = tables.last_rows(table[table["seed"].isin(seeds)])
  ends = ends.assign(lost=tables.lost(ends), above=ends["dev_loss"] > level)
  arms = ends.groupby("arm", sort=False)[["lost", "above"]].mean()
  return arms.index[(arms["lost"] == 0) & (arms["above"] > 0.5)].tolist()


class Draws(NamedTuple):
  """Critical batches, the first row by all seeds, the others resampled.

  Attributes:
    batches: [R + 1, E], of each loss.
    censored: The largest share of resamples at an end of the factors, or of
      runs that did not get to their loss.
  """

  batches: Float[np.ndarray, "R E"]
  censored: float


class Resamples(NamedTuple):
  """How often each seed counts, the same for every measure."""

  judged: Float[np.ndarray, "R S"]
  tuning: Float[np.ndarray, "R T"]


def resamples(values: study.Values) -> Resamples:
  rng = np.random.default_rng(0)

  def weights(n: int) -> Float[np.ndarray, "R n"]:
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return np.vstack([np.ones(n), drawn]) / n

  return Resamples(weights(values.seeds), weights(values.tuning_seeds))


def _means(
  logs: Float[np.ndarray, "N P"], weights: Resamples
) -> Float[np.ndarray, " R"]:
  """Of the judged seeds, at the rate that the tuning seeds choose.

  Args:
    logs: By seed (the judged ones first) and rate; the lower the better.
  """
  n = weights.judged.shape[1]
  choice: Int[np.ndarray, " R"] = (weights.tuning @ logs[n:]).argmin(axis=1)
  return (weights.judged @ logs[:n])[np.arange(len(choice)), choice]


def _loss_logs(values: Any) -> Float[np.ndarray, "N P"]:
  """log of losses; a lost run's as by guessing."""
  losses = np.asarray(values, np.float64)
  lost = ~np.isfinite(losses) | (losses >= tables.GUESSING)
  return np.log(np.where(lost, tables.GUESSING, losses))


def levels(there: pd.DataFrame, values: study.Values) -> list[float]:
  """The development losses of the base run: of each epoch, over all seeds."""
  begin = there[there["factor"] == 1].groupby("epoch")["begin"].mean()
  return [float(begin.loc[epoch]) for epoch in values.epochs_at]


def first_above(
  x: Float[np.ndarray, " K"], y: Float[np.ndarray, "R K"], level: float
) -> tuple[Float[np.ndarray, " R"], float]:
  """Where y, 0 at the first x, first passes a level, by interpolation.

  Returns:
    It, the last x where it never does; and the share of the resamples (all
    rows but the first) of which that is so.
  """
  above: np.ndarray = np.greater(y, level)
  never = np.logical_not(above.any(axis=1))
  right = np.where(never, len(x) - 1, np.maximum(above.argmax(axis=1), 1))
  rows = np.arange(len(y))
  low, high = y[rows, right - 1], y[rows, right]
  part = np.where(never, 1.0, (level - low) / np.where(never, 1, high - low))
  at = x[right - 1] + part * (x[right] - x[right - 1])
  return at, float(never[1:].mean())


def _branch(
  there: pd.DataFrame, weights: Resamples, values: study.Values
) -> Draws:
  """The largest batch that keeps up with the base for an epoch."""
  found, ends = [], []
  for epoch in values.epochs_at:
    own = there[(there["measure"] == "branch") & (there["epoch"] == epoch)]
    means = []
    for factor in values.factors:
      wide = own[own["factor"] == factor].pivot(
        index="seed", columns="power", values="value"
      )
      means.append(_means(_loss_logs(wide.loc[_seeds(values)]), weights))
    behind = np.stack(means, axis=1) - means[0][:, None]
    at, never = first_above(np.log(values.factors), behind, TOLERANCE)
    found.append(BASE * np.exp(at))
    ends.append(never)
  return Draws(np.stack(found, axis=1), max(ends))


def _noise(
  there: pd.DataFrame, weights: Resamples, values: study.Values
) -> Draws:
  own = there[there["measure"] == "noise"]
  wide = own.pivot(index="seed", columns="epoch", values="value")
  logs = np.log(wide.loc[range(values.seeds), list(values.epochs_at)])
  return Draws(np.exp(weights.judged @ logs.to_numpy()), 0.0)


def updates_to(
  losses: Float[np.ndarray, "... K"],
  steps: Float[np.ndarray, " K"],
  level: float,
  most: float,
) -> Float[np.ndarray, "..."]:
  """The updates to a loss, on log loss between evaluations; else the most."""
  logs = np.log(np.where(np.isfinite(losses), losses, np.inf))
  there = logs <= math.log(level)
  right = np.maximum(there.argmax(axis=-1), 1)[..., None]
  low, high = (
    np.take_along_axis(logs, at, -1)[..., 0] for at in (right - 1, right)
  )
  with np.errstate(invalid="ignore", divide="ignore"):
    part = (low - math.log(level)) / (low - high)
  part = np.clip(np.nan_to_num(part, nan=1.0), 0.0, 1.0)
  before, after = steps[right[..., 0] - 1], steps[right[..., 0]]
  found = before + part * (after - before)
  return np.where(there.any(axis=-1), found, most)


def _updates(
  table: pd.DataFrame, factor: int, level: float, values: study.Values
) -> tuple[Float[np.ndarray, "N P"], Bool[np.ndarray, "N P"]]:
  """log updates of each seed and rate to a loss; and which missed it."""
  columns, missed = [], []
  arms = [f"{factor} {power}" for power in POWERS]
  most = float(table.loc[table["arm"].isin(arms), "step"].max())
  for arm in arms:
    own = table[table["arm"] == arm]
    wide = own.pivot(index="seed", columns="step", values="dev_loss")
    losses = wide.loc[_seeds(values)].to_numpy()
    steps = wide.columns.to_numpy(np.float64)
    found = updates_to(losses, steps, level, most)
    columns.append(np.log(found))
    missed.append(~(losses <= level).any(axis=1))
  return np.stack(columns, axis=1), np.stack(missed, axis=1)


def _target(
  table: pd.DataFrame,
  at: list[float],
  weights: Resamples,
  values: study.Values,
) -> Draws:
  sizes = BASE * np.array(values.target_factors, np.float64)
  n, found, short = values.seeds, [], []
  for level in at:
    means = []
    for factor in values.target_factors:
      logs, missed = _updates(table, factor, level, values)
      means.append(_means(logs, weights))
      short.append(float(missed[:n, stats.chosen(logs[n:])].mean()))
    updates = np.exp(np.stack(means, axis=1))
    fits = [
      critical_batches.tradeoff(sizes, row).critical_batch for row in updates
    ]
    found.append(fits)
  return Draws(np.array(found).T, max(short))


def critical(
  measured: study.Tables, values: study.Values
) -> tuple[list[float], dict[str, Draws]]:
  """The losses, and by each measure the critical batches there."""
  there, weights = measured["there"], resamples(values)
  at = levels(there, values)
  return at, {
    "noise": _noise(there, weights, values),
    "target": _target(measured["target"], at, weights, values),
    "branch": _branch(there, weights, values),
  }


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  at, found = critical(measured, values)
  losses = np.array(at)[::-1]  # rising
  parts = []
  for name, draws in found.items():
    batches = draws.batches[:, ::-1]
    parts.append(
      stats.Question(
        name,
        f"{name}: exponent of the critical batch against the loss",
        stats.draws_slope(losses, batches[0], batches[1:], values.seeds),
        "less",
        censored=draws.censored,
        note="critical batches "
        + ", ".join(
          f"{batch:.0f} at {loss:.3g}"
          for batch, loss in zip(draws.batches[0], at, strict=True)
        ),
      )
    )
  middle = len(at) // 2
  for name in ("noise", "branch"):
    ratio = np.log(found[name].batches / found["target"].batches)[:, middle]
    parts.append(
      stats.Question(
        f"{name} for target",
        f"{name} over target at a loss of {at[middle]:.3g} nats (log)",
        effects.from_draws(ratio[0], ratio[1:], values.seeds),
        "same",
        margin=math.log(2),
        role="secondary",
        censored=max(found[name].censored, found["target"].censored),
      )
    )

  def sentence(judged: stats.Judged) -> str:
    first, last = (
      ", ".join(f"{found[name].batches[0, i]:.0f}" for name in LABELS)
      for i in (0, -1)
    )
    powers = ", ".join(stats.amount(judged.found(name)) for name in LABELS)
    return (
      "The critical batch by the noise scale, by the updates to a loss and by "
      f"branching is {first} at a loss of {at[0]:.3g} nats and {last} at "
      f"{at[-1]:.3g} (exponents {powers}), n = {judged.n}."
    )

  return [stats.judge(stats.Claim("H3", parts, sentence))]


def _rows(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  at, found = critical(measured, values)
  rows = []
  for name, draws in found.items():
    for i, (epoch, loss) in enumerate(zip(values.epochs_at, at, strict=True)):
      own = np.log(draws.batches[:, i])
      effect = effects.from_draws(own[0], own[1:], values.seeds)
      row = {"measure": name, "epoch": epoch, "dev_loss": loss}
      row |= interval_columns("critical_batch", stats.as_ratio(effect))
      row |= {"censored": draws.censored, "seeds": values.seeds}
      rows.append(row)
  return pd.DataFrame(rows)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 1, (7, 4.8))
  ax = axes[0, 0]
  rows = _rows(measured, values)
  for i, (name, own) in enumerate(rows.groupby("measure", sort=False)):
    plotting.error_bars(
      ax,
      own["dev_loss"].to_numpy() * 1.003**i,
      own["critical_batch"].to_numpy(),
      own["critical_batch_low"].to_numpy(),
      own["critical_batch_high"].to_numpy(),
      index=i,
      label=LABELS[str(name)],
      **plotting.series(i),
    )
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.invert_xaxis()
  ax.set(
    xlabel="development loss of the base run (nats), falling",
    ylabel="critical batch (examples)",
  )
  ax.legend()
  figure.suptitle(
    f"Three critical batches along training, n = {values.seeds}, 95 %"
  )
  return {"critical_batch": figure}


STUDY = study.Study(
  "critical_batch", OPTIONS, measure, judge, draw, _rows, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
