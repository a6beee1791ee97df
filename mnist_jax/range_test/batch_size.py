"""The largest batch that fits, and where examples per second stop growing.

B examples a batch. Each size is a program of its own, compiled for shapes
alone, so that what would not fit is known before any of it is allocated.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import numbers
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from mnist_jax.range_test import batches as range_batches
from mnist_jax.range_test import finding
from mnist_jax.range_test.throughput import WITHIN, BatchSizes, shown
from mnist_jax.runtime.errors import InputError

_SIZES = tuple(2**k for k in range(25))
_ROUNDS = 5
_LEAST_ROUNDS = 3  # for which there must be time before a larger batch is run
_BLOCK = 0.02  # seconds: shorter ones are lost in the clock and the scheduler
_MOST_CALLS = 100
_SILENCE = 5.0  # seconds before progress is shown, and between its lines
_HOST_SHARE = 0.5  # a process that takes all of the host's memory is killed
_ERRORS = (jax.errors.JaxRuntimeError, MemoryError)
_UNTOLD = 2**28  # bytes; less than that may be threads and code


def find_batch_size(
  loss_fn: finding.LossFn,
  params: PyTree,
  batch: PyTree,
  *,
  make_optimizer: finding.MakeOptimizer = optax.sgd,
  has_aux: bool = False,
  value_and_grad: finding.LossFn | None = None,
  sizes: Sequence[int] = _SIZES,
  seconds: float | int = 30,
  memory_limit: int | None = None,
  within: float | int = WITHIN,
) -> BatchSizes:
  """Compiles and times the update at batch sizes that rise by powers of two.

  `found.largest` fits, `found.fastest` is where examples per second stop
  growing, `found.reason` says why, `print(found)` is the table and
  `found.plot()` the figure. An update is loss, gradient and optimiser; its
  state is donated, and its batch lies on the device, so that what a loader
  takes is not in it. It trains copies, at rate 0: params are as without it.

  Args:
    loss_fn: (params, batch) -> a scalar, at any batch size.
    params: Leaves are arrays of floats.
    batch: One batch, of one example or more. Leaves whose leading axis is as
      long as that of the first are examples, whose rows are repeated or left
      out to make the other sizes; all other leaves stay.
    make_optimizer: The rate, which is traced, -> the transformation.
    has_aux: Whether loss_fn returns (scalar, aux), such as what BatchNorm
      tracks; the aux is computed and dropped.
    value_and_grad: What takes the place of jax.value_and_grad(loss_fn).
    sizes: The batch sizes, ascending, up to 2^24 by default.
    seconds: The time that all may take. It is looked at between two programs:
      one that takes longer to compile is not interrupted. A size whose rounds
      would not end in it is compiled and not run; the first is run in any
      case. Compiling takes about a second a size: 30 is enough for most.
    memory_limit: Bytes of which no update may need more. By default what is
      free of the device's own limit; where it has none, as on a CPU, half of
      what the host has available. What an update needs is the compiler's
      account: arguments, results and temporaries. On a CPU, whose convolutions
      take more, what the process was seen to hold beyond it is added, and
      expected of larger sizes in proportion.
    within: The part of the best examples/s that counts as the best, in [0, 1).

  Raises:
    InputError: A value is out of its range; batch has no leading axis or is no
      batch; params hold no floats; loss_fn or make_optimizer cannot be traced.
  """
  begun = time.monotonic()
  _check_values(sizes, seconds, memory_limit, within)
  finding.check_params(params)
  finding.check_optimizer(make_optimizer)
  batch, whole = _checked(batch)
  params = jax.tree.map(jnp.asarray, params)
  limit = _free() if memory_limit is None else memory_limit
  update = _Update(
    loss_fn,
    value_and_grad or jax.value_and_grad(loss_fn, has_aux=has_aux),
    make_optimizer,
    has_aux,
  )
  finding.traced("make_optimizer", update.start, params)
  search = _Search(
    *(update, jax.jit(update.start), params, batch, whole),
    on_host=jax.devices()[0].platform == "cpu",
    begun=begun,
    bound=seconds,
  )
  end = search.climb(sizes, limit)
  search.repeat()
  tried = search.tried
  rounds = itertools.zip_longest(
    *(c.seconds for c in tried), fillvalue=math.nan
  )
  return BatchSizes(
    np.array([c.size for c in tried]),
    np.array(list(rounds), float).reshape(-1, len(tried)),
    np.array([c.memory for c in tried]),
    np.array([c.fits for c in tried]),
    end,
    float(within),
    float(seconds) if search.cut else None,
  )


def _check_values(
  sizes: Sequence[int],
  seconds: float | int,
  memory_limit: int | None,
  within: float | int,
) -> None:
  given = list(sizes) if isinstance(sizes, Iterable) else []
  whole = all(isinstance(size, numbers.Integral) for size in given)
  if not (given and whole and given == sorted({*given}) and given[0] > 0):
    raise InputError(
      f"sizes is {sizes!r}, expected a list of whole numbers above 0, ascending"
    )
  if not (isinstance(seconds, numbers.Real) and seconds > 0):
    raise InputError(f"seconds is {seconds!r}, expected a number above 0")
  if memory_limit is not None and not (
    isinstance(memory_limit, numbers.Real) and memory_limit > 0
  ):
    raise InputError(
      f"memory_limit is {memory_limit!r}, expected a number of bytes above 0"
    )
  if not (isinstance(within, numbers.Real) and 0 <= within < 1):
    raise InputError(f"within is {within!r}, expected a number in [0, 1)")


def _checked(batch: Any) -> tuple[PyTree, int]:
  """The batch as arrays, and its number of examples."""
  if hasattr(batch, "__next__") or (
    callable(batch) and jax.tree.leaves(batch) == [batch]
  ):
    raise InputError(
      f"batch: found {type(batch).__name__}, expected one batch of arrays, "
      "such as next(iter(loader))"
    )
  batch = range_batches.arrays(batch, "batch")
  whole = range_batches.size(batch)
  if not whole:
    found = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(batch))
    raise InputError(
      f"batch: found {'shapes ' + found if found else 'no arrays'}, expected a "
      "leading axis of examples, of length 1 for a single one"
    )
  return batch, whole


def _free() -> int:
  """Bytes that may be allocated: of the device, or of half the host."""
  stats = jax.devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
  found = list(_host_limits())
  if not found:
    raise InputError(
      "memory_limit is None, and this system does not tell what memory it has: "
      "expected a number of bytes"
    )
  return int(_HOST_SHARE * min(found))


def _resident() -> tuple[int, int]:
  """Bytes that the process holds, and the most it ever held; 0 if not told."""
  kept = {"VmRSS": 0, "VmHWM": 0}
  with contextlib.suppress(OSError):
    for line in Path("/proc/self/status").read_text().splitlines():
      name, _, value = line.partition(":")
      if name in kept:
        kept[name] = 1024 * int(value.split()[0])
  return kept["VmRSS"], kept["VmHWM"]


def _host_limits() -> Iterator[int]:
  """What the system has available, and what the container may still take."""
  with contextlib.suppress(OSError):
    lines = Path("/proc/meminfo").read_text().splitlines()
    yield from (
      1024 * int(line.split()[1])
      for line in lines
      if line.startswith("MemAvailable:")
    )
  for most, used in (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
  ):
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
      group = Path("/sys/fs/cgroup")
      yield int((group / most).read_text()) - int((group / used).read_text())
  if not Path("/proc/meminfo").exists():
    with contextlib.suppress(AttributeError, ValueError, OSError):
      yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(batch: PyTree, whole: int, size: int) -> PyTree:
  """The batch of `whole` examples with `size` of them, by turns."""
  return jax.tree.map(
    lambda leaf: (
      leaf[jnp.arange(size) % whole] if leaf.shape[:1] == (whole,) else leaf
    ),
    batch,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Update:
  """One update of the caller's training, and the state that it begins with."""

  loss_fn: finding.LossFn
  value_and_grad: finding.LossFn
  make_optimizer: finding.MakeOptimizer
  has_aux: bool

  def start(self, params: PyTree) -> tuple[PyTree, PyTree]:
    return params, self.make_optimizer(jnp.float32(0)).init(params)

  def __call__(
    self, state: tuple[PyTree, PyTree], batch: PyTree, rate: Any
  ) -> tuple[PyTree, Any]:
    params, opt_state = state
    found, grads = self.value_and_grad(params, batch)
    loss = found[0] if self.has_aux else found

    def value_fn(params: PyTree) -> Any:
      found = self.loss_fn(params, batch)
      return found[0] if self.has_aux else found

    change, opt_state = finding.updates_of(
      self.make_optimizer(rate),
      grads,
      opt_state,
      params,
      value=loss,
      grad=grads,
      value_fn=value_fn,
    )
    # With the aux, or the compiler would leave out what computes it.
    return (optax.apply_updates(params, change), opt_state), found


