"""From the cases of `mutation_score` to rates, verdicts and a picture (G4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnist_jax import plotting
from mnist_jax.stats import effects
from mnist_jax.stats.verdicts import Question

Record = dict[str, Any]
# Fixed before the run.
FOUND, NAMED, FALSE_ALARMS = 0.99, 0.9, 0.01
_PEER = "check_grads "  # before a setting: the column with its rejections


def _table(records: Sequence[Record]) -> pd.DataFrame:
  """A row each, and whether it was called wrong, which is an "alarm"."""
  table = pd.json_normalize(list(records), sep=" ")
  return table.assign(alarm=table["verdict"] == "wrong")


def rate(holds: pd.Series) -> Record:
  """How many times it holds, with Wilson's 95 % interval."""
  count = int(holds.sum())
  effect = effects.wilson_interval(count, len(holds))
  return {
    "count": count,
    "of": len(holds),
    "rate": effect.estimate,
    "low": effect.low,
    "high": effect.high,
  }


def _peer_rates(faults: pd.DataFrame, correct: pd.DataFrame) -> Record:
  """Of check_grads, by setting, as of ours."""
  return {
    column.removeprefix(_PEER): {
      "caught": rate(faults[column]),
      "false_alarms": rate(correct[column]),
    }
    for column in faults
    if column.startswith(_PEER)
  }


def _best_setting(peer_rates: Record) -> str:
  """That with the most found less the false alarms.

  Chosen on the cases it is then judged on, which favours it.
  """

  def gain(setting: str) -> float:
    found, alarms = peer_rates[setting].values()
    return float(found["rate"] - alarms["rate"])

  return max(peer_rates, key=gain)


def summarise(faults: Sequence[Record], correct: Sequence[Record]) -> Record:
  """All rates, and what was missed or misjudged, by name.

  Of `cases.fault_records` and `cases.correct_record`.
  """
  table, right = _table(faults), _table(correct)
  nameless = table["nameless"]
  told = table[~nameless]
  marks = ["caught", "placed", "named"]
  peer_rates = _peer_rates(table, right)
  failures = table.loc[
    ~table[marks].all(axis=1),
    ["network", "seed", "fault", "verdict", "found"],
  ]
  return {
    "faults": table["fault"].nunique(),
    "caught": rate(table["caught"]),
    "placed": rate(table["placed"]),
    "named": rate(told["named"]),
    "named_from_numbers_alone": rate(told["named_alone"][~told["modelled"]]),
    "no_cause_claimed_where_none_can_be_told": rate(table["named"][nameless]),
    "below_1e-7": rate(table["distance"] < 1e-7),
    "below_1e-2": rate(table["distance"] < 1e-2),
    "false_alarms": rate(right["alarm"]),
    "correct_by_verdict": right.groupby("verdict", sort=False).size().to_dict(),
    "check_grads": peer_rates,
    "check_grads_best": _best_setting(peer_rates),
    "by_network": {
      network: {mark: rate(own[mark]) for mark in marks}
      for network, own in table.groupby("network", sort=False)
    },
    "failures": failures.to_dict("records"),
  }


def by_fault(faults: Sequence[Record]) -> list[Record]:
  """One row a fault: in how many cases caught, placed, named."""
  table = _table(faults)
  own = table.groupby("fault", sort=False)
  marks = ["caught", "placed", "named", "named_alone"]
  rows = own[[*marks, *table.filter(like=_PEER)]].sum()
  rows.insert(0, "cases", own.size())
  rows["smallest_distance"] = own["distance"].min()
  return rows.reset_index().to_dict("records")


def questions(
  faults: Sequence[Record], correct: Sequence[Record]
) -> list[Question]:
  """The parts of G4; a seed's value is its fraction of the faults."""
  table, right = _table(faults), _table(correct)
  peer = _PEER + _best_setting(_peer_rates(table, right))
  told = table[~table["nameless"]]

  def fractions(some: pd.DataFrame, mark: str) -> np.ndarray:
    return some.groupby("seed", sort=False)[mark].mean().to_numpy(float)

  def above(name: str, text: str, values: np.ndarray, target: float) -> Any:
    effect = effects.mean_interval(values, seed=0)
    return Question("G4", name, text, effect, "greater", target)

  caught = fractions(table, "caught")
  alarms = right["alarm"].to_numpy(float)
  peer_alarms = right[peer].to_numpy(float)
  return [
    above("mistakes found", "fraction of faults called wrong", caught, FOUND),
    above(
      "tensors named",
      "fraction of faults with just the wrong tensors named",
      fractions(table, "placed"),
      FOUND,
    ),
    above(
      "cause named",
      "fraction of faults that can be told with the right cause named",
      fractions(told, "named"),
      NAMED,
    ),
    Question(
      "G4",
      "false alarms",
      "fraction of correct networks called wrong",
      effects.mean_interval(alarms, seed=0),
      "less",
      FALSE_ALARMS,
    ),
    Question(
      "G4",
      "more found than by check_grads",
      "found by ours less found by check_grads with its best step",
      effects.paired_difference(caught, fractions(table, peer), seed=0),
    ),
    Question(
      "G4",
      "fewer false alarms than check_grads",
      "false alarms of ours less those of check_grads with its best step",
      effects.paired_difference(alarms, peer_alarms, seed=0),
      "less",
    ),
  ]


def picture(summary: Record) -> plotting.Figure:
  """Found and false alarms of the check and of check_grads, side by side."""
  best = summary["check_grads_best"]
  settings = [s for s in summary["check_grads"] if "defaults" in s]
  settings += [best] if best not in settings else []
  names = ["ours", *(f"check_grads\n{s}" for s in settings)]
  figure, axes = plotting.panels(1, 2, (10.5, 3.6))
  for ax, key, title in (
    (axes[0, 0], "caught", "mistakes found"),
    (axes[0, 1], "false_alarms", "correct networks rejected"),
  ):
    rates = [summary[key]]
    rates += [summary["check_grads"][s][key] for s in settings]
    found = pd.DataFrame(rates)
    ends = found[["low", "high"]].sub(found["rate"], axis=0).abs()
    bars = ax.barh(
      names,
      100 * found["rate"],
      0.6,
      color=plotting.COLOURS,
      xerr=100 * ends.to_numpy().T,
      error_kw={"linewidth": 1.2},
    )
    texts = [f"{each['count']:,} of {each['of']:,}" for each in rates]
    ax.bar_label(bars, texts, padding=5, fontsize=9)
    ax.invert_yaxis()
    ax.set_xticks(range(0, 101, 25))
    ax.set(xlim=(0, 128), xlabel="% (line: 95 % Wilson interval)", title=title)
    ax.grid(axis="y", visible=False)
  return figure
