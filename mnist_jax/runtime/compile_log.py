"""Counts and times what XLA compiles, so that a run can report it."""

import contextlib
from collections.abc import Iterator

import jax

_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
_PHASES = (
  "/jax/core/compile/jaxpr_trace_duration",
  "/jax/core/compile/jaxpr_to_mlir_module_duration",
  _BACKEND_COMPILE,
)


class CompileLog:
  """Programs compiled and seconds spent tracing, lowering and compiling."""

  def __init__(self) -> None:
    self.count = 0
    self.seconds = 0.0
    self._open = True

  def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
    if self._open and event in _PHASES:
      self.seconds += duration_secs
      self.count += event == _BACKEND_COMPILE


@contextlib.contextmanager
def watch() -> Iterator[CompileLog]:
  """Fills a log while the block runs, and leaves it as it is afterwards.

  JAX has no public way to take a listener off again, so a closed one stays
  and does nothing.
  """
  log = CompileLog()
  jax.monitoring.register_event_duration_secs_listener(log._listen)
  try:
    yield log
  finally:
    log._open = False
