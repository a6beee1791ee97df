"""The tables of what was measured, for results/bench and docs/speed.md."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import attempts, growth, turns
from benchmarks.bench.commands import Row
from benchmarks.bench.ours import LOGISTIC, SINGLE
from experiments import claims

Part = dict[str, Any]  # what __main__ writes as PART.json
OTHER = "NOT THE SAME TRAINING"
ON_A_GPU = ("training", "sweeps")
FIGURES = {"training": "An epoch, times ours", "growth": "Cost against size"}
NOT_YET = "Not measured yet: `make bench`."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [columns, ["---"] * len(columns), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def circumstances(part: Part) -> str:
  """On what, when, how long, and beside what else it was measured."""
  others = part["cores_used_by_others"]
  what = "unknown" if others is None else f"{others:g} of its cores"
  small = ", in small: no result" if part["preset"] == "tiny" else ""
  return (
    f"`{part['command']}`{small}, {part['date']}, {part['machine']}, jax "
    f"{part['versions']['jax']}, {part['wall_seconds']:.0f} s; other processes "
    f"used {what} meanwhile."
  )


def median(values: Sequence[float]) -> float:
  return statistics.median(values) if values else float("nan")


def spread(values: Sequence[float], scale: float, form: str) -> str:
  """The median, and the smallest and the largest."""
  middle, low, high = (scale * f(values) for f in (statistics.median, min, max))
  return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def ratio(theirs: Sequence[float], own: Sequence[float]) -> str:
  middle, low, high = turns.ratio_interval(theirs, own)
  return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def peak(parts: dict[str, Part]) -> float:
  """The most GFLOP/s that any library reached in a product; NaN unknown."""
  rows = parts.get("limits", {}).get("rows", ())
  rates = [_rate(row) for row in rows if not row["failed"]]
  return max(rates, default=float("nan"))


def _rate(row: Row) -> float:
  return float(row["facts"]["flops"] / median(row["seconds"]) / 1e9)


def agree(losses: Sequence[float], own: Sequence[float]) -> str:
  """How far losses are from ours, relatively, or that they are others."""
  off = max(abs(a / b - 1) for a, b in zip(losses, own, strict=True))
  return f"{off:.0e}" if off < turns.SAME_LOSS else OTHER


def training(parts: dict[str, Part]) -> str:
  """Every contestant's epoch, beside ours."""
  rows = {row["name"]: row for row in parts["training"]["rows"]}
  limit, lines, missing = peak(parts), [], []
  for name, row in rows.items():
    if row["failed"]:
      missing.append(f"{name}: {row['failed']}")
      continue
    is_logistic = name == LOGISTIC or name.startswith("scikit")
    own = rows[LOGISTIC if is_logistic else SINGLE]
    same = agree(row["losses"], own["losses"])
    if same == OTHER:
      lines.append([name, *[""] * 7, same])
      continue
    share = 100 * _rate(row) / limit
    lines.append(
      [
        name,
        spread(row["seconds"], 1e3, ".4g"),
        ratio(row["seconds"], rows[SINGLE]["seconds"]),
        f"{1e3 * median(row['cpu']):.4g}",
        f"{_rate(row):.0f}",
        f"{share:.0f} %" if share == share else "",
        f"{row['memory']:.0f}",
        f"{row['first']:.1f}",
        same,
      ]
    )
  columns = (
    *("contestant", "ms an epoch (least to most)", "times ours (95 %)"),
    *("CPU ms", "GFLOP/s", "of the limit", "peak MiB"),
    *("s to the first epoch's end", "loss off by"),
  )
  text = markdown(columns, lines)
  if missing:
    text += "\n\nNot measured: " + "; ".join(missing) + "."
  return text


def sweeps(parts: dict[str, Part]) -> str:
  """A member's epoch in sweeps, beside one run after another."""
  rows = parts["sweeps"]["rows"]
  single = next(row for row in rows if row["name"] == SINGLE)
  lines = []
  for row in rows:
    if row["failed"]:
      lines.append([row["name"], row["failed"], "", "", ""])
      continue
    each = [t / row["facts"]["units"] for t in row["seconds"]]
    # Each call of a sweep begins anew; the run's first epoch is the same.
    same = agree(row["losses"][:1], single["losses"][:1])
    lines.append(
      [
        row["name"],
        spread(each, 1e3, ".4g"),
        ratio(single["seconds"], each),
        f"{row['memory']:.0f}",
        same,
      ]
    )
  return markdown(
    (
      *("what", "ms a member and epoch (least to most)"),
      *("times faster than one run (95 %)", "peak MiB", "loss off by"),
    ),
    lines,
  )


def commands(parts: dict[str, Part]) -> str:
  """Whole processes of ours and of scripts."""
  rows = parts["commands"]["rows"]
  lines, own = [], None
  for row in rows:
    if "failed" in row:
      lines.append([row["name"], row["failed"], "", "", ""])
      continue
    if row["name"].startswith("experiments.train"):
      own = row
    assert own
    lines.append(
      [
        row["name"],
        spread(row["seconds"], 1, ".3g"),
        ratio(own["seconds"], row["seconds"]),
        f"{median(row['cpu']):.3g}",
        f"{row['memory']:.0f}",
      ]
    )
  return markdown(
    (
      *("command", "seconds (least to most)"),
      *("experiments.train takes so many times as long (95 %)",),
      *("CPU seconds", "peak MiB"),
    ),
    lines,
  )


AT_MOST = {
  "experiments.train --epochs=1": 0.3,
  "experiments.predict": 0.5,
  "experiments.gradient_check": 0.5,
  "experiments.lr_range_test": 0.5,
  "import experiments.train": None,
}


