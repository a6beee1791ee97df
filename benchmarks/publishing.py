"""What a benchmark commits: its page, its tables, and how they came about."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mnist_jax.runtime import environment, files


def publish(
  folder: Path,
  page: str,
  tables: Mapping[str, pd.DataFrame],
  command: str,
  begun: float,
) -> None:
  """Writes README.md, NAME.csv of each table, and run.json.

  Args:
    begun: When the measuring did, by `time.monotonic`, in seconds.
  """
  how = {
    "command": command,
    "wall_seconds": round(time.monotonic() - begun, 1),
    **environment.describe(),  # before these files make the tree another
  }
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(folder / "README.md", page)
  for name, table in tables.items():
    files.write_text(folder / f"{name}.csv", table.to_csv(index=False))
  files.write_text(folder / "run.json", json.dumps(how, indent=2) + "\n")
