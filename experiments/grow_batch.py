"""B5, H2: can one grow the batch where one would decay the rate, and by what?

  python -m experiments.grow_batch --preset=full

B5 (12.4, 衰减学习率可以通过增加batch size来实现类似的效果): decaying the rate
can be replaced by growing the batch. H2: when? For SGD halving the rate can
equal doubling the batch; for Adam it is the rate / sqrt 2 with twice the batch
(Meterez et al. 2025, arXiv 2510.14717). So the rate's factor c stands for the
batch's c^p, with p = 1 for SGD and 2 for Adam.
Arms of a seed share weights and order, 128 at first; at one epoch (--change)
they go on with, for factors f of 2 and 5,
  decay f     the rate / f                    grow g   batch x g (2, 5, 25)
  split f, p  the rate / sqrt f, batch x (sqrt f)^p, p = 1, 2     fixed  as is
Rates: the best of --rates for decay 5 by mean development accuracy, on seeds
from 1000. All arms of an optimizer share it, so that its doubt is in no
difference. Short last batches are dropped (drop_last). Equal epochs: SGD 30,
Adam 10 (--adam_epochs).
Metric: after every epoch from the change on, development loss and accuracy
less those of decay f, paired. Distance: mean over these epochs of each seed's
absolute difference in loss.
B5 primary (all hold), SGD, f = 5: loss and accuracy of grow 5 are those of
  decay 5 at every epoch (the one furthest off is judged, by an interval for all
  epochs at once, Bonferroni); grow 2 and grow 25, wrong factors, are further
  from decay 5 than grow 5: ratio of distances above 1, any size.
  Secondary: f = 2 likewise (wrong: none, 5); Adam, both factors, the curves.
  Diagnostic: decay 5 ends better than fixed; grow makes fewer updates.
H2 primary (all): at f = 5 the split of p = 1 is nearer to decay for SGD, and
  that of p = 2 for Adam, than the other: ratio of distances above 1, any size.
  Secondary: f = 2 likewise; for Adam with the batch alone grow 25 (p = 2) is
  nearer to decay 5 than grow 5 (p = 1); the loss of Adam's split of p = 2 is
  that of decay at every epoch. Diagnostic: the p of least distance with the
  batch alone, by a parabola through log distance over log growth, f = 5.
Margins: 0.1 point of accuracy, 0.005 nats, as in L4 and L5. Test: Student's t,
TOST for the same; the median where a run is beyond 5 MAD; Holm over secondary
parts. Diverged runs count with their last finite weights; notes count them.
Cost on two cores: full (30 seeds, 3 that tune) 16 minutes.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import study
from experiments._shared.metric import ACCURACY, BOTH, COLUMNS, LOSS, Metric
from mnist_jax import plotting, stats, sweep
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import effects as statistics
from mnist_jax.sweep import figures, tables

FACTORS = (2, 5)
MAIN = 5  # the factor of Smith et al. (2018)
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
POWER = {"sgd": 1, "adam": 2}  # p by the paper
GROWTHS = {"fixed": 1, "grow 2": 2, "grow 5": 5, "grow 25": 25}  # batch alone

OPTIONS = (
  study.Option("epochs", 2, 30, "epochs of SGD's runs"),
  study.Option("change", 1, 10, "the epoch after which SGD's change"),
  study.Option("adam_epochs", 2, 10, "epochs of Adam's runs"),
  study.Option("adam_change", 1, 4, "the epoch after which Adam's change"),
  study.Option("seeds", 3, 30, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 1, 3, "seeds of each rate"),
  study.Option("rates", (0.5, 1.2), (0.3, 0.5, 0.8, 1.2, 1.8), "of SGD"),
  study.Option(
    "adam_rates", (0.003, 0.006), (0.001, 0.002, 0.004, 0.008), "of Adam"
  ),
  study.Option("base", 128, 128, "batch size at the start"),
)


class Arm(NamedTuple):
  """What happens at the change."""

  cut: float  # the rate is divided by it
  growth: float  # the batch is multiplied by it


def _arms() -> dict[str, Arm]:
  found = {name: Arm(1.0, growth) for name, growth in GROWTHS.items()}
  for factor in FACTORS:
    found[f"decay {factor}"] = Arm(factor, 1.0)
    root = math.sqrt(factor)
    for power in (1, 2):
      found[split_name(factor, power)] = Arm(root, root**power)
  return found


def split_name(factor: int, power: int) -> str:
  """The arm that shares a factor between the rate and the batch."""
  return f"split {factor}, p = {power}"


ARMS = _arms()


def _length(optimizer: str, values: study.Values) -> tuple[int, int]:
  """The epochs of a run, and the epoch of its change."""
  if optimizer == "sgd":
    return values.epochs, values.change
  return values.adam_epochs, values.adam_change


def check(values: study.Values) -> None:
  for optimizer, prefix in (("sgd", ""), ("adam", "adam_")):
    epochs, change = _length(optimizer, values)
    if not 0 < change < epochs:
      raise InputError(
        f"--{prefix}change={change}: expected an epoch before the last of "
        f"--{prefix}epochs={epochs}"
      )


def batch_after(arm: str, base: int) -> int:
  """The batch size of an arm after the change."""
  return round(base * ARMS[arm].growth)


def arm_settings(
  arm: str, base: int, rate: float, change: int, optimizer: str = "sgd"
) -> sweep.Settings:
  """The run of an arm, one of ARMS.

  Base, the batch size, and rate are those before the change, the epoch after
  which something changes.
  """
  fields: dict[str, Any] = {"batch_size": base}
  if ARMS[arm].growth > 1:
    size = batch_after(arm, base)
    fields = {"batch_schedule": f"0:{base},{change}:{size}"}
  if ARMS[arm].cut > 1:
    fields |= {
      "schedule": "multistep",
      "schedule_unit": "epochs",
      "gamma": 1 / ARMS[arm].cut,
      "boundaries": (float(change),),
    }
  return sweep.Settings(
    learning_rate=rate, optimizer=optimizer, drop_last=True, **fields
  )


def _measure_with(
  lab: study.Lab, optimizer: str, values: study.Values
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """The fresh runs of an optimizer, and those of its tuning."""
  epochs, change = _length(optimizer, values)
  settings = functools.partial(
    arm_settings, base=values.base, change=change, optimizer=optimizer
  )
  rates = values.rates if optimizer == "sgd" else values.adam_rates
  decay = f"decay {MAIN}"
  tuned = lab.tune(
    {decay: sweep.product(settings(decay, rate=1.0), learning_rate=rates)},
    values.tuning_seeds,
    sweep.Budget(epochs=epochs),
  )
  rate = float(tuned.best[decay].learning_rate)
  cells = {
    arm: sweep.product(settings(arm, rate=rate), seed=range(values.seeds))
    for arm in ARMS
  }
  budget = sweep.Budget(epochs=epochs, evaluate_every=1, final_splits=("test",))
  return lab.sweep(cells, budget), tuned.table


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  found = [_measure_with(lab, name, values) for name in OPTIMIZERS]
  runs, tuning = (
    pd.concat(x, ignore_index=True) for x in zip(*found, strict=True)
  )
  after = runs["arm"].map(lambda arm: batch_after(arm, values.base))
  return {"table": runs.assign(batch_after=after), "tuning": tuning}


class Runs:
  """The runs of one optimizer, as differences from a decayed rate's."""

  def __init__(
    self, measured: study.Tables, optimizer: str, values: study.Values
  ) -> None:
    self.optimizer = optimizer
    self.word = OPTIMIZERS[optimizer]
    self.epochs, self.change = _length(optimizer, values)
    table = measured["table"]
    self.table = table[table["optimizer"] == optimizer]
    columns = [*COLUMNS, *(metric.on_test for metric in BOTH), "step"]
    self.curves = {c: tables.curves(self.table, "arm", c) for c in columns}

  def apart(
    self, arm: str, factor: int, metric: str
  ) -> Float[np.ndarray, "S K"]:
    """The arm less decay by that factor, after each epoch from the change."""
    curves = self.curves[metric]
    late = curves.points > self.change
    return (curves.arm(arm) - curves.arm(f"decay {factor}"))[:, late]

  def distance(self, arm: str, factor: int) -> Float[np.ndarray, " S"]:
    """The mean over these epochs of the absolute difference in loss, nats."""
    return np.abs(self.apart(arm, factor, LOSS.column)).mean(axis=1)

  def updates(self, arm: str) -> int:
    """Of a whole run."""
    return int(self.table.loc[self.table["arm"] == arm, "step"].max())

  def lost(self) -> str:
    """How many of the runs diverged, in words; nothing if none did."""
    ends = tables.last_rows(self.table)
    count, n = int(tables.lost(ends).sum()), len(ends)
    share = stats.share(stats.wilson_interval(count, n))
    return f"{count} of {n} runs diverged, {share}" if count else ""


