"""From the records of the checks to counts, a page and a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.gradcheck_simulation.cases import PRECISIONS, RIGHT, SIZES
from benchmarks.gradcheck_simulation.judges import REJECTED
from mnist_jax import gradcheck, plotting, stats

# By one of these at a time the checks are counted.
FACTORS = ("all", "precision", "family", "noise", "sizes", "unit", "handed")
_PEERS = {"check_grads": "check_grads", "torch": "torch's rule"}
_JUDGES = {"wrong": "gradcheck", **_PEERS}
_OWN = ("wrong", "unresolved", "correct")  # what ours says, one of the three


def verdicts(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
  """A row a check, with what each judge said as columns of 0 and 1.

  "wrong", "unresolved" and "correct" are ours, "unresolved" any verdict but the
  other two; "check_grads" and "torch" say whether it was rejected. "beyond":
  whether a mistake makes a distance above the report's re-check mark in some
  tensor; "rounded": whether rounding does so in the gradient without it.
  """
  table = pd.DataFrame(list(records))
  said = table["ours"]
  return table.assign(
    all="all checks",
    unit=np.where(table["unit"] == 1, "1", "1e-9 to 1e9"),
    wrong=(said == "wrong").astype(int),
    correct=(said == "correct").astype(int),
    unresolved=(~said.isin(["wrong", "correct"])).astype(int),
    beyond=(table["planted"] > gradcheck.RECHECK).astype(int),
    rounded=(table["rounding"] > gradcheck.RECHECK).astype(int),
    **{peer: (table[peer] == REJECTED).astype(int) for peer in _PEERS},
  )


def counts(table: pd.DataFrame) -> pd.DataFrame:
  """Of `verdicts`, by each of FACTORS, with kind and size of the mistake.

  Returns:
    Columns "factor", "level", "kind", "size", "checks", and how many of these
    each judge rejected, ours could not resolve or called correct, and each
    verdict of ours.
  """
  each = pd.get_dummies(
    table["ours"], prefix="ours", prefix_sep=": ", dtype=int
  )
  names = [*_OWN, *_PEERS, "beyond", "rounded"]
  whole = pd.concat([table, each], axis=1)
  parts = []
  for factor in FACTORS:
    grouped = whole.groupby([factor, "kind", "size"], sort=False)
    found = grouped[[*names, *each]].sum()
    found.insert(0, "checks", grouped.size())
    found = found.reset_index().rename(columns={factor: "level"})
    found.insert(0, "factor", factor)
    parts.append(found.sort_values(["level", "kind", "size"]))
  return pd.concat(parts, ignore_index=True)


def share(count: int, of: int) -> str:
  """In per cent with Wilson's 95 % interval; a dash of none."""
  if not of:
    return "–"
  found = stats.wilson_interval(int(count), int(of))
  low, high = 100 * found.low, 100 * found.high
  return f"{100 * found.estimate:.3g} ({low:.2g} to {high:.2g})"


def _markdown(rows: Sequence[dict[str, str]]) -> str:
  names = list(rows[0])
  lines = [names, ["---"] * len(names), *[list(row.values()) for row in rows]]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _alarms(table: pd.DataFrame) -> str:
  right = table[table["kind"] == RIGHT]
  rows = []
  for factor in FACTORS:
    for level, own in right.groupby(factor, sort=False):
      total = len(own)
      spoiled = int((own["wrong"] & own["rounded"]).sum())
      rows.append(
        {
          "right gradients": str(level)
          if factor == "all"
          else f"{factor}: {level}",
          "checks": f"{total:,}",
          "called wrong by gradcheck": share(own["wrong"].sum(), total),
          "of these spoiled by rounding": f"{spoiled:,}",
          "not resolved by gradcheck": share(own["unresolved"].sum(), total),
          **{
            f"rejected by {name}": share(own[peer].sum(), total)
            for peer, name in _PEERS.items()
          },
        }
      )
  return _markdown(rows)


def _of_mistakes(groups: Any) -> str:
  rows = []
  for name, own in groups:
    total = len(own)
    rows.append(
      {
        "mistake": name,
        "checks": f"{total:,}",
        "found by gradcheck": share(own["wrong"].sum(), total),
        "not resolved by it": share(own["unresolved"].sum(), total),
        "missed by it": share(own["correct"].sum(), total),
        **{
          f"missed by {judge}": share(total - own[peer].sum(), total)
          for peer, judge in _PEERS.items()
        },
      }
    )
  return _markdown(rows)


