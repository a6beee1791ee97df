"""From the cases of `mutation_score` to rates, verdicts and a picture (G4)."""

import collections
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from mnist_jax import plotting
from mnist_jax.stats.effects import (
  mean_interval,
  paired_difference,
  wilson_interval,
)
from mnist_jax.stats.verdicts import Question

Record = dict[str, Any]
# Fixed before the run.
FOUND, NAMED, FALSE_ALARMS = 0.99, 0.9, 0.01


def rate(records: Sequence[Record], holds: Callable[[Record], bool]) -> Record:
  """How many of the records it holds for, with Wilson's 95 % interval."""
  count = sum(map(holds, records))
  effect = wilson_interval(count, len(records))
  return {
    "count": count,
    "of": len(records),
    "rate": effect.estimate,
    "low": effect.low,
    "high": effect.high,
  }


def _rejected(setting: str) -> Callable[[Record], bool]:
  return lambda record: bool(record["check_grads"][setting])


def best_setting(faults: Sequence[Record], correct: Sequence[Record]) -> str:
  """That of check_grads with the most found less the false alarms.

  Chosen on the cases it is then judged on, which favours it.
  """
  settings = faults[0]["check_grads"]
  return max(
    settings,
    key=lambda s: (
      rate(faults, _rejected(s))["rate"] - rate(correct, _rejected(s))["rate"]
    ),
  )


def summarise(faults: Sequence[Record], correct: Sequence[Record]) -> Record:
  """All rates, and what was missed or misjudged, by name.

  Args:
    faults: of `mutation_score.fault_records`.
    correct: of `mutation_score.correct_record`.
  """
  told = [r for r in faults if not r["nameless"]]
  return {
    "faults": len({r["fault"] for r in faults}),
    "caught": rate(faults, lambda r: r["caught"]),
    "placed": rate(faults, lambda r: r["placed"]),
    "named": rate(told, lambda r: r["named"]),
    "named_from_numbers_alone": rate(
      [r for r in told if not r["modelled"]], lambda r: r["named_alone"]
    ),
    "no_cause_claimed_where_none_can_be_told": rate(
      [r for r in faults if r["nameless"]], lambda r: r["named"]
    ),
    "below_1e-7": rate(faults, lambda r: r["distance"] < 1e-7),
    "below_1e-2": rate(faults, lambda r: r["distance"] < 1e-2),
    "false_alarms": rate(correct, lambda r: r["verdict"] == "wrong"),
    "correct_by_verdict": dict(
      collections.Counter(r["verdict"] for r in correct)
    ),
    "check_grads": {
      setting: {
        "caught": rate(faults, _rejected(setting)),
        "false_alarms": rate(correct, _rejected(setting)),
      }
      for setting in faults[0]["check_grads"]
    },
    "check_grads_best": best_setting(faults, correct),
    "by_network": {
      network: {
        key: rate(
          [r for r in faults if r["network"] == network], itemgetter(key)
        )
        for key in ("caught", "placed", "named")
      }
      for network in dict.fromkeys(r["network"] for r in faults)
    },
    "failures": [
      {k: r[k] for k in ("network", "seed", "fault", "verdict", "found")}
      for r in faults
      if not (r["caught"] and r["placed"] and r["named"])
    ],
  }


def by_fault(faults: Sequence[Record]) -> list[Record]:
  """One row a fault: in how many cases caught, placed, named."""
  rows = []
  for name in dict.fromkeys(r["fault"] for r in faults):
    own = [r for r in faults if r["fault"] == name]
    row: Record = {"fault": name, "cases": len(own)}
    for key in ("caught", "placed", "named", "named_alone"):
      row[key] = sum(r[key] for r in own)
    for setting in faults[0]["check_grads"]:
      row[f"check_grads {setting}"] = sum(map(_rejected(setting), own))
    row["smallest_distance"] = min(r["distance"] for r in own)
    rows.append(row)
  return rows


def questions(
  faults: Sequence[Record], correct: Sequence[Record]
) -> list[Question]:
  """The parts of G4; a seed's value is its fraction of the faults."""
  seeds = list(dict.fromkeys(r["seed"] for r in faults))

  def fractions(holds: Callable[[Record], bool], some: Any) -> np.ndarray:
    return np.array(
      [np.mean([holds(r) for r in some if r["seed"] == s]) for s in seeds]
    )

  told = [r for r in faults if not r["nameless"]]
  caught = fractions(lambda r: r["caught"], faults)
  by_peer = _rejected(best_setting(faults, correct))
  peer = fractions(by_peer, faults)
  alarms = np.array([float(r["verdict"] == "wrong") for r in correct])
  peer_alarms = np.array([float(by_peer(r)) for r in correct])

  def above(name: str, text: str, values: np.ndarray, target: float) -> Any:
    effect = mean_interval(values, seed=0)
    return Question("G4", name, text, effect, "greater", target)

  return [
    above("mistakes found", "fraction of faults called wrong", caught, FOUND),
    above(
      "tensors named",
      "fraction of faults with just the wrong tensors named",
      fractions(lambda r: r["placed"], faults),
      FOUND,
    ),
    above(
      "cause named",
      "fraction of faults that can be told with the right cause named",
      fractions(lambda r: r["named"], told),
      NAMED,
    ),
    Question(
      "G4",
      "false alarms",
      "fraction of correct networks called wrong",
      mean_interval(alarms, seed=0),
      "less",
      FALSE_ALARMS,
    ),
    Question(
      "G4",
      "more found than by check_grads",
      "found by ours less found by check_grads with its best step",
      paired_difference(caught, peer, seed=0),
    ),
    Question(
      "G4",
      "fewer false alarms than check_grads",
      "false alarms of ours less those of check_grads with its best step",
      paired_difference(alarms, peer_alarms, seed=0),
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
    y = np.arange(len(rates))[::-1]
    for i, (place, found) in enumerate(zip(y, rates, strict=True)):
      value = 100 * found["rate"]
      ax.barh(place, value, 0.6, color=plotting.COLOURS[i])
      low, high = 100 * found["low"], 100 * found["high"]
      ax.plot([low, high], [place, place], color="black", linewidth=1.2)
      ax.annotate(
        f"{found['count']:,} of {found['of']:,}",
        (max(value, high), place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
      )
    ax.set_yticks(y, names)
    ax.set_xlim(0, 128)
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel("% (line: 95 % Wilson interval)")
    ax.set_title(title)
    ax.grid(axis="y", visible=False)
  return figure