def _furthest(
  apart: Float[np.ndarray, "S K"],
) -> tuple[int, statistics.Effect]:
  """The place whose Student's interval reaches furthest from 0, and its effect.

  The intervals cover all K places at once (Bonferroni), so that the choice of
  the place is paid for.
  """
  confidence = 1 - 0.05 / apart.shape[1]
  ends = [statistics.student_interval(each, confidence) for each in apart.T]
  place = int(np.argmax([max(-end.low, end.high) for end in ends]))
  own = apart[:, place]
  if len(own) >= statistics.FEWEST_TO_RESAMPLE and stats.far_off(own).any():
    return place, stats.median_interval(own, confidence=confidence)
  return place, stats.mean_interval(own, seed=0, confidence=confidence)


def _same(
  runs: Runs, arm: str, factor: int, metric: Metric, role: Any
) -> stats.Question:
  """Is the arm's curve that of decay, after every epoch from the change on?"""
  apart = runs.apart(arm, factor, metric.column)
  place, effect = _furthest(apart)
  on_test = runs.apart(arm, factor, metric.on_test)[:, -1]
  notes = [f"furthest at epoch {runs.change + 1 + place}; test: at the end"]
  return stats.Question(
    f"{runs.word}: {arm} is decay {factor}, {metric.name}",
    f"{metric.name} of {arm} is that of decay {factor} after each epoch from "
    f"{runs.change + 1} to {runs.epochs}",
    effect,
    "same",
    margin=metric.margin,
    role=role,
    test_effect=stats.typical_interval(on_test, seed=0),
    note="; ".join([*notes, runs.lost()]).removesuffix("; "),
  )


