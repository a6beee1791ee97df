"""What a study measures, with the margin that matters and its unit."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from mnist_jax import stats
from mnist_jax.stats import verdicts


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column of a sweep's table, as questions and figures speak of it.

  Attributes:
    column: A loss in nats, or an accuracy as a fraction.
    margin: The smallest effect that matters, > 0, in the column's unit.
  """

  column: str
  margin: float

  @property
  def is_accuracy(self) -> bool:
    """Whether more is better."""
    return self.column.endswith("accuracy")

  @property
  def name(self) -> str:
    """The word for it on development data: "accuracy" or "loss"."""
    return self.column.removeprefix("dev_").replace("_", " ")

  @property
  def scale(self) -> int:
    """The factor to the unit of figures."""
    return 100 if self.is_accuracy else 1

  @property
  def unit(self) -> str:
    """The unit of differences in figures."""
    return "points of accuracy" if self.is_accuracy else "nats"

  @property
  def sign(self) -> int:
    """1 where more is better, else -1."""
    return 1 if self.is_accuracy else -1

  def gain(self, arm: Any, other: Any) -> Any:
    """By how much the first is the better one, above 0 where it is."""
    return self.sign * (arm - other)

  def question(
    self,
    name: str,
    text: str,
    effects: Float[np.ndarray, " S"] | stats.Effect,
    kind: Literal["greater", "less", "same"] = "greater",
    *,
    on_test: Float[np.ndarray, " S"] | stats.Effect | None = None,
    **more: Any,
  ) -> verdicts.Question:
    """A question about effects in this metric, judged by its margin.

    Args:
      name: The part's name; the metric's is added.
      effects: One for each seed, most often a `gain`. Where a few runs fail
        badly their median is judged (`stats.typical_interval`). Or an effect
        that was estimated from them, as that of tuned arms is.
      on_test: The same on the test set, to be printed beside.
      more: Other fields of `verdicts.Question`.
    """
    if on_test is not None:
      more["test_effect"] = _effect(on_test)
    return verdicts.Question(
      f"{name}, {self.name}",
      text,
      _effect(effects),
      kind,
      margin=self.margin,
      **more,
    )

  def amount(self, effect: stats.Effect) -> str:
    """A difference with unit and interval, for a sentence."""
    if self.is_accuracy:
      return stats.amount(effect, "point", scale=100.0)
    return stats.amount(effect, "nats", digits=4)

  @property
  def on_test(self) -> str:
    """The column of the same metric on the test set."""
    return self.column.replace("dev_", "test_")


def _effect(found: Float[np.ndarray, " S"] | stats.Effect) -> stats.Effect:
  if isinstance(found, stats.Effect):
    return found
  return stats.typical_interval(found, seed=0)


ACCURACY = Metric("dev_accuracy", margin=0.001)
LOSS = Metric("dev_loss", margin=0.005)
BOTH = (ACCURACY, LOSS)
COLUMNS = [metric.column for metric in BOTH]


def spread(
  table: pd.DataFrame,
  by: str | Sequence[str],
  columns: Sequence[str] = COLUMNS,
  *,
  kinds: Sequence[str] = ("mean", "std", "count"),
) -> pd.DataFrame:
  """Mean, sd and count of columns over the rows of each group, in one row."""
  grouped = table.groupby(by, sort=False, dropna=False)[list(columns)]
  result = grouped.agg(list(kinds))
  result.columns = ["_".join(names) for names in result.columns]
  return result.reset_index()


def interval_columns(
  name: str, found: stats.Effect | tuple[float, float, float], scale: int = 1
) -> dict[str, float]:
  """An estimate and its interval's ends as NAME, NAME_low and NAME_high."""
  if isinstance(found, stats.Effect):
    found = (found.estimate, found.low, found.high)
  return {
    f"{name}{end}": scale * value
    for end, value in zip(("", "_low", "_high"), found, strict=True)
  }