@dataclasses.dataclass(eq=False)
class _Candidate:
  """A batch size with its program; `seconds` has an entry a round."""

  size: int
  memory: int
  fits: bool
  run: Any
  seconds: list[float] = dataclasses.field(default_factory=list)
  cost: float = 0.0  # seconds of the last visit, with all that prepares it

  def over(self, limit: int) -> str | None:
    """That it needs more, if so; it does not fit then."""
    self.fits = self.memory <= limit
    needs = f"batch {self.size} needs {shown(self.memory)} of {shown(limit)}"
    return None if self.fits else needs


@dataclasses.dataclass(eq=False)
class _Search:
  """The sizes tried so far, within the time that there is."""

  update: _Update
  start: Callable[[PyTree], PyTree]  # that of the update, compiled
  params: PyTree
  batch: PyTree
  whole: int
  on_host: bool  # where the process's own memory is that of the device
  begun: float
  bound: float | int
  tried: list[_Candidate] = dataclasses.field(default_factory=list)
  cut: bool = False  # whether time kept a size from being tried or run
  untold: float = 0.0  # bytes an example that the compiler does not account for
  said: float = 0.0  # when it last did, in seconds from the beginning

  def elapsed(self) -> float:
    return time.monotonic() - self.begun

  def climb(self, sizes: Sequence[int], limit: int) -> str:
    """Tries each size once; why it went no further."""
    step = 0.0  # seconds that the last size took
    for size in sizes:
      before = self.elapsed()
      if self.tried and not self.has_time(step):
        self.cut = True
        return f"batch {size} would not have ended in seconds={self.bound:g}"
      try:
        candidate = self.compile(size)
        self.tried.append(candidate)
        if over := candidate.over(limit):
          return over
        # As long as the last that was run, or longer in proportion.
        run = [each for each in self.tried if each.seconds][-1:]
        visit = sum(each.cost * size / each.size for each in run)
        if run and not self.has_time(_LEAST_ROUNDS * visit):
          self.cut = True
        else:
          self.measure(candidate)
          if over := candidate.over(limit):
            return over
      except _ERRORS as error:
        if not _is_exhausted(error):
          raise
        if self.tried and self.tried[-1].size == size:
          self.tried[-1].fits = False
        return f"batch {size} ran out of memory"
      self.say(f"batch {size}, {shown(candidate.memory)}")
      step = self.elapsed() - before
    return "it is the last of sizes"

  def has_time(self, seconds: float | int) -> bool:
    """Whether so long fits in, beside the rounds of what was run so far."""
    rounds = (_LEAST_ROUNDS - 1) * sum(each.cost for each in self.tried)
    return self.elapsed() + seconds + rounds <= self.bound

  def repeat(self) -> None:
    """Goes round all sizes, so that one hiccup meets one entry of each."""
    for number in range(2, _ROUNDS + 1):
      for candidate in self.tried:
        if candidate.seconds and candidate.fits:
          if self.elapsed() + candidate.cost > self.bound:
            return
          try:
            self.visit(candidate)
          except _ERRORS as error:
            if not _is_exhausted(error):
              raise
            candidate.fits = False
      self.say(f"round {number} of {_ROUNDS}")

  def compile(self, size: int) -> _Candidate:
    """The program of that size, and what it needs.

    Raises:
      InputError: The loss or the update cannot be traced at this size.
    """
    shapes = jax.eval_shape(
      lambda batch: _resized(batch, self.whole, size), self.batch
    )
    named = jax.tree.map(lambda leaf: leaf.shape, shapes)
    where = f"on a batch of {size}, of shape {named}"
    args = (self.params, shapes)
    try:
      finding.check_loss(self.update.loss_fn, *args, where, self.update.has_aux)
    except InputError as error:
      if not isinstance(self.batch, list):
        raise
      raise InputError(
        f"batch is a list of {len(self.batch)}: expected one batch, such as "
        f"batches[0] ({error})"
      ) from error
    state = jax.eval_shape(self.update.start, self.params)
    finding.traced(f"the update {where}", self.update, state, shapes, 0.0)
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "Some donated buffers were not usable")
      run = (
        jax.jit(self.update, donate_argnums=0)
        .lower(state, shapes, 0.0)
        .compile()
      )
    account: Any = run.memory_analysis()
    memory = (
      account.argument_size_in_bytes
      + account.output_size_in_bytes
      + account.temp_size_in_bytes
      - account.alias_size_in_bytes
    )
    return _Candidate(size, memory + round(self.untold * size), True, run)

  def measure(self, candidate: _Candidate) -> None:
    """A first visit, which also sees what the process holds meanwhile."""
    held, peak = _resident()
    self.visit(candidate)
    _, higher = _resident()
    more = higher - held - candidate.memory
    if self.on_host and higher > peak and more > _UNTOLD:
      candidate.memory += more
      self.untold += more / candidate.size

  def visit(self, candidate: _Candidate) -> None:
    """Files the seconds of an update, the mean of a block after a first one."""
    entered = time.monotonic()
    state = jax.tree.map(lambda leaf: leaf.copy(), self.start(self.params))
    batch = _resized(self.batch, self.whole, candidate.size)
    jax.block_until_ready((state, batch))
    calls = 1
    for _ in range(2):
      begun = time.perf_counter()
      for _ in range(calls):
        state, _ = candidate.run(state, batch, 0.0)
      jax.block_until_ready(state)
      taken = (time.perf_counter() - begun) / calls
      calls = int(np.clip(_BLOCK / max(taken, 1e-9), 1, _MOST_CALLS))
    candidate.seconds.append(taken)
    candidate.cost = time.monotonic() - entered

  def say(self, what: str) -> None:
    elapsed = self.elapsed()
    if elapsed > self.said + _SILENCE:
      self.said = elapsed
      print(
        f"batch size: {what}, {elapsed:.0f} s of {self.bound:g}",
        file=sys.stderr,
        flush=True,
      )


def _is_exhausted(error: Exception) -> bool:
  # An older jax calls it an internal error, in these words.
  words = ("RESOURCE_EXHAUSTED", "Out of memory")
  return isinstance(error, MemoryError) or any(w in str(error) for w in words)
