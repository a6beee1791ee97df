"""A cell of a sweep run again by itself, from a row of the table.

A cell alone is another program than a cell among others, so the two round
differently, and training lets such differences grow.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mnist_jax import data
from mnist_jax.runtime import extras, fields
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _run, _workers, plan, store
from mnist_jax.sweep.plan import Budget
from mnist_jax.training import settings
from mnist_jax.training.settings import Settings

if TYPE_CHECKING:
  import pandas as pd


def replay(
  row: "pd.Series | Mapping[str, Any]",
  *,
  dataset: data.Dataset | None = None,
  on_progress: Callable[[_run.Progress], None] = lambda progress: None,
) -> "pd.DataFrame":
  """Runs the cell of a row again, alone.

  Args:
    row: Any row of the cell, as `table.iloc[0]`, or the same as a dict.
    dataset: That of the sweep; by default what the row's command names.
    on_progress: As in `sweep.run`.

  Returns:
    All rows of the cell, as `sweep.run` gives them; `differences` compares
    them with others.

  Raises:
    InputError: No row of a sweep's table, or other data than the sweep's.
  """
  cell, budget = _read(row)
  told = _data_flags(str(row["command"]), cell)
  wanted = told.pop("data_digest", None)
  dataset = dataset or _workers.load(told)
  if wanted is not None:
    require_data(wanted, "the data of this replay give", dataset)
  flags = [f"--{name}={text}" for name, text in told.items()]
  return _run.run(
    [cell], budget, dataset=dataset, data_flags=flags, on_progress=on_progress
  )


def _read(row: "pd.Series | Mapping[str, Any]") -> tuple[Settings, Budget]:
  with extras.needed("studies"):
    import pandas as pd

  if not isinstance(row, pd.Series | Mapping):
    raise InputError(
      f"row is a {type(row).__name__}, expected one row, as table.iloc[0]"
    )
  for name in ("cell", "budget", "command", *settings.FIELDS):
    newer = name in settings.FIELDS and settings.FIELDS[name].newer
    if name not in row and not newer:
      raise InputError(
        f"row has no {name!r}, expected every column of the table of sweep.run"
      )
  try:
    cell = settings.from_values(
      {
        name: None if pd.isna(row[name]) else _given(each, row[name])
        for name, each in settings.FIELDS.items()
        if name in row
      }
    )
    budget = plan.budget_from_dict(_parsed(row["budget"]))
  except (TypeError, ValueError) as error:
    raise InputError(f"row: {error}") from None
  key = plan.cell_key(cell, budget)
  if key != row["cell"]:
    raise InputError(
      f"row is of cell {row['cell']}, but its settings and budget are those "
      f"of {key}: expected it as sweep.run gave it"
    )
  return cell, budget


def _parsed(budget: Any) -> Any:
  try:
    return json.loads(budget)
  except (TypeError, ValueError):
    raise InputError(
      f'budget is {budget!r}, expected JSON, such as {{"epochs": 5}}'
    ) from None


def _given(each: fields.Setting, value: Any) -> Any:
  """A column's value as a flag's: texts for a tuple."""
  return str(value).split(",") if each.many else each.hold(value)


def _data_flags(command: str, cell: Settings) -> dict[str, str]:
  """The flags of a row's command that are about the data, by name."""
  pairs = (arg[2:].partition("=") for arg in shlex.split(command)[3:])
  told = {name: text for name, _, text in pairs if name != "budget"}
  # Of data cut before the sweep; a cell that cuts them says so by itself.
  cut = {"num_train"} if cell.num_train is None else set()
  return {
    name: text
    for name, text in told.items()
    if name in cut or name not in settings.FIELDS
  }


def require_data(wanted: str, source: str, *datasets: data.Dataset) -> None:
  """Raises InputError if no data set has the digest, or its first digits.

  Args:
    source: What gives the data, for the message.
  """
  digests = [store.data_digest(each) for each in datasets]
  if not any(digest.startswith(wanted) for digest in digests):
    raise InputError(
      f"data_digest={wanted}: {source} {digests[0][: len(wanted)]}, expected "
      "the data of the sweep"
    )


def differences(now: "pd.DataFrame", then: "pd.DataFrame") -> dict[str, float]:
  """How far a cell's rows are from those of another run of it.

  Args:
    now, then: The rows of one cell, by rising step.

  Returns:
    By metric, the largest difference over the evaluations, in nats or as a
    share; infinite where the evaluations themselves are others.
  """
  measured = now.dropna(axis="columns", how="all").columns
  names = [n for n in measured if n.endswith(("_loss", "_accuracy"))]
  same = ["step", "reached", "diverged_step"]
  now, then = now.reset_index(drop=True), then.reset_index(drop=True)
  if len(now) != len(then) or not now[same].equals(then[same]):
    return dict.fromkeys(names, math.inf)
  return (now[names] - then[names]).abs().max().to_dict()
