"""What the page walks through, in the chapter's order."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page.

  Attributes:
    name: Its anchor, and "section.NAME" the key of its heading;
      "section.NAME.about" that of what it is about.
    claims: Those judged in it.
    content: In order: the names of panels, "part:NAME" for an interactive
      part and "block:NAME" for what the build alone makes.
  """

  name: str
  claims: Sequence[str] = ()
  content: Sequence[str] = ()


SECTIONS = (
  Section("network", ("N1", "N2"), ("part:tiles", "part:unit", "seeds")),
  Section("pad", (), ("part:pad",)),
  Section("passes", (), ("part:passes",)),
  Section(
    "check",
    ("G1", "G2", "G3", "G4", "G5"),
    ("steps", "distances", "part:mistake", "block:mistakes", "found"),
  ),
  Section("range", ("L1", "L3"), ("range_test", "rate_tried", "regret")),
  Section(
    "policies",
    ("L6", "L2", "H6"),
    ("policies", "trained", "convex", "budget"),
  ),
  Section(
    "comparison", ("L4", "L5", "S1"), ("comparison", "decay", "adaptive")
  ),
  Section("training", (), ("part:training",)),
  Section("map", ("B1",), ("block:map", "panels")),
  Section(
    "scaling",
    ("B2", "H1", "B3", "H4", "B9"),
    ("best_rates", "largest_rate", "line_fit"),
  ),
  Section(
    "growing",
    ("B5", "H2", "B6", "B7", "B8"),
    ("grown", "best_batch", "targets"),
  ),
  Section("noise", ("B4",), ("noise",)),
  Section("saddles", ("S2", "H8"), ("plateau", "saddle")),
)
