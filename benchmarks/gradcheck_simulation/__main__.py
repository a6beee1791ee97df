"""How often the gradient check errs: alarms and misses, by simulation.

  python -m benchmarks.gradcheck_simulation

Losses are drawn, of 5 to 48 parameters, and their gradients by `jax.grad`, 23
of 40 with a mistake. The design was fixed before the run:

  family      least squares with residuals of 1e-3 to 1e4; a tanh network;
              softmax regression; waves, which bend up to 1e4 times within a
              parameter's size; kinks beside the point; Rosenbrock's valley
  precision   of the loss, and whether the gradient's values are float32's
  sizes       of the parameters: 1, or 1e-12 to 1e9, for all alike, each
              tensor, or each entry
  unit        of the loss: 1, or 1e-9 to 1e9
  noise       none, or a constant up to 1e10 times the loss, which stays in it
              or is taken off again
  handed      values, or a function
  mistake     one entry, one tensor or all entries, by 1e-6 to 1 of their size;
              a dropped tensor, a reversed one

Each is judged by `gradcheck.check`, by `jax.test_util.check_grads` with its
defaults in the parameters' dtype, and by the rule of torch.autograd.gradcheck
(eps 1e-6, atol 1e-5, rtol 1e-3, in float64). Counted: how often each says
wrong, and of ours apart how often it cannot resolve. Blocks are filed in the
working directory as they end; the same command goes on where it was stopped,
unless the code has changed. The committed run took 7.5 minutes on 16 cores, 111
of one (results/gradcheck_simulation/run.json).
"""

import datetime
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.gradcheck_simulation import blocks, cases, tables
from experiments._shared import app, progress
from experiments._shared import flags as shared
from mnist_jax import plotting, sweep
from mnist_jax.runtime import code, environment, files
from mnist_jax.sweep import store

FLAGS = flags.FLAGS
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "gradcheck_simulation"
_BLOCK = 440  # checks, two to three minutes of one core
_PICTURE = "gradcheck_simulation.png"


def define_flags() -> None:
  flags.DEFINE_integer("checks", 21_120, "checks at least", lower_bound=1)
  flags.DEFINE_integer("workers", 2, "processes", lower_bound=1)
  flags.DEFINE_boolean(
    "publish", False, "copy table, counts and figure to results/"
  )
  shared.define_path("workdir", "directory (runs/gradcheck_simulation)")


def measure(
  todo: Sequence[blocks.Block], folder: Path, workers: int
) -> dict[str, Any]:
  """All records, of these blocks and of those filed before.

  Returns:
    "records"; "seconds", of all blocks together; "filed_before", how many.
  """
  left = [block for block in todo if blocks.filed(folder, block) is None]
  total = sum(block.end - block.first for block in left)
  done = 0
  with progress.SweepProgress() as shown:
    for block in blocks.measure(folder, left, workers):
      done += block.end - block.first
      doing = f"{block.family}, {block.precision}"
      shown.show(sweep.Progress(float(done), float(total), done, total, doing))
  found = [blocks.filed(folder, block) for block in todo]
  return {
    "records": [record for each in found if each for record in each["records"]],
    "seconds": math.fsum(each["seconds"] for each in found if each),
    "filed_before": len(todo) - len(left),
  }


def write(
  records: Sequence[dict[str, Any]], folder: Path, how: dict[str, Any]
) -> str:
  """Writes counts.csv, README.md, the figure and run.json; gives the page."""
  table = tables.verdicts(records)
  page = tables.page(table)
  files.write_text(
    folder / "counts.csv", tables.counts(table).to_csv(index=False)
  )
  files.write_text(folder / "README.md", page)
  plotting.save(tables.picture(table), folder / _PICTURE)
  files.write_text(folder / "run.json", json.dumps(how, indent=2) + "\n")
  return page


def main(_: list[str]) -> None:
  begun = time.monotonic()
  workdir = Path(FLAGS.workdir or "runs/gradcheck_simulation")
  key = code.digest(code.rests_on(Path(blocks.__file__).resolve(), ROOT))
  todo = blocks.plan(FLAGS.checks, _BLOCK)
  found = measure(todo, workdir / f"blocks-{key}", FLAGS.workers)
  how = {
    "command": f"python -m benchmarks.gradcheck_simulation "
    f"--checks={FLAGS.checks} --workers={FLAGS.workers}",
    "checks": len(found["records"]),
    "seeds": f"[{cases.SEED}, family, precision, shape, check]",
    "programs": len({block[:3] for block in todo}),
    "blocks": len(todo),
    "blocks_filed_before": found["filed_before"],
    "wall_seconds": round(time.monotonic() - begun, 1),
    "block_seconds": round(found["seconds"], 1),
    "workers": FLAGS.workers,
    "date": datetime.date.today().isoformat(),
    "code_version": store.code_version(),
    **environment.describe(),
  }
  print(write(found["records"], workdir, how))
  if FLAGS.publish:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in ("counts.csv", "README.md", _PICTURE, "run.json"):
      with files.replacing(RESULTS / name) as temporary:
        shutil.copyfile(workdir / name, temporary)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