def startup(parts: dict[str, Part]) -> str:
  """Commands now against those of before, and an import against jax's."""
  rows = {row["name"]: row for row in parts["startup"]["rows"]}
  pairs: list[tuple[str, str, str, float | None]] = [
    (name, f"{name}, now", f"{name}, before", most)
    for name, most in AT_MOST.items()
  ]
  name = "import experiments.train"
  beside = (
    f"{name}, beside import jax",
    f"{name}, now",
    "import jax, now",
    1.5,
  )
  lines = []
  for what, now, before, most in [*pairs, beside]:
    first, second = rows[now], rows[before]
    broken = first.get("failed") or second.get("failed")
    if broken:
      lines.append([what, broken, "", "", "", ""])
      continue
    lines.append(
      [
        what,
        spread(first["seconds"], 1, ".3g"),
        f"{median(second['seconds']):.3g}",
        ratio(first["seconds"], second["seconds"]),
        f"{median(first['cpu']) / median(second['cpu']):.2f}",
        "" if most is None else f"{most:g}",
      ]
    )
  return markdown(
    (
      *("what", "s now (least to most)", "s before", "ratio (95 %)"),
      *("ratio of CPU seconds", "to be at most"),
    ),
    lines,
  )


def limits(parts: dict[str, Part]) -> str:
  """What the machine can do in float32 products."""
  lines = []
  for row in parts["limits"]["rows"]:
    if row["failed"]:
      lines.append([row["name"], row["failed"], ""])
    else:
      rates = [row["facts"]["flops"] / t / 1e9 for t in row["seconds"]]
      share = 100 * _rate(row) / peak(parts)
      lines.append([row["name"], spread(rates, 1, ".0f"), f"{share:.0f} %"])
  return markdown(("product", "GFLOP/s (least to most)", "of the best"), lines)


def grown(parts: dict[str, Part]) -> str:
  """A table and its bends for every axis."""
  part, texts = parts["growth"], []
  for name, axis in growth.AXES.items():
    rows = [row for row in part["rows"] if row["axis"] == name]
    good = [row for row in rows if not row["failed"]]
    lines = [
      [
        f"{row['size']:,}",
        f"{1e3 * row['seconds']:.3g}",
        f"{1e6 * row['seconds'] / row['size']:.3g}",
        f"{row['rate']:.3g}" if row["rate"] else "",
        f"{row['memory']:.0f}",
      ]
      for row in good
    ]
    text = f"{axis.title[0].upper()}{axis.title[1:]}"
    if len(good) > 2:
      text += f": {growth.bends(name, good, part['caches'])}"
    table = markdown((name, "ms", "us for each", "GFLOP/s", "peak MiB"), lines)
    texts += [f"{text}.", table]
    texts += [
      f"At {row['size']:,}: {row['failed']}." for row in rows if row["failed"]
    ]
  return "\n\n".join(texts)


def tried(parts: dict[str, Part]) -> str:
  """Each attempt, beside what it would replace."""
  rows = {row["name"]: row for row in parts["attempts"]["rows"]}
  lines, base = [], None
  for name in attempts.TRIED:
    row = rows[name]
    if name in attempts.REPLACED:
      base = row
    assert base
    if row["failed"] or base["failed"]:
      lines.append([name, row["failed"] or base["failed"], "", ""])
      continue
    exact = row["losses"] == base["losses"]
    apart = abs(row["losses"][-1] / base["losses"][-1] - 1)
    lines.append(
      [
        name,
        f"{1e3 * median(row['seconds']):.4g}",
        "" if row is base else ratio(row["seconds"], base["seconds"]),
        "" if row is base else ("yes" if exact else f"no, {apart:.0e}"),
      ]
    )
  columns = (
    *("what was tried", "ms", "of the time before (95 %)"),
    "the same loss to the last bit; else off by",
  )
  return markdown(columns, lines)


TABLES: dict[str, Callable[[dict[str, Part]], str]] = {
  "limits": limits,
  "training": training,
  "sweeps": sweeps,
  "commands": commands,
  "startup": startup,
  "growth": grown,
  "attempts": tried,
}


def read(folder: Path) -> dict[str, Part]:
  """What was measured, by part."""
  paths = (folder / f"{name}.json" for name in TABLES)
  return {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in paths
    if path.exists()
  }


def block(name: str, parts: dict[str, Part], folder: str = "") -> str:
  """A part's table with its circumstances, or that there is none yet.

  Args:
    folder: Where figures are, as seen from the page.
  """
  if name not in parts:
    return NOT_YET
  text = f"{circumstances(parts[name])}\n\n{TABLES[name](parts)}"
  if name in FIGURES:
    text += f"\n\n![{FIGURES[name]}]({folder}{name}.png)"
  return text


def _all(parts: dict[str, Part]) -> str:
  sections = [f"## {name}\n\n{block(name, parts)}" for name in parts]
  return "\n\n".join(["# How fast, measured", *sections]) + "\n"


def written(root: Path) -> dict[Path, str]:
  """The pages with what is in results/, by path, as they should be.

  Raises:
    InputError: docs/speed.md lacks the marks of a part.
  """
  results, page = root / "results", root / "docs" / "speed.md"
  text, pages = page.read_text("utf-8"), {}
  for folder, marks, names in (
    ("bench", "", TABLES),
    ("bench_gpu", "gpu-", ON_A_GPU),
  ):
    parts = read(results / folder)
    for name in names:
      shown = block(name, parts, f"../results/{folder}/")
      text = claims.in_place(text, f"{marks}{name}", shown)
    if parts:
      pages[results / folder / "README.md"] = _all(parts)
  return {page: text, **pages}