def _nearer(
  runs: Runs,
  right: str,
  wrong: str,
  factor: int,
  role: Any,
  restriction: str = "",
) -> stats.Question:
  """Is the right arm nearer to decay than the wrong one?"""
  ratio = np.log(runs.distance(wrong, factor) / runs.distance(right, factor))
  return stats.Question(
    f"{runs.word}: {wrong} is further from decay {factor}",
    f"the loss of {wrong} is further from that of decay {factor} than that of "
    f"{right}: log of the ratio of distances above 0",
    stats.typical_interval(ratio, seed=0),
    role=role,
    restriction=restriction,
  )


def _b5(sgd: Runs, adam: Runs) -> stats.Claim:
  parts: list[stats.Question | stats.Part] = []
  for factor, wrong in ((5, ("grow 2", "grow 25")), (2, ("fixed", "grow 5"))):
    role: Any = "primary" if factor == MAIN else "secondary"
    right = f"grow {factor}"
    parts += [_same(sgd, right, factor, metric, role) for metric in BOTH]
    parts += [_nearer(sgd, right, arm, factor, role) for arm in wrong]
  for factor in FACTORS:
    parts += [
      _same(adam, f"grow {factor}", factor, metric, "secondary")
      for metric in BOTH
    ]
  for metric in BOTH:
    decay, fixed = (sgd.curves[metric.column].arm(a) for a in _REPLACED)
    on_test = (sgd.curves[metric.on_test].arm(arm)[:, -1] for arm in _REPLACED)
    parts.append(
      metric.question(
        "SGD: decay 5 against fixed",
        "decay 5 ends better than the fixed rate and batch",
        metric.gain(decay, fixed)[:, -1],
        on_test=metric.gain(*on_test),
        role="diagnostic",
      )
    )
  made = {arm: sgd.updates(arm) for arm in (f"grow {MAIN}", f"decay {MAIN}")}
  fewer = made[f"grow {MAIN}"] < made[f"decay {MAIN}"]
  text = "grow 5 makes fewer updates than decay 5"
  note = ", ".join(f"{arm}: {count}" for arm, count in made.items())
  parts.append(stats.derived("updates", text, fewer, note, "diagnostic"))

  def sentence(judged: stats.Judged) -> str:
    loss, accuracy = (
      metric.amount(judged.found(f"SGD: grow 5 is decay 5, {metric.name}"))
      for metric in (LOSS, ACCURACY)
    )
    less, more = (
      stats.factor(judged.found(f"SGD: {arm} is further from decay 5"))
      for arm in ("grow 2", "grow 25")
    )
    return (
      f"With SGD, the batch grown by 5 in place of the rate cut by 5 after "
      f"epoch {sgd.change} of {sgd.epochs}, the development loss differs by "
      f"{loss} and the accuracy by {accuracy} at the epoch where each differs "
      f"most, with {made['grow 5']:,} updates for {made['decay 5']:,}; the "
      f"batch grown by 2 is {less} as far from the decayed curve, by 25 {more} "
      f"(n = {judged.n})."
    )

  return stats.Claim("B5", parts, sentence)


_REPLACED = (f"decay {MAIN}", "fixed")


