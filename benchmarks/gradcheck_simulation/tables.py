"""From the records of the checks to counts, a page and a figure."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.gradcheck_simulation.cases import PRECISIONS, RIGHT, SIZES
from benchmarks.gradcheck_simulation.judges import REJECTED
from mnist_jax import gradcheck, plotting, stats

# By one of these at a time the checks are counted.
FACTORS = (
  "all",
  "plain",
  "precision",
  "family",
  "noise",
  "sizes",
  "unit",
  "handed",
)
_OWN = {"wrong": "found", "unresolved": "not resolved", "correct": "missed"}
_PEERS = {"check_grads": "check_grads", "torch": "torch's rule"}
_JUDGES = {"wrong": "gradcheck", **_PEERS}
_DECIDED = ("wrong", "correct")
_LIMITED = "rounding-limited"
_MARK = gradcheck.RECHECK


def verdicts(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
  """A row a check, with what each judge said as columns of 0 and 1.

  "wrong", "correct" and "unresolved", any other verdict, are ours; of the last
  "limited" says so itself. "check_grads" and "torch" say whether it was
  rejected. "beyond": whether a mistake makes a distance above the report's
  re-check mark in some tensor; "rounded": whether rounding does so in the
  gradient without the mistake.
  """
  table = pd.DataFrame(list(records))
  said = table["ours"]
  same_unit = (table["sizes"] == "one") & (table["unit"] == 1)
  plain = same_unit & (table["noise"] == "none")
  marks = {
    "wrong": said == "wrong",
    "correct": said == "correct",
    "unresolved": ~said.isin(_DECIDED),
    "limited": said == _LIMITED,
    "beyond": table["planted"] > _MARK,
    "rounded": table["rounding"] > _MARK,
    **{peer: table[peer] == REJECTED for peer in _PEERS},
  }
  return table.assign(
    all="yes",
    plain=np.where(plain, "yes", "no"),
    unit=np.where(table["unit"] == 1, "1", "1e-9 to 1e9"),
    **{name: mark.astype(int) for name, mark in marks.items()},
  )


def counts(table: pd.DataFrame) -> pd.DataFrame:
  """Of `verdicts`, by each of FACTORS, with kind and size of the mistake.

  Returns:
    Columns "factor", "level", "kind", "size", "checks"; how many of these each
    judge rejected, ours could not resolve or called correct; "correct_beyond"
    and "wrong_rounded", how many were correct with a mistake above the mark,
    or wrong where rounding spoils the gradient; and each verdict of ours.
  """
  each = pd.get_dummies(table["ours"], prefix="ours", dtype=int)
  whole = pd.concat([table, each], axis=1).assign(
    correct_beyond=table["correct"] * table["beyond"],
    wrong_rounded=table["wrong"] * table["rounded"],
  )
  names = [*_OWN, *_PEERS, "correct_beyond", "wrong_rounded", *each]
  parts = []
  for factor in FACTORS:
    grouped = whole.groupby([factor, "kind", "size"])
    found = grouped[names].sum()
    found.insert(0, "checks", grouped.size())
    found = found.reset_index().rename(columns={factor: "level"})
    found.insert(0, "factor", factor)
    parts.append(found)
  return pd.concat(parts, ignore_index=True)


def share(marks: pd.Series) -> str:
  """How many of the marks are 1, in per cent with Wilson's 95 % interval."""
  if not len(marks):
    return "–"
  found = stats.wilson_interval(int(marks.sum()), len(marks))
  low, high = 100 * found.low, 100 * found.high
  return f"{100 * found.estimate:.3g} ({low:.3g} to {high:.3g})"


