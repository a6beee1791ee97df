"""A contestant in a process of its own, told by lines of JSON what to do.

  python -m benchmarks.bench.worker CONTESTANT PROBLEM

A line asks for one run, for what it came to, or for the memory it took; a line
answers. What a library prints goes to stderr.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bench import peers, problem


def build(name: str) -> Callable[[problem.Problem], peers.Contestant]:
  """By its name in a table of contestants, or as FUNCTION:{"argument": 1}."""
  if name in peers.TRAINING:
    return peers.TRAINING[name]
  if name.startswith("attempts."):
    from benchmarks.bench import attempts

    return attempts.TRIED[name.removeprefix("attempts.")]
  from benchmarks.bench import ours

  if name in ours.TRAINING:
    return ours.TRAINING[name]
  function, _, arguments = name.partition(":")
  return functools.partial(getattr(ours, function), **json.loads(arguments))


def peak_memory() -> float:
  """Of this process, in MiB; getrusage would count the parent's as well."""
  try:
    with open("/proc/self/status") as file:
      line = next(line for line in file if line.startswith("VmHWM"))
  except FileNotFoundError:
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
  return int(line.split()[1]) / 1024


def loss(task: problem.Problem, one: peers.Contestant) -> float | None:
  """Where the contestant's network stands on the development set."""
  if one.dev_loss is not None:
    return one.dev_loss()
  if one.weights is not None:
    return problem.dev_loss(task, one.weights(), one.hidden)
  return None


def main() -> None:
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def answer(**found: Any) -> None:
    print(json.dumps(found), file=answers, flush=True)

  name, path = sys.argv[1:]
  try:
    task = problem.read(path)
    one = build(name)(task)
  except Exception as error:  # whatever is wrong with a library, say so
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    answer(failed=first)
    return
  answer(flops=one.flops, units=one.units, working_set=one.working_set)
  for line in sys.stdin:
    asked = json.loads(line)
    try:
      if asked == "loss":
        answer(loss=loss(task, one))
      elif asked == "memory":
        answer(memory=peak_memory())
      else:
        begun, cpu = time.perf_counter(), time.process_time()
        one.run(asked)
        seconds = time.perf_counter() - begun
        answer(seconds=seconds, cpu=time.process_time() - cpu)
    except Exception as error:
      answer(failed=(str(error).strip() or repr(error)).splitlines()[0])


if __name__ == "__main__":
  main()
