"""A sweep of somebody's own training, by the same blocks, workers and store.

  def train(hparams, seed):  # pure, of jax.numpy
    w = jax.random.normal(jax.random.key(seed), (3,))
    for _ in range(hparams["steps"]):
      w -= hparams["rate"] * w
    return {"loss": w @ w}

  points = [{"rate": r, "steps": 10} for r in (0.1, 0.2)]
  table = sweep.run_function(train, points, seeds=range(5), workdir="runs/own")

Hyper-parameters that are floats are data of one compiled program, vmapped over
members; each combination of the others (whole numbers, words, ...) is static
and a program of its own.
"""

import concurrent.futures as futures
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from mnist_jax.runtime import code, devices, extras, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import _workers, store, tables

if TYPE_CHECKING:
  import pandas as pd

TrainFn = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]
_OWN = ("seed", "step", "cell")
_MAX_MEMBERS = 16


@dataclasses.dataclass(frozen=True)
class _Cell:
  point: tuple[tuple[str, Any], ...]
  seed: int

  @property
  def static(self) -> tuple[tuple[str, Any], ...]:
    return tuple(p for p in self.point if not isinstance(p[1], float))

  @property
  def traced(self) -> dict[str, float]:
    return {n: v for n, v in self.point if isinstance(v, float)}

  @property
  def key(self) -> str:
    text = json.dumps([sorted(self.point), self.seed])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Task:
  """Members with the same static values, as they are sent to a worker."""

  train_fn: TrainFn
  version: str
  cells: tuple[_Cell, ...]
  size: int  # members of the program, the last cell again in those left over

  def __call__(self, mesh: Mesh | None = None) -> _workers.Result:
    found = _version(self.train_fn, self.version)
    if found != self.version:
      raise InputError(
        f"has version {found} of the function, expected {self.version}"
      )
    mesh = mesh or devices.mesh(1)
    begun = time.perf_counter()
    padded = [*self.cells, *[self.cells[-1]] * (self.size - len(self.cells))]
    traced = {
      name: np.array([c.traced[name] for c in padded], np.float32)
      for name in self.cells[0].traced
    }
    seeds = np.array([c.seed for c in padded], np.uint32)
    program = _program(self.train_fn, self.cells[0].static)
    put = functools.partial(jax.device_put, device=devices.spread(mesh))
    outputs = jax.device_get(program(put(traced), put(seeds)))
    columns = {*_OWN, *dict(self.cells[0].point)}
    for name in sorted(columns.intersection(outputs)):
      raise InputError(f"train_fn returns {name!r}, which is a column already")
    rows = [_rows(outputs, i) for i in range(len(self.cells))]
    seconds = time.perf_counter() - begun
    return _workers.Result(
      rows, {"members": len(self.cells), "seconds": seconds}
    )


@functools.lru_cache(maxsize=64)
def _program(train_fn: TrainFn, static: tuple[tuple[str, Any], ...]) -> Any:
  def one(traced: Mapping[str, Any], seed: Any) -> Mapping[str, Any]:
    return train_fn({**dict(static), **traced}, seed)

  return jax.jit(jax.vmap(one))


def _rows(outputs: Mapping[str, np.ndarray], i: int) -> list[dict[str, Any]]:
  """Those of member i: one, or one for each place of the outputs' axis."""
  shapes = {name: np.shape(value)[1:] for name, value in outputs.items()}
  lengths = {shape[0] for shape in shapes.values() if shape}
  if len(lengths) > 1 or any(len(shape) > 1 for shape in shapes.values()):
    raise InputError(
      f"train_fn returns shapes {shapes}, expected numbers or arrays of one "
      "length"
    )
  count = lengths.pop() if lengths else 1
  values = {
    name: np.broadcast_to(value[i], count).tolist()
    for name, value in outputs.items()
  }
  return [
    {"step": k, **{name: value[k] for name, value in values.items()}}
    for k in range(count)
  ]


