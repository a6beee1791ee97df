"""What the page walks through, in the chapter's order."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page.

  Attributes:
    name: Its anchor, and "section.NAME" the key of its heading;
      "section.NAME.about" that of what it is about.
    content: In order: the names of claims and of the panels behind them,
      "part:NAME" for an interactive part, "block:NAME" for what the build
      alone makes.
  """

  name: str
  content: Sequence[str] = ()


SECTIONS = (
  Section("network", ("part:tiles", "part:unit", "N1", "seeds", "N2")),
  Section("pad", ("part:pad",)),
  Section("passes", ("part:passes",)),
  Section(
    "check",
    (
      *("G1", "steps", "G2", "G3", "distances", "G5"),
      *("part:mistake", "G4", "found"),
    ),
  ),
  Section("range", ("L1", "rate_tried", "L3", "range_test", "regret")),
  Section(
    "policies",
    ("L6", "policies", "trained", "L2", "convex", "H6", "budget"),
  ),
  Section("comparison", ("L4", "comparison", "L5", "decay", "S1", "adaptive")),
  Section("training", ("part:training",)),
  Section("map", ("block:map", "B1", "panels")),
  Section(
    "scaling",
    (
      *("B2", "best_rates", "H1", "H5", "adam", "B3", "largest_rate", "H4"),
      *("H7", "widths", "B9", "line_fit"),
    ),
  ),
  Section(
    "growing",
    ("B5", "grown", "H2", "B6", "best_batch", "B7", "targets", "B8"),
  ),
  Section("noise", ("B4", "noise", "H3", "critical")),
  Section("saddles", ("S2", "plateau", "saddle", "H8")),
)
