"""Milliseconds per member and epoch of a sweep, against runs one by one.

  python -m benchmarks.sweep_speed

The book's network at batch 128. A sweep of 16 and of 64 members, with one order
of examples for all, with an order for each four rates of a seed (as studies
have it), and with an order for each member, against the same runs one after
another with our fastest single run (`loop.train_epoch`); each run evaluates
the development set at its start and end. Beside them one run of a per-batch
jitted optax loop, and of PyTorch eager where that is installed, whose time is
that of each of their runs. All take turns, round after round; the first round,
which compiles, is not counted. Prints medians and the ratio of medians with a
bootstrap interval over the rounds. Then, once each: the cost per member, and
the peak memory of a process, with 1 to 256 members.
"""

import dataclasses
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import flags

from benchmarks import training_speed
from experiments._shared import app
from mnist_jax import data, runtime, sweep
from mnist_jax.runtime import environment
from mnist_jax.training import loop

FLAGS = flags.FLAGS
RATES = (0.1, 0.2, 0.3, 0.5)
Contestant = Callable[[], None]


def define_flags() -> None:
  flags.DEFINE_integer("sweep_rounds", 5, "of each", lower_bound=3)
  flags.DEFINE_integer("sweep_epochs", 5, "of each run", lower_bound=1)
  flags.DEFINE_list("members", ["16", "64"], "of the sweeps that are compared")
  flags.DEFINE_list("growth", ["1", "4", "16", "64", "256"], "of the growth")
  flags.DEFINE_integer("memory_of", 0, "only this many members, for memory")