def run_function(
  train_fn: TrainFn,
  points: Sequence[Mapping[str, Any]],
  *,
  seeds: Sequence[int],
  version: str | None = None,
  workdir: str | Path | None = None,
  overwrite: bool = False,
  mesh: Mesh | None = None,
  max_members: int = _MAX_MEMBERS,
  executor: futures.Executor | None = None,
  mixed: bool = False,
) -> "pd.DataFrame":
  """Trains each point at each seed that is not in `workdir` yet.

  Args:
    train_fn: From hyper-parameters by name and a seed (uint32, traced) to
      results by name, numbers or arrays [K]: a pure function that jax can
      trace. With an executor, one that its workers can import.
    points: The hyper-parameters of each, all with the same names.
    seeds: From 0 to 2^32 - 1.
    version: What tells one train_fn from another one; by default a digest of
      the file that it is in, comments left out.
    workdir, overwrite, mesh, max_members, executor, mixed: As in `sweep.run`.

  Returns:
    A row for each of the K places of each cell (column `step`, from 0), with
    its hyper-parameters, `seed`, what train_fn returned, and `cell`, its key.

  Raises:
    InputError: No points or seeds, one twice, other names in one of them, a
      value that JSON cannot hold, a result with the name of a column; and as
      `sweep.run`.
  """
  with extras.needed("studies"):
    import pandas as pd

  cells = _cells(points, seeds)
  version = _version(train_fn, version)
  if mesh is not None and executor is not None:
    raise InputError("found a mesh and an executor, expected one of the two")
  if executor is None:
    about = _workers.about()
  else:
    _check_pickles(train_fn)
    about = _workers.ask(executor)
  mesh = mesh or devices.mesh()
  count = mesh.size if executor is None else 1
  name = f"{train_fn.__module__}.{getattr(train_fn, '__qualname__', train_fn)}"
  of = hashlib.sha256(name.encode()).hexdigest()
  with (
    contextlib.nullcontext()
    if workdir is None
    else store.Store(files.expanded(workdir), of, about, overwrite, version)
  ) as results:
    parts = [] if results is None else store.read_parts(results.path)
    there = {key for part in parts for key in part["cell"]}
    tasks = [
      dataclasses.replace(task, cells=left)
      for task in _tasks(train_fn, version, cells, count, max_members)
      if (left := tuple(c for c in task.cells if c.key not in there))
    ]
    kind = (results and results.kind) or about["kind"]
    for task, result in _trained(
      tasks, mesh, executor, None if mixed else kind
    ):
      rows = pd.DataFrame(
        {**dict(c.point), "seed": c.seed, "cell": c.key, **row}
        for c, own in zip(task.cells, result.rows, strict=True)
        for row in own
      )
      if results is not None:
        results.add([c.key for c in task.cells], rows, result.notes)
      parts.append(rows)
  table = pd.concat(parts, ignore_index=True)
  return tables.in_order(table, [cell.key for cell in cells])


def _trained(
  tasks: Sequence[_Task],
  mesh: Mesh,
  executor: futures.Executor | None,
  kind: str | None,
) -> Iterator[tuple[_Task, _workers.Result]]:
  if executor is None:
    yield from ((task, task(mesh)) for task in tasks)
    return
  for number, result in _workers.answers(executor, tasks, kind):
    yield tasks[number], result


def _tasks(
  train_fn: TrainFn,
  version: str,
  cells: Sequence[_Cell],
  count: int,
  max_members: int,
) -> list[_Task]:
  """All cells in blocks of one size, whatever is filed already."""
  groups: dict[Any, list[_Cell]] = {}
  for cell in cells:
    groups.setdefault(cell.static, []).append(cell)
  tasks = []
  for group in groups.values():
    size = min(max_members, -(-len(group) // count)) * count
    tasks += [
      _Task(train_fn, version, tuple(group[i : i + size]), size)
      for i in range(0, len(group), size)
    ]
  return tasks


def _cells(
  points: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> list[_Cell]:
  found = []
  names = set(points[0]) if len(points) else set()
  for number, point in enumerate(points):
    if set(point) != names:
      raise InputError(
        f"points[{number}] has {sorted(point)}, expected {sorted(names)}"
      )
    plain = []
    for name, given in point.items():
      if name in _OWN:
        raise InputError(f"points have {name!r}, which is a column of its own")
      value = given.item() if hasattr(given, "item") else given
      if not isinstance(value, bool | int | float | str | None):
        raise InputError(
          f"points[{number}] has {name}={given!r}, expected a number or text"
        )
      plain.append((name, value))
    found += [_Cell(tuple(plain), _seed(seed)) for seed in seeds]
  if not found:
    raise InputError("found no points or no seeds, expected at least one each")
  if len({cell.key for cell in found}) < len(found):
    raise InputError("found a point or a seed twice, expected each once")
  return found


def _seed(given: int) -> int:
  seed = int(given)
  if not 0 <= seed < 2**32:
    raise InputError(f"seeds have {given}, expected 0 to {2**32 - 1}")
  return seed


def _version(train_fn: TrainFn, given: str | None) -> str:
  """The version that was given, or a digest of the function's file."""
  if given is not None and not given.startswith("file "):
    return given
  try:
    path = inspect.getsourcefile(inspect.unwrap(train_fn))
    return f"file {code.digest([Path(path or '')])}"
  except (TypeError, OSError, SyntaxError):
    raise InputError(
      "train_fn is in no file that can be read, so its version is unknown: "
      "expected version="
    ) from None


def _check_pickles(train_fn: TrainFn) -> None:
  try:
    pickle.dumps(train_fn)
  except (pickle.PicklingError, AttributeError, TypeError) as error:
    raise InputError(
      f"train_fn cannot be sent to workers ({error}), expected a function at "
      "the top of a module"
    ) from None
