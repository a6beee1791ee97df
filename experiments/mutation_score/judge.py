"""From the cases of `mutation_score` to rates, verdicts and a picture (G4)."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnist_jax import plotting, stats

Record = dict[str, Any]
# Fixed before the run.
FOUND, NAMED, FALSE_ALARMS = 0.99, 0.9, 0.01
SATISFYING, BY_RATIO = 1e-7, 0.9  # the chapter's bar, and the share above it
_PEER = "check_grads "  # before a setting: the column with its rejections


def _table(records: Sequence[Record]) -> pd.DataFrame:
  """A row each, and whether it was called wrong, which is an "alarm"."""
  table = pd.json_normalize(list(records), sep=" ")
  return table.assign(alarm=table["verdict"] == "wrong")


def rate(holds: pd.Series) -> Record:
  """How many times it holds, with Wilson's 95 % interval."""
  count = int(holds.sum())
  effect = stats.wilson_interval(count, len(holds))
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
    "ratio": {
      "caught": rate(table["distance"] > SATISFYING),
      "false_alarms": rate(right["distance"] > SATISFYING),
    },
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


def _share(
  name: str, text: str, values: np.ndarray, target: float, **more: Any
) -> stats.Question:
  """That the mean of the seeds' fractions is above a target."""
  effect = stats.mean_interval(values, seed=0)
  return stats.Question(name, text, effect, target=target, **more)


def _fractions(table: pd.DataFrame, mark: str) -> np.ndarray:
  return table.groupby("seed", sort=False)[mark].mean().to_numpy(float)


def _parts(
  table: pd.DataFrame, right: pd.DataFrame, peer: str
) -> list[stats.Question]:
  """The parts of G4; `peer` is a column of check_grads."""
  caught = _fractions(table, "caught")
  above = table.assign(above=table["distance"] > SATISFYING)
  by_ratio = _fractions(above, "above")
  beside: dict[str, Any] = {"role": "secondary"}
  return [
    _share(
      "mistakes above the bar",
      f"fraction of faults whose one ratio over all parameters is above "
      f"{SATISFYING:g}",
      by_ratio,
      BY_RATIO,
    ),
    _share(
      "mistakes found",
      "fraction of faults called wrong",
      caught,
      FOUND,
      **beside,
    ),
    _share(
      "tensors named",
      "fraction of faults with just the wrong tensors named",
      _fractions(table, "placed"),
      FOUND,
      **beside,
    ),
    _share(
      "cause named",
      "fraction of faults that can be told with the right cause named",
      _fractions(table[~table["nameless"]], "named"),
      NAMED,
      **beside,
    ),
    stats.Question(
      "false alarms",
      "fraction of correct networks called wrong",
      stats.proportion(int(right["alarm"].sum()), len(right)),
      "less",
      FALSE_ALARMS,
      **beside,
    ),
    *(
      stats.Question(
        f"more found than by {name}",
        f"found by ours less found by {words}",
        stats.paired_difference(caught, theirs, seed=0),
        **beside,
      )
      for name, words, theirs in (
        (
          "check_grads",
          "check_grads with its best step",
          _fractions(table, peer),
        ),
        ("the ratio", "the one ratio", by_ratio),
      )
    ),
  ]


def _sentence(found: stats.Judged, summary: Record) -> str:
  ratio = stats.share(found.found("mistakes above the bar"), digits=1)
  ours, alarms = summary["caught"], summary["false_alarms"]
  theirs = summary["check_grads"][summary["check_grads_best"]]
  return (
    f"The chapter's one ratio is above 1e-7 for {ratio} of the planted "
    f"mistakes; our check calls {ours['count']:,} of {ours['of']:,} wrong, "
    f"with {alarms['count']} false alarms on {alarms['of']:,} correct "
    "networks, and jax's check_grads at its best step finds "
    f"{100 * theirs['caught']['rate']:.1f} % with "
    f"{100 * theirs['false_alarms']['rate']:.1f} % false alarms "
    f"({summary['faults']} different mistakes, {found.n} seeds)."
  )


def judged(
  faults: Sequence[Record], correct: Sequence[Record]
) -> list[stats.Judged]:
  """G4; a seed's value is its fraction of the faults."""
  summary = summarise(faults, correct)
  peer = _PEER + summary["check_grads_best"]
  parts = _parts(_table(faults), _table(correct), peer)
  sentence = functools.partial(_sentence, summary=summary)
  return [stats.judge(stats.Claim("G4", parts, sentence))]


def picture(summary: Record) -> plotting.Figure:
  """Found and false alarms, of ours, of the chapter's ratio, of check_grads."""
  best = summary["check_grads_best"]
  settings = [s for s in summary["check_grads"] if "defaults" in s]
  settings += [best] if best not in settings else []
  checks = {
    "ours": summary,
    "the chapter's ratio\nabove 1e-7": summary["ratio"],
  }
  checks |= {f"check_grads\n{s}": summary["check_grads"][s] for s in settings}
  figure, axes = plotting.panels(1, 2, (10.5, 4.2))
  for ax, key, title in (
    (axes[0, 0], "caught", "mistakes found"),
    (axes[0, 1], "false_alarms", "correct networks rejected"),
  ):
    rates = [each[key] for each in checks.values()]
    found = pd.DataFrame(rates)
    ends = found[["low", "high"]].sub(found["rate"], axis=0).abs()
    bars = ax.barh(
      [*checks],
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