def _markdown(rows: Sequence[dict[str, str]]) -> str:
  if not rows:
    return "None was drawn."
  lines = [list(rows[0]), ["---"] * len(rows[0])]
  lines += [list(row.values()) for row in rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _levels(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
  for factor in FACTORS:
    for level, own in table.groupby(factor, sort=False):
      yield f"{factor}: {level}", own


def _alarms(right: pd.DataFrame) -> str:
  rows = []
  for name, own in _levels(right):
    spoiled = int((own["wrong"] * own["rounded"]).sum())
    rows.append(
      {
        "right gradients": name,
        "checks": f"{len(own):,}",
        "called wrong by gradcheck": share(own["wrong"]),
        "of these spoiled": f"{spoiled:,}",
        "rounding-limited": share(own["limited"]),
        "another verdict": share(own["unresolved"] - own["limited"]),
        **{
          f"rejected by {name}": share(own[peer])
          for peer, name in _PEERS.items()
        },
      }
    )
  return _markdown(rows)


def _misses(groups: Iterable[tuple[str, pd.DataFrame]]) -> str:
  return _markdown(
    [
      {
        "mistakes": name,
        "checks": f"{len(own):,}",
        **{f"{word} by gradcheck": share(own[c]) for c, word in _OWN.items()},
        **{
          f"missed by {judge}": share(1 - own[peer])
          for peer, judge in _PEERS.items()
        },
      }
      for name, own in groups
    ]
  )


def _by_size(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
  for size, own in table.groupby("size"):
    yield f"{size:g}", own


_TEXT = """\
# The gradient check by simulation

{checks} checks, by `python -m benchmarks.gradcheck_simulation`, whose `--help`
says what is drawn. Numbers are per cent of the checks with Wilson's 95 %
interval; every count is in `counts.csv`, and how this was run in `run.json`.
"Plain" are parameters and losses of size 1 without noise.

![Alarms, and mistakes found by size](gradcheck_simulation.png)

## Right gradients

By `jax.grad`, in the loss's precision. "Spoiled": its own rounding makes a
distance above {mark:g} in some tensor. "Another verdict": kink, not finite,
nondeterministic, or an exception.

{alarms}

## Mistakes

"entry": one entry off by that part of its tensor's root mean square; "tensor":
one tensor too large or too small by that part; "all": so every entry;
"dropped": one tensor 0; "sign": one tensor reversed. "Missed" is a mistake that
was called correct; smaller than the rounding of its precision, nobody can find
it. What a judge rejects of right gradients, it finds here without merit.

{by_kind}

## Plain mistakes, by size

{plain}

## Mistakes by precision and size

{by_precision}

## Mistakes that make a distance above {mark:g} in some tensor

{beyond}
"""


def page(table: pd.DataFrame) -> str:
  """The tables of `verdicts` in Markdown."""
  planted = table[table["kind"] != RIGHT]
  beyond = planted[planted["beyond"] == 1]
  by_kind = [
    (f"{kind}, {size:g}", own)
    for (kind, size), own in planted.groupby(["kind", "size"])
  ]
  by_precision = [
    (f"{precision}, {size}", own)
    for precision in PRECISIONS
    for size, own in _by_size(planted[planted["precision"] == precision])
  ]
  return _TEXT.format(
    checks=f"{len(table):,}",
    mark=_MARK,
    alarms=_alarms(table[table["kind"] == RIGHT]),
    by_kind=_misses(by_kind),
    plain=_misses(_by_size(planted[planted["plain"] == "yes"])),
    by_precision=_misses(by_precision),
    beyond=_misses(_levels(beyond)),
  )


def _draw_rates(
  ax: plotting.Axes,
  table: pd.DataFrame,
  by: str,
  columns: dict[str, str],
  *,
  first: int = 0,
) -> list[Any]:
  """Percentages with Wilson intervals; gives the levels of `by`, in order."""
  levels = sorted(table[by].unique(), key=_rank)
  for i, (column, name) in enumerate(columns.items()):
    marks = [table.loc[table[by] == level, column] for level in levels]
    rates = [stats.wilson_interval(int(m.sum()), len(m)) for m in marks]
    ends = [[r.estimate, r.low, r.high] for r in rates]
    shift = i - (len(columns) - 1) / 2
    if by == "size":  # on a log axis
      x, line = np.array(levels, float) * 1.12**shift, "-"
    else:
      x, line = np.arange(len(levels)) + 0.15 * shift, "none"
    percent = 100 * np.array(ends).reshape(-1, 3)
    plotting.error_bars(
      ax, x, *percent.T, index=first + i, label=name, linestyle=line
    )
  return levels


def _rank(level: Any) -> Any:
  return list(PRECISIONS).index(level) if level in PRECISIONS else level


def picture(table: pd.DataFrame) -> plotting.Figure:
  """Alarms by precision, and what is found by size of the mistake."""
  right = table[table["kind"] == RIGHT]
  sized = table[table["kind"].isin(["entry", "tensor", "all"])]
  figure, axes = plotting.panels(2, 3, (14, 7.6))
  alarms, *others, every = axes.ravel()
  levels = _draw_rates(alarms, right, "precision", _JUDGES)
  names = [level.replace(" ", "\n") for level in levels]
  alarms.set_xticks(range(len(levels)), names)
  alarms.set(title="right gradients", ylabel="called wrong, % of checks")
  for ax, precision in zip(others, PRECISIONS, strict=True):
    own = sized[sized["precision"] == precision]
    _draw_rates(ax, own, "size", _JUDGES)
    ax.set(title=f"mistakes, {precision}", ylabel="called wrong, % of checks")
  _draw_rates(every, sized, "size", _OWN, first=3)
  every.set(title="mistakes, gradcheck, all precisions", ylabel="% of checks")
  for ax in (*others, every):
    plotting.log_axis(ax, "x", SIZES)
    ax.set(ylim=(-3, 103), xlabel="size of the mistake, relative")
  alarms.set_ylim(bottom=-3)
  for ax in (alarms, every):  # the colours of the others are the first's
    ax.legend()
  return figure
