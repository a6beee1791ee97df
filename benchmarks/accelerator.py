"""The run, a sweep as one program and the gradient check, on this device.

  python -m benchmarks.accelerator [--record=FILE] [--compare=FILE]

One epoch of the book's network at batch 128 (`loop.train_epoch`), a sweep of
--members runs of --run_epochs epochs as one program, and the check of all
51,450 parameters in float64. What compiles is run once before it is timed.
--record writes the sweep's ends and the gradients' distances as JSON;
--compare reads such a file of another device, and prints how far the two
devices' runs of the same cells ended apart, beside what seeds make.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.bench import ours, problem
from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import data, runtime, sweep
from mnist_jax.gradcheck.network import check
from mnist_jax.model import objective
from mnist_jax.runtime import environment
from mnist_jax.training import loop

FLAGS = flags.FLAGS
RATES = (0.1, 0.2, 0.3, 0.5)
SAME = 4  # seeds of each rate whose ends the devices compare


def define_flags() -> None:
  flags.DEFINE_integer("sweep_members", 1024, "runs", lower_bound=4 * SAME)
  flags.DEFINE_integer("run_epochs", 10, "of each run", lower_bound=1)
  flags.DEFINE_integer("check_batch", 32, "examples", lower_bound=1)
  shared.define_path("record", "where to write the numbers, as JSON")
  shared.define_path("compare", "a --record of another device")


def timed(run: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
  """Median seconds of a call, after one that compiles; its last result."""
  result, seconds = run(), []
  for _ in range(rounds):
    begun = time.perf_counter()
    result = run()
    seconds.append(time.perf_counter() - begun)
  return statistics.median(seconds), result


def paired(members: int) -> list[sweep.Settings]:
  """Four rates to a seed and its order."""
  seeds = range(members // len(RATES))
  return sweep.product(learning_rate=RATES, seed=seeds)


def gradient_check(dataset: data.Dataset) -> tuple[float, dict[str, Any]]:
  """Seconds, and what the check of fresh weights found."""
  params = loop.init_state(loop.TrainConfig(), 0).params
  count = FLAGS.check_batch
  batch = objective.Batch(
    data.to_float(dataset.train.images[:count]),
    jnp.asarray(dataset.train.labels[:count]),
    jnp.ones(count),
  )
  seconds, found = timed(
    lambda: check.check_network(params, ("sigmoid", "tanh"), batch)
  )
  term = found["data"]
  return seconds, {
    "verdict": str(term.hand.verdict),
    "hand": term.hand.distance,
    "autodiff": term.autodiff.distance,
    "between": term.between,
  }


def ends(table: Any) -> dict[str, list[float]]:
  """Development loss and accuracy at the end of the runs to compare."""
  last = table.groupby("cell", sort=False).tail(1)
  last = last[last["seed"] < SAME].sort_values(["learning_rate", "seed"])
  return {name: last[name].tolist() for name in ("dev_loss", "dev_accuracy")}


def compare(found: dict[str, Any], other: dict[str, Any]) -> None:
  print(f"\nthe same {4 * SAME} runs on {other['device']}")
  for name, values in found["ends"].items():
    mine, theirs = np.array(values), np.array(other["ends"][name])
    seeds = mine.reshape(-1, SAME).std(axis=1, ddof=1).mean()
    print(
      f"{name:<13} apart by at most {np.abs(mine - theirs).max():.2g}, "
      f"{np.sqrt(np.mean((mine - theirs) ** 2)):.2g} in the mean square; "
      f"seeds of one rate have a sd of {seeds:.2g}"
    )


def main(_: list[str]) -> None:
  runtime.use_all_cores()
  dataset = data.load("bundled")
  device = environment.describe()["device"]
  name = f"{device['count']} x {device['kind']}, jax {jax.__version__}"
  print(name, flush=True)
  count = len(dataset.train.labels)
  epoch = ours.single_run(problem.make(dataset, count, 1)).run
  seconds, _ = timed(lambda: epoch(0), 7)
  print(f"single run, an epoch of 55,000 examples  {seconds:.3f} s", flush=True)
  cells = paired(FLAGS.sweep_members)
  seconds, table = timed(
    lambda: sweep.run(
      cells,
      sweep.Budget(epochs=FLAGS.run_epochs),
      dataset=dataset,
      max_members=-(-len(cells) // jax.local_device_count()),
    ),
    1,
  )
  each = 1000 * seconds / len(cells) / FLAGS.run_epochs
  print(
    f"{len(cells)} runs of {FLAGS.run_epochs} epochs as one program  "
    f"{seconds:.1f} s, {each:.2f} ms a run and epoch"
  )
  memory = jax.local_devices()[0].memory_stats()
  if memory:
    print(
      f"peak memory of a device  {memory['peak_bytes_in_use'] / 2**30:.2f} GiB"
    )
  seconds, checked = gradient_check(dataset)
  print(
    f"gradient check, {FLAGS.check_batch} examples  {seconds:.2f} s, {checked}"
  )
  found = {"device": name, "ends": ends(table), "check": checked}
  if FLAGS.record:
    Path(FLAGS.record).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
  if FLAGS.compare:
    compare(found, json.loads(Path(FLAGS.compare).read_text("utf-8")))


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
