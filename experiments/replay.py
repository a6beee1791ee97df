"""Runs one cell of a sweep alone, and compares it with what is on file.

  python -m experiments.replay --learning_rate=0.5 --seed=3 \\
    --budget='{"epochs": 5, "evaluate_every": 1}' --results=runs/mine

The command of a cell is in its rows (column `command`). With --results its
rows there are compared: exit code 1 if they differ by more than the tolerance.
A cell alone is another program than a cell among others, so the two round
differently, and training lets such differences grow: --tolerance is for
losses, and 20 times as much for accuracies, which step by an example.
The command also has the digest of the data, and refuses any other: the sweep of
a data set made by hand is replayed by `sweep.replay(row, dataset=...)`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from experiments._shared import app, progress
from experiments._shared import flags as shared
from mnist_jax import data, runtime, sweep
from mnist_jax.data import sparse
from mnist_jax.runtime import extras
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import plan, replaying, store
from mnist_jax.training import settings

if TYPE_CHECKING:
  import pandas as pd

FLAGS = flags.FLAGS
_ACCURACY_FACTOR = 20

shared.use(*settings.FIELDS, *shared.DATA_FLAGS)


def define_flags() -> None:
  flags.DEFINE_string("budget", '{"epochs":5}', "of the sweep, as JSON")
  flags.DEFINE_float(
    "sparse_lowest",
    None,
    "show each pixel in a share of the examples down to this (claim S1)",
  )
  flags.register_validator(
    "sparse_lowest",
    lambda lowest: lowest is None or 0 < lowest <= 1,
    "must be a number in (0, 1]",
  )
  flags.DEFINE_integer(
    "sparse_seed", None, "of these shares (default: 0)", lower_bound=0
  )
  flags.DEFINE_string(
    "data_digest", None, "of the data expected, or its first digits"
  )
  shared.define_path("results", "directory of a sweep to compare with")
  flags.DEFINE_float("tolerance", 1e-4, "of losses, in nats", lower_bound=0.0)


def budget() -> sweep.Budget:
  """The budget that the flag holds; InputError for another text."""
  try:
    fields = json.loads(FLAGS.budget)
  except ValueError:
    raise InputError(f"budget={FLAGS.budget}: expected JSON") from None
  try:
    return plan.budget_from_dict(fields)
  except TypeError:  # a number for a list, or in it something else
    raise InputError(
      f"budget={FLAGS.budget}: expected lists for evaluate_at and splits"
    ) from None


def load(cell: sweep.Settings) -> tuple[sweep.Settings, data.Dataset]:
  """The cell, and the data set of which it takes its `num_train` examples.

  Sparse features are drawn after the cut to --num_train, as in their study.
  InputError: as the loaders; other data than --data_digest; --sparse_seed
  without --sparse_lowest.
  """
  if FLAGS.sparse_lowest is not None:
    dataset = sparse.sparsify(
      shared.load_dataset(), FLAGS.sparse_lowest, FLAGS.sparse_seed or 0
    )
    cell = dataclasses.replace(cell, num_train=None)
  elif FLAGS.sparse_seed is not None:
    raise InputError(
      f"--sparse_seed={FLAGS.sparse_seed}: expected --sparse_lowest with it"
    )
  else:
    dataset = shared.load_dataset(take=False)
  if FLAGS.data_digest is not None:
    replaying.require_data(
      FLAGS.data_digest,
      "the data flags give",
      *(some for _, some in cuts(cell, dataset)),
    )
  return cell, dataset


def cuts(
  cell: sweep.Settings, whole: data.Dataset
) -> list[tuple[sweep.Settings, data.Dataset]]:
  """The cell in a sweep of all data, and in one of data cut beforehand.

  The latter has the cell without the setting num_train.
  """
  found = [(cell, whole)]
  if cell.num_train is not None:
    cut = data.take(whole, cell.num_train)
    found.append((dataclasses.replace(cell, num_train=None), cut))
  return found


def stored(
  folder: Path, cell: sweep.Settings, length: sweep.Budget, whole: data.Dataset
) -> "pd.DataFrame":
  """The cell's rows in a sweep's results; InputError where it has none."""
  with extras.needed("studies"):
    import pandas as pd

  try:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    table = pd.read_parquet(folder / "cells")
  except (OSError, ValueError):
    raise InputError(f"results={folder}: no results of a sweep") from None
  for one, dataset in cuts(cell, whole):
    rows = table[table["cell"] == sweep.cell_key(one, length)]
    if rows.empty:
      continue
    if manifest["data_digest"] != store.data_digest(dataset):
      raise InputError(
        f"results={folder}: is of other data than the data flags give"
      )
    return rows.sort_values("step", ignore_index=True)
  raise InputError(
    f"results={folder}: has no cell {sweep.cell_key(cell, length)}, which "
    "these flags give"
  )


def main(_: list[str]) -> None:
  runtime.use_all_cores()
  values = shared.flag_values()
  cell, dataset = load(settings.from_values(values))
  length = budget()
  folder = FLAGS.results and Path(FLAGS.results)
  then = stored(folder, cell, length, dataset) if folder else None
  with progress.SweepProgress() as shown:
    now = sweep.run([cell], length, dataset=dataset, on_progress=shown.show)
  kept = now.dropna(axis="columns", how="all").drop(
    columns=[*settings.FIELDS, "cell", "budget", "command"], errors="ignore"
  )
  print(kept.to_string(index=False))
  if then is None:
    return
  same = True
  for name, value in sweep.differences(now, then).items():
    factor = _ACCURACY_FACTOR if name.endswith("accuracy") else 1
    allowed = factor * FLAGS.tolerance
    print(f"{name:<15} differs by at most {value:.2g}, of {allowed:.2g}")
    same = same and value <= allowed  # False for NaN
  if not same:
    print("not the same run", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