def page(table: pd.DataFrame) -> str:
  """The tables of `verdicts` in Markdown."""
  planted = table[table["kind"] != RIGHT]
  by_kind = [
    (f"{kind}, {size:g}", own)
    for (kind, size), own in planted.groupby(["kind", "size"])
  ]
  by_precision = [
    (f"{precision}, {size:g}", own)
    for (precision, size), own in planted.groupby(
      ["precision", "size"], sort=False
    )
  ]
  beyond = planted[planted["beyond"] == 1]
  mark = gradcheck.RECHECK
  return "\n".join(
    [
      "# The gradient check by simulation",
      "",
      f"{len(table):,} checks, written by `python -m "
      "benchmarks.gradcheck_simulation`, whose `--help` says what is drawn. "
      "In per cent, with Wilson's 95 % interval. How this was run is in "
      "`run.json`, every count in `counts.csv`.",
      "",
      "![Alarms, and mistakes found by size](gradcheck_simulation.png)",
      "",
      "## Right gradients",
      "",
      "Of the checks of a gradient by `jax.grad`. \"Spoiled by rounding\": its "
      f"own rounding makes a distance above {mark:g} in some tensor.",
      "",
      _alarms(table),
      "",
      "## Mistakes, by kind and size",
      "",
      "\"entry\": one entry off by that part of its tensor's root mean square; "
      "\"tensor\": one tensor too large or small by that part; \"all\": all "
      "entries; \"dropped\": one tensor 0; \"sign\": one tensor reversed. What "
      "a judge rejects among right gradients it \"finds\" here by chance.",
      "",
      _of_mistakes(by_kind),
      "",
      "## Mistakes, by precision and size",
      "",
      _of_mistakes(by_precision),
      "",
      f"## Mistakes that make a distance above {mark:g} in some tensor",
      "",
      _of_mistakes([("all of them", beyond), *beyond.groupby("precision", sort=False)]),
      "",
    ]
  )  # fmt: skip


def _points(
  ax: Any, x: Any, found: pd.DataFrame, column: str, **look: Any
) -> None:
  """Percentages of checks, with Wilson intervals."""
  rates = [
    stats.wilson_interval(int(count), int(of))
    for count, of in zip(found[column], found["checks"], strict=True)
  ]
  ends = (
    [100 * getattr(r, end) for r in rates]
    for end in ("estimate", "low", "high")
  )
  plotting.error_bars(ax, np.asarray(x), *map(np.asarray, ends), **look)


def _sums(table: pd.DataFrame, by: str) -> pd.DataFrame:
  grouped = table.groupby(by, sort=False)
  found = grouped[[*_OWN, *_PEERS]].sum()
  return found.assign(checks=grouped.size())


def picture(table: pd.DataFrame) -> plotting.Figure:
  """Alarms by precision, and what is found by size of the mistake."""
  right = table[table["kind"] == RIGHT]
  sized = table[table["kind"].isin(["entry", "tensor", "all"])]
  figure, axes = plotting.panels(2, 3, (14, 7.6))
  first, *others, last = axes.ravel()
  alarms = _sums(right, "precision").reindex(list(PRECISIONS)).dropna()
  for i, (column, name) in enumerate(_JUDGES.items()):
    x = np.arange(len(alarms)) + 0.15 * (i - 1)
    _points(first, x, alarms, column, index=i, label=name)
  first.set_xticks(
    range(len(alarms)), [p.replace(" ", "\n") for p in alarms.index]
  )
  first.set(title="right gradients", ylabel="called wrong, % of checks")
  for ax, precision in zip(others, PRECISIONS, strict=True):
    own = _sums(sized[sized["precision"] == precision], "size").sort_index()
    for i, (column, name) in enumerate(_JUDGES.items()):
      _points(
        ax,
        own.index * 1.12 ** (i - 1),
        own,
        column,
        index=i,
        label=name,
        linestyle="-",
      )
    ax.set(title=f"mistakes, {precision}", ylabel="called wrong, % of checks")
  every = _sums(sized, "size").sort_index()
  for i, (column, name) in enumerate(
    zip(_OWN, ("found", "not resolved", "missed"), strict=True)
  ):
    _points(
      last, every.index, every, column, index=i + 3, label=name, linestyle="-"
    )
  last.set(title="mistakes, gradcheck in all precisions", ylabel="% of checks")
  for ax in (*others, last):
    plotting.log_axis(ax, "x", SIZES)
    ax.set(ylim=(-3, 103), xlabel="size of the mistake, relative")
  for ax in axes.ravel():
    ax.set_ylim(bottom=-3)
    ax.legend()
  return figure
