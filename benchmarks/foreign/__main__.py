"""The gradient check and the range test on flax, equinox and haiku.

  make peers
  .venv-peers/bin/python -m benchmarks.foreign [--part=gradients]

Gradients: dense, convolution, LSTM, attention and both normalisations, of each
library as it installs, in float32 and in two ways with bfloat16. The check is
handed the right gradient, as the function and as its values, 5 % too much in
the tensor of the largest gradient, and nothing in that of the smallest. An
answer is "right" if the verdict is correct, or wrong with that tensor named and
no other; "undecided" if the check says that it cannot see; "refused" if it
declines the loss; and WRONG. Rates: the range test on an MLP and a CNN of flax
with SGD, Adam and Lion on MNIST. A rate is right if 300 updates at it end
within 2 points of the best dev accuracy over a grid.

It prints the tables and writes them to results/foreign, as .md and with the
reasons as .csv, and beside each a .json with counts, versions and device.
"""

import collections
import csv
import importlib.metadata
import importlib.util
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.foreign import gradients, layers, rates
from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import data
from mnist_jax.runtime import environment, errors, files

FLAGS = flags.FLAGS
COMMAND = "python -m benchmarks.foreign"
PARTS = ("gradients", "rates")
PACKAGES = ("flax", "equinox", "dm-haiku")
Rows = list[dict[str, Any]]


def define_flags() -> None:
  flags.DEFINE_enum("part", "all", ("all", *PARTS), "what is tried")
  shared.define_path(
    "results", "where the tables go, by default results/foreign"
  )


def installed(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


def measured_gradients() -> Iterator[tuple[str, Rows]]:
  for library, (module, build) in layers.LIBRARIES.items():
    if not installed(module):
      continue
    for kind in layers.KINDS:
      for precision in layers.PRECISIONS:
        network = build(kind, precision)
        yield (
          f"{library}, {kind}, {precision}",
          gradients.rows(library, kind, precision, network),
        )


def measured_rates() -> Iterator[tuple[str, Rows]]:
  if installed("flax"):
    dataset = data.load()
    for name in rates.NETWORKS:
      yield name, rates.rows(name, dataset)


def collected(parts: Iterator[tuple[str, Rows]]) -> Rows:
  """All rows; a line for each part on stderr as it is done."""
  found: Rows = []
  for name, rows in parts:
    answers = ", ".join(row["judgement"] for row in rows)
    print(f"{name}: {answers}", file=sys.stderr, flush=True)
    found += rows
  return found


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table of Markdown."""
  lines = [columns, ["---"] * len(columns), *rows]
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def gradients_table(rows: Rows) -> str:
  """A line for each library, layer and precision: its four answers."""
  names = list(dict.fromkeys(row["gradient"] for row in rows))
  cells: dict[tuple[str, ...], dict[str, str]] = collections.defaultdict(dict)
  for row in rows:
    key = tuple(row[name] for name in ("library", "layer", "precision"))
    said = row["said"].partition(" [")[0].partition(" .")[0]
    answer = row["judgement"]
    cells[key][row["gradient"]] = (
      answer if said == answer else (f"{answer}: {said}")
    )
  lines = [
    (*key, *(answers[name] for name in names)) for key, answers in cells.items()
  ]
  return table(("library", "layer", "precision", *names), lines)


def rates_table(rows: Rows) -> str:
  def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

  columns = rates.COLUMNS[:-2]
  return table(
    columns, [[shown(row[name]) for name in columns] for row in rows]
  )


def counts(rows: Rows) -> str:
  found = collections.Counter(row["judgement"] for row in rows)
  return ", ".join(f"{name} {found[name]}" for name in sorted(found))


def as_csv(columns: Sequence[str], rows: Rows) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def versions() -> dict[str, str | None]:
  found = dict.fromkeys(PACKAGES)
  for name in PACKAGES:
    if installed(name.removeprefix("dm-")):
      found[name] = importlib.metadata.version(name)
  return found


def main(_: list[str]) -> None:
  missing = [name for name, version in versions().items() if version is None]
  if len(missing) == len(PACKAGES):
    raise errors.InputError(
      f"none of {', '.join(PACKAGES)} is installed here: `make peers` makes an "
      "environment that has them, .venv-peers"
    )
  if missing:
    print(f"not tried, since not installed: {', '.join(missing)}")
  into = Path(FLAGS.results or "results/foreign")
  into.mkdir(parents=True, exist_ok=True)
  kinds = {
    "gradients": (measured_gradients, gradients.COLUMNS, gradients_table),
    "rates": (measured_rates, rates.COLUMNS, rates_table),
  }
  for part, (measure, columns, as_table) in kinds.items():
    if FLAGS.part in ("all", part):
      rows = collected(measure())
      shown = f"{part}: {counts(rows)}\n\n{as_table(rows)}\n"
      print(shown)
      record = environment.describe()
      record["versions"] |= versions()
      for ending, text in {
        "csv": as_csv(columns, rows),
        "md": f"# {COMMAND} --part={part}\n\n{shown}",
        "json": json.dumps({"counts": counts(rows), **record}, indent=2) + "\n",
      }.items():
        files.write_text(into / f"{part}.{ending}", text)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
