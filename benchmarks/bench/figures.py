"""Figures of the bench: peers beside ours, and how cost grows."""

import statistics
from pathlib import Path

from benchmarks.bench import growth, ours
from benchmarks.bench.page import FIGURES, Part
from mnist_jax import plotting


def _peers(part: Part) -> plotting.Figure:
  """An epoch of each contestant, as bars of times ours."""
  rows = [row for row in part["rows"] if not row["failed"]]
  medians = {row["name"]: statistics.median(row["seconds"]) for row in rows}
  own = medians.pop(ours.SINGLE)
  medians.pop(ours.LOGISTIC, None)
  names = sorted(medians, key=lambda name: medians[name])
  figure, axes = plotting.panels(1, 1, (9, 1.2 + 0.4 * len(names)))
  ax = axes[0, 0]
  with plotting.style():
    ax.barh(names, [medians[name] / own for name in names], color="#0072B2")
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xlabel(f"an epoch, times ours ({1e3 * own:.3g} ms)")
    # A machine's name may be wider than the axes: it goes on above the names.
    ax.set_title(f"{part['machine']}, {part['date']}", loc="right")
  return figure


def _growth(part: Part) -> plotting.Figure:
  """Time against size, one panel for each axis, with the fitted line."""
  figure, axes = plotting.panels(2, 3, (14, 7.5))
  for ax, (name, axis) in zip(axes.flat, growth.AXES.items(), strict=True):
    rows = [
      row for row in part["rows"] if row["axis"] == name and not row["failed"]
    ]
    if len(rows) < 2:
      continue
    x = [row["size"] for row in rows]
    t = [row["seconds"] for row in rows]
    fixed, more = growth.line(x, t)
    with plotting.style():
      ax.plot(x, t, label="measured", **plotting.series(0))
      line = [fixed + more * at for at in x]
      ax.plot(x, line, "k:", label="fixed cost + cost of each")
      ax.set(xlabel=axis.title, ylabel="seconds")
      ax.legend()
    plotting.log_axis(ax, "x")
    plotting.log_axis(ax, "y")
  with plotting.style():
    figure.suptitle(f"{part['machine']}, {part['date']}")
  return figure


def draw(folder: Path, parts: dict[str, Part]) -> None:
  """Draws training.png and growth.png of what was measured."""
  makers = {"training": _peers, "growth": _growth}
  for name in FIGURES:
    if name in parts:
      plotting.save(makers[name](parts[name]), folder / f"{name}.png")