def paired(members: int) -> list[sweep.Settings]:
  """Four rates to a seed and its order, or a member alone."""
  rates = RATES[: min(members, len(RATES))]
  seeds = range(members // len(rates))
  return sweep.product(learning_rate=rates, seed=seeds)


def shared(members: int) -> list[sweep.Settings]:
  """The same with one order for all."""
  return [dataclasses.replace(cell, order_seed=0) for cell in paired(members)]


def own(members: int) -> list[sweep.Settings]:
  """A seed, and so an order, to each member."""
  return sweep.product(seed=range(members))


def as_sweep(
  cells: Sequence[sweep.Settings], dataset: data.Dataset
) -> Contestant:
  budget = sweep.Budget(epochs=FLAGS.sweep_epochs)

  def run() -> None:
    sweep.run(cells, budget, dataset=dataset)

  return run


def one_by_one(
  cells: Sequence[sweep.Settings], dataset: data.Dataset
) -> Contestant:
  on_device = loop.to_device(dataset)
  count = len(dataset.train.labels)

  def run() -> None:
    for cell in cells:
      config, hparams = cell.train_config(), cell.hparams()
      rates = cell.learning_rates(
        count, FLAGS.sweep_epochs * cell.updates_per_epoch(count)
      )
      state = loop.init_state(config, cell.seed)
      first = loop.evaluate(config.activations, state.params, on_device.dev)
      for epoch in range(FLAGS.sweep_epochs):
        plan = loop.plan_epoch(
          config, cell.order, epoch, count, rates, int(state.step)
        )
        state, _ = loop.train_epoch(
          config, state, on_device.train, plan, hparams
        )
      last = loop.evaluate(config.activations, state.params, on_device.dev)
      jax.block_until_ready((first, last))

  return run


def optax_loop(dataset: data.Dataset) -> Contestant:
  epoch = training_speed.per_batch_loop(dataset, 128)

  def run() -> None:
    for number in range(FLAGS.sweep_epochs):
      epoch(number)

  return run


def torch_eager(dataset: data.Dataset) -> Contestant | None:
  """The same network and update in PyTorch; None where it is not installed."""
  if importlib.util.find_spec("torch") is None:
    return None
  import torch

  torch.set_num_threads(jax.device_count())
  model = torch.nn.Sequential(
    torch.nn.Linear(784, 64),
    torch.nn.Sigmoid(),
    torch.nn.Linear(64, 16),
    torch.nn.Tanh(),
    torch.nn.Linear(16, 10),
  )
  optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
  loss_fn = torch.nn.CrossEntropyLoss()
  images = torch.tensor(np.asarray(dataset.train.images), dtype=torch.float32)
  images /= 255
  labels = torch.tensor(np.asarray(dataset.train.labels), dtype=torch.long)

  def run() -> None:
    for number in range(FLAGS.sweep_epochs):
      order = torch.from_numpy(data.epoch_order(0, number, len(labels))).long()
      for rows in order.split(128):
        optimizer.zero_grad()
        loss_fn(model(images[rows]), labels[rows]).backward()
        optimizer.step()

  return run


def contestants(dataset: data.Dataset) -> dict[str, tuple[Contestant, int]]:
  """By name, with the members that each call trains."""
  found: dict[str, tuple[Contestant, int]] = {}
  for members in map(int, FLAGS.members):
    for name, make in (
      ("one order", shared),
      ("an order a seed", paired),
      ("own orders", own),
    ):
      cells = make(members)
      found[f"{members} as a sweep, {name}"] = (
        as_sweep(cells, dataset),
        members,
      )
    found[f"{members} one by one"] = (
      one_by_one(own(members), dataset),
      members,
    )
  found["per-batch jitted optax loop"] = optax_loop(dataset), 1
  eager = torch_eager(dataset)
  if eager is None:
    print("PyTorch is not installed: left out")
  else:
    found["PyTorch eager"] = eager, 1
  return found


def measure(dataset: data.Dataset) -> dict[str, list[float]]:
  """Seconds per member and epoch, by name, one for each round."""
  runs = contestants(dataset)
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for number in range(FLAGS.sweep_rounds + 1):
    for name, (run, members) in runs.items():
      begun = time.perf_counter()
      run()
      if number:
        taken = time.perf_counter() - begun
        seconds[name].append(taken / members / FLAGS.sweep_epochs)
    print(f"round {number} of {FLAGS.sweep_rounds}", file=sys.stderr)
  return seconds


def report(seconds: dict[str, list[float]]) -> None:
  device = environment.describe()["device"]
  print(
    f"{device['count']} x {device['kind']}, jax {jax.__version__}, "
    f"{FLAGS.sweep_rounds} rounds of {FLAGS.sweep_epochs} epochs each"
  )
  print(f"{'':<33}{'ms':>8}  times faster than (95 %)")
  for name, times in seconds.items():
    line = f"{name:<33}{1000 * statistics.median(times):>8.1f}"
    if "sweep" in name:
      members = name.split()[0]
      peers = [f"{members} one by one", "per-batch jitted optax loop"]
      peers += [peer for peer in seconds if "PyTorch" in peer]
      texts = []
      for peer in peers:
        ratio, low, high = training_speed.ratio_interval(seconds[peer], times)
        texts.append(f"{peer} {ratio:.2f} ({low:.2f} to {high:.2f})")
      line += "  " + "; ".join(texts)
    print(line)


def peak_memory() -> float:
  """Of this process, in MiB; getrusage would count the parent's as well."""
  with open("/proc/self/status") as file:
    line = next(line for line in file if line.startswith("VmHWM"))
  return int(line.split()[1]) / 1024


def growth(dataset: data.Dataset) -> None:
  """The cost per member, and the peak memory, as members grow."""
  print("members  ms per member and epoch  peak memory of the process (MiB)")
  for members in map(int, FLAGS.growth):
    run = as_sweep(shared(members), dataset)
    run()
    begun = time.perf_counter()
    run()
    taken = time.perf_counter() - begun
    each = 1000 * taken / members / FLAGS.sweep_epochs
    line = [sys.executable, "-m", "benchmarks.sweep_speed"]
    peak = subprocess.run(
      [*line, f"--memory_of={members}"],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
    print(f"{members:>7}  {each:>23.1f}  {peak:>10}")


def main(_: list[str]) -> None:
  runtime.use_all_cores()
  dataset = data.load()
  if FLAGS.memory_of:
    sweep.run(shared(FLAGS.memory_of), sweep.Budget(updates=20))
    print(f"{peak_memory():.0f}")
    return
  report(measure(dataset))
  growth(dataset)


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
