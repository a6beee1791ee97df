"""The tables of the chapter's claims, from the committed results.

  python -m experiments.claims             # prints every claim's line
  python -m experiments.claims --write     # writes the tables of README.md,
                                           # docs/ and results/README.md

Reads results/*/verdict.json, which the studies wrote; a claim without one is
listed as not judged yet.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
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
  "H1": "longer training wants smaller rates, more so at small batches",
  "H2": "a rate cut by c is worth a batch grown by c (SGD) or c squared (Adam)",
  "H3": "the critical batch grows as the loss falls, by three measures",
  "H4": "training brings the curvature to 2 / rate, which bounds the rate",
  "H5": "Adam's best rate grows like the batch's root, and by less than SGD's",
  "H6": "linear to zero beats a constant rate, untuned and tuned",
  "H7": "the best rate moves with the width, and with muP it stays",
  "H8": "near 0 the network waits at a saddle, and leaves it for one loss",
}
_SHORT = ("claim", "verdict", "what was found")
_COLUMNS = (*_SHORT, "n", "time", "command")


def define_flags() -> None:
  flags.DEFINE_boolean("write", False, "into README.md, docs/ and results/")


Found = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def read(*folders: Path) -> Found:
  """The verdicts in folders or one below: of each claim its and its study's.

  Raises:
    InputError: A file that is no verdict, or a claim judged by two studies.
  """
  found: Found = {}
  places = ("verdict.json", "*/verdict.json")
  for path in sorted(p for f in folders for at in places for p in f.glob(at)):
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


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  lines = [columns, ["---"] * len(columns), *rows]
  escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
  return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def in_words(seconds: float) -> str:
  """A time, in seconds or minutes."""
  return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _interval(values: Sequence[float]) -> str:
  return "{:.4g} ({:.4g} to {:.4g})".format(*values)


def _effect(part: dict[str, Any]) -> str:
  if part["effect"] is None:
    return ""
  return _interval([part["effect"], *part["interval"]])


def beside(claim: Mapping[str, Any]) -> tuple[str, str]:
  """What a word leaves out: "holds", "not" or "", and of what.

  "mostly not" has the restriction that holds, "holds with limits" the
  secondary parts that do not.
  """
  if claim["restriction"]:
    return "holds", claim["restriction"]
  if claim["verdict"] != "holds with limits":
    return "", ""
  names = (
    part["name"]
    for part in claim["parts"]
    if (part["role"], part["verdict"]) == ("secondary", "does not hold")
  )
  return "not", "; ".join(names)


def _word(claim: Mapping[str, Any]) -> str:
  kind, what = beside(claim)
  start = {"holds": "it holds ", "not": "not: "}.get(kind, "")
  return f"**{claim['verdict']}**" + (f" ({start}{what})" if kind else "")


def _line(name: str, found: Found) -> dict[str, str]:
  """A claim's cells, by column."""
  if name not in found:
    return {"claim": name, "verdict": "not judged yet"}
  claim, study = found[name]
  return {
    "claim": name,
    "verdict": _word(claim),
    "what was found": claim["sentence"],
    "n": str(claim["n"] or "derived"),
    "time": in_words(study["wall_seconds"]),
    "command": f"`{study['command']}`",
  }


def table(
  found: Found, columns: Sequence[str] = _COLUMNS, page: str = ""
) -> str:
  """Every claim of the chapter, in Markdown; its name leads to `page`."""
  rows = []
  for name in CLAIMS:
    line = _line(name, found)
    line["claim"] = f"[{name}]({page}#{name.lower()})"
    rows.append([line.get(column, "") for column in columns])
  return _markdown(columns, rows)


def plain_table(found: Found) -> str:
  """The claims that were judged, for a terminal."""
  lines = [_line(name, found) for name in CLAIMS if name in found]
  heads = app.aligned(
    [
      [line["claim"], line["verdict"].replace("*", ""), f"n {line['n']}"]
      for line in lines
    ]
  )
  told = [f"  {line['what was found']}" for line in lines]
  return "\n".join(itertools.chain(*zip(heads, told, strict=True)))


_PART = ("part", "role", "claimed", "effect", "on test data", "n", "verdict")


def _part_cells(part: dict[str, Any]) -> list[str]:
  aim = {"same": "=", "greater": ">", "less": "<"}.get(part["kind"], "")
  if aim:
    aim += f" {part['target']:.4g}"
    if part["margin"] is not None:
      aim += f", margin {part['margin']:.4g}"
  test = part["test_effect"]
  verdict = part["verdict"]
  finding = part["finding"]
  if finding and verdict != "holds":
    verdict += f": {finding}"
  return [
    *(part["name"], part["role"], aim, _effect(part)),
    *(_interval(test) if test else "", str(part["n"] or ""), verdict),
  ]


def _note_cells(part: dict[str, Any]) -> list[str]:
  needed = part["seeds_needed"]
  note = part["note"] + (f"; {needed} seeds would decide it" if needed else "")
  return [part["text"], note]


def _facts(study: dict[str, Any]) -> str:
  device = study["device"]
  facts = [
    f"`{study['command']}`",
    study["date"],
    f"{device['count']} x {device['kind']}",
    f"jax {study['versions']['jax']}",
    in_words(study["wall_seconds"]),
  ]
  return ", ".join(facts)


