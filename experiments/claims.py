"""The table of the chapter's claims, from the committed results.

  python -m experiments.claims             # prints it
  python -m experiments.claims --write     # writes it to README.md, and every
                                           # part to results/README.md

Reads results/*/verdict.json, which the studies wrote; a claim without one is
listed as not judged yet.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags

from experiments._shared import app
from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError

FLAGS = flags.FLAGS
ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
CLAIMS = {
  "N1": "the network learns MNIST, as the book's one run did",
  "N2": "256 hidden units do better than 64",
  "G1": "the two-sided difference errs less than the one-sided",
  "G2": "a distance below 1e-7 is reached by correct code",
  "G3": "the error builds up with depth",
  "G4": "a gradient check finds mistakes in backprop",
  "G5": "regularisation, dropout, and checks again as weights grow",
  "L1": "too small a rate is slow; too large fluctuates or diverges",
  "L2": "Robbins and Monro's conditions suffice to converge",
  "L3": "the range test finds a good initial rate",
  "L4": "at batch 128 0.5 is the best of four rates, and overtakes 0.8",
  "L5": "a large rate, then a smaller one, beats either alone",
  "L6": "the six policies are their formulas",
  "B1": "small batches want small rates",
  "B2": "the best rate grows linearly with the batch, then like its root",
  "B3": "the rate cannot exceed 1.0",
  "B4": "16 and 32 samples have about the same gradient variance",
  "B5": "growing the batch replaces decaying the rate",
  "B6": "a fixed rate has a best batch, which grows with rate and data",
  "B7": "larger batches need fewer updates and give smoother curves",
  "B8": "too large a batch generalises worse",
  "B9": "the worked example: eta 1.5 and eta 2",
  "S1": "one rate does not suit all parameters of sparse features",
  "S2": "saddles, not local minima, hold SGD up",
}


def define_flags() -> None:
  flags.DEFINE_boolean("write", False, "to README.md and results/README.md")


Found = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def read(folder: Path, pattern: str = "*/verdict.json") -> Found:
  """By claim: its record, and that of the study it is in.

  Raises:
    InputError: a file that is no verdict, or a claim judged by two studies.
  """
  found: Found = {}
  for path in sorted(folder.glob(pattern)):
    try:
      study = json.loads(path.read_text("utf-8"))
      claims = {claim["claim"]: claim for claim in study["claims"]}
    except (ValueError, KeyError, TypeError):
      raise InputError(f"{path}: is no verdict of a study") from None
    for name, claim in claims.items():
      if name in found:
        raise InputError(f"{path}: {name} is judged by another study as well")
      found[name] = (claim, study)
  return found


def _parts_text(parts: list[dict[str, Any]]) -> str:
  """How many parts came to each verdict, of those judged."""
  counts = {
    verdict: sum(part["verdict"] == verdict for part in parts)
    for verdict in ("holds", "does not hold", "undecided")
  }
  return ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)


def _time(seconds: float) -> str:
  return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _number(value: float) -> str:
  return f"{value:.4g}"


def _effect(part: dict[str, Any]) -> str:
  low, high = map(_number, part["interval"])
  return f"{_number(part['effect'])} ({low} to {high})"


def leading_part(claim: dict[str, Any]) -> dict[str, Any]:
  """The first part that came to the claim's verdict, measured if one was."""
  own = [p for p in claim["parts"] if p["verdict"] == claim["verdict"]]
  measured = [part for part in own if part["effect"] is not None]
  return (measured or own)[0]


def _effect_text(claim: dict[str, Any]) -> str:
  part = leading_part(claim)
  value = _effect(part) if part["effect"] is not None else part["note"]
  return f"{part['name']}: {value or 'derived'}"


def _cell(text: str) -> str:
  return text.replace("|", "\\|")  # it would end the cell