def _least(runs: Runs) -> stats.Question:
  """The exponent at which the batch alone is nearest to decay."""
  distances = np.stack([runs.distance(arm, MAIN) for arm in GROWTHS], axis=1)
  grid = np.array([*GROWTHS.values()])
  found = stats.mean_minima([grid], [distances], seed=0)
  at, draws = (np.log(x) / math.log(MAIN) for x in (found.at, found.draws))
  power = POWER[runs.optimizer]
  return stats.Question(
    f"{runs.word}: least distance from decay {MAIN}",
    f"the batch grown by {MAIN}^p alone is nearest to decay at p = {power}",
    statistics.from_draws(at[0], draws[:, 0], found.n),
    "same",
    target=float(power),
    margin=0.5,
    role="diagnostic",
    censored=float(found.censored[0]),
  )


def _h2(sgd: Runs, adam: Runs) -> stats.Claim:
  parts: list[stats.Question | stats.Part] = []
  for factor in FACTORS:
    role: Any = "primary" if factor == MAIN else "secondary"
    for runs in (sgd, adam):
      power = POWER[runs.optimizer]
      right, wrong = (split_name(factor, p) for p in (power, 3 - power))
      alone = f"with {runs.word} alone" if factor != MAIN else ""
      parts.append(_nearer(runs, right, wrong, factor, role, alone))
  parts.append(_nearer(adam, "grow 25", "grow 5", MAIN, "secondary"))
  parts.append(_same(adam, split_name(MAIN, 2), MAIN, LOSS, "secondary"))
  parts += [_least(runs) for runs in (sgd, adam)]

  def sentence(judged: stats.Judged) -> str:
    wrong = {
      runs.word: stats.factor(
        judged.found(
          f"{runs.word}: {split_name(MAIN, power)} is further from decay {MAIN}"
        )
      )
      for runs, power in ((sgd, 2), (adam, 1))
    }
    return (
      f"Where the rate is cut by sqrt 5 in place of 5, the batch has to make "
      f"up for sqrt 5: with SGD ({sgd.epochs} epochs) growing it by 5 leaves "
      f"the loss {wrong['SGD']} as far from the decayed curve as growing it by "
      f"sqrt 5, with Adam ({adam.epochs} epochs) growing it by sqrt 5 leaves "
      f"it {wrong['Adam']} as far as growing it by 5 (n = {judged.n})."
    )

  return stats.Claim("H2", parts, sentence)


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  table = measured["table"]
  sweep.require_whole_batches(table.assign(batch_size=table["batch_after"]))
  both = [Runs(measured, name, values) for name in OPTIMIZERS]
  return [stats.judge(claim(*both)) for claim in (_b5, _h2)]


def exponents(factor: int) -> dict[str, float]:
  """Of each arm that could stand for the factor: the p that it assumes."""
  found = {arm: math.log(g) / math.log(factor) for arm, g in GROWTHS.items()}
  return found | {split_name(factor, power): power for power in (1, 2)}


