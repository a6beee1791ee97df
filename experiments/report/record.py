"""Records a range test for the page, which no study leaves.

  python -m experiments.report.record        # seconds; results/page

Of the batch sizes of lr_range_audit a range test of 8 seeds: the loss by rate
(geometric mean, Student's t over seeds) and what each rule reads off it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments._shared import app
from experiments.report import harvest
from mnist_jax import data, range_test, training
from mnist_jax.runtime import environment, files

PATH = Path(__file__).parents[2] / "results" / "page" / "range_test.json"
BATCHES = (32, 128, 512)
SEEDS = range(8)
POINTS = 60


def one_range_test(dataset: data.Dataset, batch_size: int) -> dict[str, Any]:
  """The curve over rates, and each rule's rate; None where it refuses."""
  settings = training.Settings(batch_size=batch_size, drop_last=True)
  recording = range_test.network(
    settings.train_config(), settings.hparams(), dataset, SEEDS
  )
  judged = range_test.judge(recording)
  places = np.linspace(0, len(recording.rates) - 1, POINTS).astype(int)
  curve = [
    [
      harvest.digits(recording.rates[at]),
      *harvest.mean_and_interval(recording.losses[:, at], log=True),
    ]
    for at in places
    if np.isfinite(recording.losses[:, at]).all()
  ]
  rules = {rule: judged.suggestion(rule).rate for rule in range_test.RULES}
  return {"curve": curve, "rules": rules}


def main(_: list[str]) -> None:
  dataset = data.load()
  record = {
    "seeds": len(SEEDS),
    "tests": {str(size): one_range_test(dataset, size) for size in BATCHES},
    "command": "python -m experiments.report.record",
    **environment.describe(),
  }
  text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
  files.write_text(PATH, f"{text}\n")
  print(f"written to {PATH}")


if __name__ == "__main__":
  app.run(main, __doc__)