def details(found: Found) -> str:
  """Every part of every claim judged, in Markdown."""
  text = [
    "# Every part of every claim",
    "",
    "Written by `python -m experiments.claims --write` from the verdict.json "
    "of each study; `docs/results.md` says what it comes to. Effects are over "
    "seeds with 95 % intervals, in the units of the part (accuracies as "
    "fractions, losses in nats); the rules are in "
    "`mnist_jax/stats/verdicts.py`, the tests and margins in each study's "
    "docstring. Effects on test data are printed beside, and judge nothing.",
  ]
  for name, summary in CLAIMS.items():
    if name not in found:
      continue
    claim, study = found[name]
    parts = claim["parts"]
    rows = [_part_cells(part) + _note_cells(part) for part in parts]
    logic = f" (primary parts: {claim['logic']})"
    text += [
      *("", f"## {name}", "", f"{summary}: {_word(claim)}{logic}", ""),
      *(claim["sentence"], ""),
      *(_facts(study), ""),
      _markdown((*_PART, "in words", "note"), rows),
    ]
  return "\n".join(text) + "\n"


def block(name: str, found: Found) -> str:
  """What a claim came to, for its section of docs/results.md."""
  claim, study = found[name]
  primary = [part for part in claim["parts"] if part["role"] == "primary"]
  parts = f"[All parts of {name}](../results/README.md#{name.lower()})"
  return "\n".join(
    [
      f"{_word(claim)}: {claim['sentence']}",
      "",
      f"{_facts(study)}. {parts}.",
      "",
      _markdown(_PART, map(_part_cells, primary)),
    ]
  )


def regret_table(folder: Path) -> str:
  """What following each rule of the range test costs, in Markdown.

  It is of the results of lr_range_audit, in points of development accuracy.

  Raises:
    InputError: As `read`.
  """
  by_size = pd.read_csv(folder / "lr_range_audit" / "summary.csv")
  parts = {part["name"]: part for part in read(folder)["L3"][0]["parts"]}
  rows = []
  for rule, own in by_size.groupby("rule", sort=False):
    part = parts[f"rule {rule}"]
    low, high = (100 * limit for limit in part["interval"])
    medians = ", ".join(f"{value:.2f}" for value in own["regret_median"])
    cost = f"{100 * part['effect']:.2f} ({low:.2f} to {high:.2f})"
    refused = part["note"][part["note"].find("refused") :]
    rows.append([rule, medians, cost, refused])
  sizes = ", ".join(map(str, by_size["batch_size"].unique()))
  columns = ("rule", f"median at batch {sizes}", "over all batches", "runs")
  return _markdown(columns, rows)


def best_rates_table(folder: Path) -> str:
  """The best rate of each batch size by epochs of training, in Markdown.

  It is of the results of lr_batch_size, with 95 % intervals.

  Raises:
    OSError: They are not there.
  """
  best = pd.read_csv(folder / "lr_batch_size" / "summary.csv")
  best = best[best["by"] == "dev_loss"]
  epochs = sorted(best["epochs"].unique())
  rows = []
  for size, own in best.groupby("batch_size"):
    found = own.set_index("epochs")
    cells = (
      "{best_rate:.2g} ({best_rate_low:.2g} to {best_rate_high:.2g})".format(
        **found.loc[count]
      )
      if count in found.index
      else ""
      for count in epochs
    )
    rows.append([str(size), *cells])
  count = (f"{n} epoch{'' if n == 1 else 's'}" for n in epochs)
  return _markdown(("batch", *count), rows)


BEYOND = ("H3", "H5", "H7")  # of the questions that the chapter has not


def times_table(found: Found) -> str:
  """How long each study took within the chapter, in Markdown."""
  claims_of: dict[str, list[str]] = {}
  seconds: dict[str, float] = {}
  for name in CLAIMS:
    if name in found:
      study = found[name][1]
      claims_of.setdefault(study["study"], []).append(name)
      seconds[study["study"]] = study["wall_seconds"]
  rows = [
    [f"`{study}`", ", ".join(claims_of[study]), in_words(taken)]
    for study, taken in sorted(seconds.items(), key=lambda item: -item[1])
  ]
  beyond = {s for s, names in claims_of.items() if {*names} <= {*BEYOND}}
  parts = {
    f"all but {', '.join(BEYOND)}": seconds.keys() - beyond,
    "all": seconds.keys(),
  }
  rows += [
    ["**in all**", what, f"{sum(seconds[s] for s in own) / 3600:.1f} hours"]
    for what, own in parts.items()
  ]
  return _markdown(("study", "claims", "time"), rows)


def in_place(text: str, name: str, block: str) -> str:
  """A document with a table between the marks of that name.

  Raises:
    InputError: The marks are missing.
  """
  marks = BEGIN.format(name), END.format(name)
  before, begin, rest = text.partition(marks[0])
  _, end, after = rest.partition(marks[1])
  if not begin or not end:
    raise InputError(f"expected the marks {' and '.join(marks)}")
  return f"{before}{begin}\n{block}\n{end}{after}"


def written(root: Path) -> dict[Path, str]:
  """Every page with a table of the results, by its path, as it should be.

  Raises:
    InputError: As `read` and `in_place`.
  """
  results = root / "results"
  found = read(results)
  places = {
    root / "README.md": [("claims", table(found, _SHORT, "docs/results.md"))],
    root / "docs" / "results.md": [
      ("claims", table(found)),
      *((name, block(name, found)) for name in CLAIMS if name in found),
    ],
    root / "docs" / "studies.md": [("times", times_table(found))],
    root / "docs" / "range_test.md": [("regret", regret_table(results))],
    root / "docs" / "which_rate.md": [("rates", best_rates_table(results))],
  }
  documents = {results / "README.md": details(found)}
  for path, blocks in places.items():
    text = path.read_text("utf-8")
    for name, content in blocks:
      text = in_place(text, name, content)
    documents[path] = text
  return documents


def main(_: list[str]) -> None:
  print(plain_table(read(ROOT / "results")))
  if FLAGS.write:
    for path, text in written(ROOT).items():
      files.write_text(path, text)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