def table(found: Found) -> str:
  """A line for each claim of the chapter, in Markdown."""
  lines = [
    "| claim | in a line | verdict | its parts | effect | n | command | time |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for name, text in CLAIMS.items():
    if name not in found:
      lines.append(f"| {name} | {text} | not judged yet | | | | | |")
      continue
    claim, study = found[name]
    lines.append(
      f"| {name} | {text} | **{claim['verdict']}** | "
      f"{_parts_text(claim['parts'])} | {_cell(_effect_text(claim))} | "
      f"{claim['n'] or 'derived'} | "
      f"`{study['command']}` | {_time(study['wall_seconds'])} |"
    )
  return "\n".join(lines)


def plain_table(found: Found) -> str:
  """The same for a terminal, of the claims that were judged."""
  rows = [("claim", "", "verdict", "effect", "n", "time")]
  rows += [
    (
      name,
      text,
      found[name][0]["verdict"],
      _effect_text(found[name][0]),
      str(found[name][0]["n"] or "derived"),
      _time(found[name][1]["wall_seconds"]),
    )
    for name, text in CLAIMS.items()
    if name in found
  ]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return "\n".join(
    "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))
    for row in rows
  )


def _part_line(part: dict[str, Any]) -> str:
  effect = ""
  if part["effect"] is not None:
    effect = _effect(part)
  aim = {"same": "=", "greater": ">", "less": "<"}.get(part["kind"], "")
  if aim:
    aim += f" {_number(part['target'])}"
    if part["margin"] is not None:
      aim += f", margin {_number(part['margin'])}"
  needed = part["seeds_needed"]
  note = part["note"] + (f"; {needed} seeds would decide it" if needed else "")
  return (
    f"| {_cell(part['name'])} | {_cell(part['text'])} | {aim} | {effect} | "
    f"{part['n'] or ''} | {part['verdict']} | {_cell(note)} |"
  )


def details(found: Found) -> str:
  """Every part of every claim judged, in Markdown."""
  text = [
    "# Results",
    "",
    "Written by `python -m experiments.claims --write` from the verdict.json "
    "of each study. Effects are means over seeds with 95 % intervals, in the "
    "units of the part (accuracies as fractions, losses in nats); the "
    "tests, the margins and Holm's correction are described in each "
    "study's docstring and in `mnist_jax/stats/verdicts.py`.",
  ]
  for name, summary in CLAIMS.items():
    if name not in found:
      continue
    claim, study = found[name]
    device, versions = study["device"], study["versions"]
    text += [
      "",
      f"## {name}: {summary} — {claim['verdict']}",
      "",
      ", ".join(
        [
          f"`{study['command']}`",
          *([study["date"]] if "date" in study else []),
          f"{device['count']} x {device['kind']}",
          f"jax {versions['jax']}",
          _time(study["wall_seconds"]),
        ]
      ),
      "",
      "| part | in words | claimed | effect | n | verdict | note |",
      "|---|---|---|---|---|---|---|",
      *map(_part_line, claim["parts"]),
    ]
  return "\n".join(text) + "\n"


def regret_table(folder: Path) -> str:
  """What following each rule of the range test costs, in Markdown.

  From the results of lr_range_audit, in points of development accuracy.
  """
  by_size = pd.read_csv(folder / "lr_range_audit" / "summary.csv")
  (parts,) = (
    claim["parts"] for name, (claim, _) in read(folder).items() if name == "L3"
  )
  sizes = by_size["batch_size"].unique()
  lines = [
    f"| rule | median at batch {', '.join(map(str, sizes))} | mean over all | "
    "median over seeds of the mean over batches |",
    "|---|---|---|---|",
  ]
  for rule, own in by_size.groupby("rule", sort=False):
    (part,) = (p for p in parts if p["name"] == f"rule {rule}")
    low, high = (100 * limit for limit in part["interval"])
    medians = ", ".join(f"{value:.2f}" for value in own["regret_median"])
    _, _, median = part["note"].partition("median ")
    lines.append(
      f"| {rule} | {medians} | {100 * part['effect']:.2f} ({low:.2f} to "
      f"{high:.2f}) | {median} |"
    )
  return "\n".join(lines)


def in_readme(readme: str, name: str, block: str) -> str:
  """The README with a table in its place.

  Args:
    name: of the place, between whose marks the table goes.

  Raises:
    InputError: the marks of the place are missing.
  """
  marks = BEGIN.format(name), END.format(name)
  before, begin, rest = readme.partition(marks[0])
  _, end, after = rest.partition(marks[1])
  if not begin or not end:
    raise InputError(f"README.md: expected the marks {' and '.join(marks)}")
  return f"{before}{begin}\n{block}\n{end}{after}"


def written(readme: str, folder: Path) -> str:
  """The README with all its tables of the results in the folder."""
  readme = in_readme(readme, "claims", table(read(folder)))
  return in_readme(readme, "regret", regret_table(folder))


def main(_: list[str]) -> None:
  found = read(ROOT / "results")
  print(table(found))
  if FLAGS.write:
    readme = ROOT / "README.md"
    for path, text in (
      (readme, written(readme.read_text("utf-8"), ROOT / "results")),
      (ROOT / "results" / "README.md", details(found)),
    ):
      with files.replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