def _distances(runs: Runs) -> pd.DataFrame:
  """Each arm's distance from each decayed curve, with the p it assumes."""
  rows = []
  for factor in FACTORS:
    for arm, power in exponents(factor).items():
      found = runs.distance(arm, factor)
      mean, low, high = stats.geometric_mean(found)
      row = {"optimizer": runs.optimizer, "what": "distance", "arm": arm}
      numbers = {"factor": factor, "exponent": power, "seeds": len(found)}
      numbers |= {"distance": mean, "low": low, "high": high}
      rows.append(row | numbers)
  return pd.DataFrame(rows)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Where each arm ended, its updates and lost runs; every distance."""
  ends = tables.last_rows(measured["table"]).assign(what="end")
  tuned = sweep.last_rows(measured["tuning"]).assign(what="tuning")
  ended = pd.concat([ends, tuned], ignore_index=True)
  ended["lost"] = tables.lost(ended)
  groups = ended.groupby(
    ["optimizer", "what", "arm", "learning_rate"], sort=False
  )
  columns = [*COLUMNS, *(metric.on_test for metric in BOTH)]
  arms = groups.agg(
    updates=("step", "max"),
    seeds=("seed", "count"),
    lost=("lost", "sum"),
    **{f"{m}_{kind}": (m, kind) for m in columns for kind in ("mean", "std")},
  ).reset_index()
  both = [Runs(measured, name, values) for name in OPTIMIZERS]
  return pd.concat([arms, *map(_distances, both)], ignore_index=True)


_SHOWN = ("fixed", "decay 5", "grow 2", "grow 5", "grow 25")


def _mark(ax: plotting.Axes, runs: Runs) -> None:
  ax.axvline(runs.change, color="black", linestyle=":", linewidth=1)
  plotting.integer_ticks(ax.xaxis)


def _draw_curves(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """Loss over epochs and over updates, both optimizers."""
  figure, axes = plotting.panels(2, 2, (12, 8.8))
  for row, optimizer in zip(axes, OPTIMIZERS, strict=True):
    runs = Runs(measured, optimizer, values)
    curves, steps = runs.curves[LOSS.column], runs.curves["step"]
    for column, ax in enumerate(row):
      for index, arm in enumerate(_SHOWN):
        plotting.bands(
          ax,
          (steps.arm(arm)[0] if column else curves.points)[1:],
          curves.arm(arm)[:, 1:],
          f"{arm}: {runs.updates(arm):,} updates",
          index=index,
        )
      figures.metric_axis(ax, LOSS.column)
      plotting.log_axis(ax, "y")
      ax.set_title(runs.word)
      ax.set_xlabel("updates" if column else "epoch")
    _mark(row[0], runs)
    row[0].legend(fontsize=8)
  figure.suptitle(
    f"The batch {values.base} grown by g, or the rate cut by 5, at the dotted "
    f"epoch: equal epochs, fewer updates;\nmean and 95 % band of "
    f"{values.seeds} seeds"
  )
  return figure


_COMPARED = {
  "sgd": ("grow 5", "grow 2", "grow 25", split_name(5, 1), split_name(5, 2)),
  "adam": ("grow 5", "grow 25", split_name(5, 1), split_name(5, 2)),
}


def _described(arm: str) -> str:
  cut, growth = ARMS[arm]
  rate = f", rate / {cut:.3g}" if cut > 1 else ""
  return f"batch × {growth:.3g}{rate}"


def _draw_differences(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """Each arm less decay 5 along the way, loss and accuracy."""
  figure, axes = plotting.panels(2, 2, (12, 8.8))
  for row, optimizer in zip(axes, OPTIMIZERS, strict=True):
    runs = Runs(measured, optimizer, values)
    epochs = np.arange(runs.change + 1, runs.epochs + 1)
    for ax, metric in zip(row, (LOSS, ACCURACY), strict=True):
      for i, arm in enumerate(_COMPARED[optimizer]):
        figures.draw_differences(
          ax,
          # Set apart a little, so that the intervals do not hide each other.
          epochs + 0.12 * i,
          metric.scale * runs.apart(arm, MAIN, metric.column),
          _described(arm),
          index=i,
          margin=None if i else metric.scale * metric.margin,
        )
      unit = "points" if metric.is_accuracy else "nats"
      ax.set(
        xlabel="epoch",
        ylabel=f"{metric.name} less that of decay 5 ({unit})",
        title=runs.word,
      )
      plotting.integer_ticks(ax.xaxis)
    row[0].legend(fontsize=8)
  figure.suptitle(
    "What stands for the rate cut by 5, less the cut itself, after each epoch "
    f"from the change on;\npaired over {values.seeds} seeds, 95 % intervals"
  )
  return figure


def _draw_distances(
  measured: study.Tables, values: study.Values
) -> plotting.Figure:
  """Distance against the exponent that an arm assumes."""
  figure, axes = plotting.panels(1, 2, (12, 5))
  for ax, optimizer in zip(axes[0], OPTIMIZERS, strict=True):
    runs = Runs(measured, optimizer, values)
    found = _distances(runs)
    alone = found["arm"].isin(list(GROWTHS))
    index = 0
    for factor in FACTORS:
      for mine, name in ((alone, "batch alone"), (~alone, "split")):
        own = found[mine & (found["factor"] == factor)]
        plotting.error_bars(
          ax,
          own["exponent"].to_numpy() + 0.02 * index,
          *own[["distance", "low", "high"]].to_numpy().T,
          index=index,
          label=f"in place of rate / {factor}, {name}",
        )
        index += 1
    power = POWER[optimizer]
    ax.axvline(power, color="black", linestyle=":", label=f"theory: {power}")
    plotting.log_axis(ax, "y")
    ax.set(
      xlabel="assumed exponent p: batch × f^p in place of rate / f",
      ylabel="mean distance in loss (nats)",
      title=f"{runs.word}, {runs.epochs} epochs",
    )
    ax.legend(fontsize=8)
  figure.suptitle(
    "How far from the decayed curve, by what a smaller rate is taken to be "
    f"worth;\ngeometric mean and 95 % interval of {values.seeds} seeds"
  )
  return figure


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  return {
    "curves": _draw_curves(measured, values),
    "differences": _draw_differences(measured, values),
    "distances": _draw_distances(measured, values),
  }


STUDY = study.Study(
  "grow_batch", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
