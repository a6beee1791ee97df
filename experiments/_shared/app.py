"""How every experiment starts, shows its help and fails.

Exit codes: 0 done; 2 a wrong flag, file or directory (one line says which) or
a full disk;
3 the loss stopped being finite; 4 a process of several is lost; 128 + signal
when stopped by SIGTERM or SIGINT.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging

from experiments._shared import compile_cache
from experiments._shared import flags as shared
from mnist_jax.runtime import errors

FLAGS = flags.FLAGS
HELP_FLAGS = ("--help", "-h", "-help", "--helpshort", "-helpshort", "-?")


def fail(message: str, code: int = 2) -> NoReturn:
  """Ends the program with one line on stderr."""
  logging.flush()
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """A line for each row, its cells below those of the row before."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _help_line(name: str) -> str:
  flag = FLAGS[name]
  default = flag.default_as_str  # in quotes
  shown = f"--{name}" if default is None else f"--{name}={default[1:-1]}"
  choices = getattr(flag.parser, "enum_values", None)
  text = flag.help
  if choices:  # absl begins the help of a choice with <first|second|...>:
    text = f"{text.partition('>: ')[2]}: {', '.join(choices)}"
  return textwrap.fill(
    text, 100, initial_indent=f"  {shown:<27} ", subsequent_indent=" " * 30
  )


def _print_help(doc: str) -> NoReturn:
  """Prints the docstring and a line for each flag, and ends.

  It does so in silence where the reader has gone.
  """
  own = FLAGS.flags_by_module_dict().get(sys.argv[0], [])
  names = [*(flag.name for flag in own), *shared.shown(), compile_cache.FLAG]
  lines = map(_help_line, names)
  try:
    print(doc.strip(), "", *lines, sep="\n", flush=True)
  except BrokenPipeError:
    _stop_printing()
  except OSError as error:
    _fail_of(error)
  sys.exit(0)


def _fail_of(error: OSError) -> NoReturn:
  """Ends with the line of an error, be it of the output itself."""
  try:
    sys.stdout.flush()
  except OSError:
    _stop_printing()
  where = f"{error.filename}: " if error.filename else ""
  fail(f"{where}{error.strerror or error}")


def _stop_printing() -> None:
  """Python flushes stdout once more as it ends, and would fail again."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: Sequence[str], doc: str, arguments: bool) -> list[str]:
  if any(arg in HELP_FLAGS for arg in argv[1:]):
    _print_help(doc)
  try:
    rest = FLAGS(argv)
  except flags.Error as error:
    fail(str(error).replace("\n", " "))
  if rest[1:] and not arguments:
    fail(f"unexpected argument {rest[1]!r}; every setting is a --flag=value")
  return rest


@contextlib.contextmanager
def mistakes_told() -> Iterator[None]:
  """Ends the program with one line where what is inside raises of a mistake."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except errors.InputError as error:
    fail(shared.with_dashes(str(error)))
  except BrokenPipeError:  # the reader has gone, as with `| head`
    _stop_printing()
    sys.exit(128 + signal.SIGPIPE)
  except OSError as error:
    if error.filename is None and error.errno is None:
      raise
    _fail_of(error)
  except KeyboardInterrupt:
    fail("stopped", 128 + signal.SIGINT)


def _keep_what_is_loaded() -> None:
  """Spares Python's collector what stays to the end anyway.

  It would go through all modules while programs are traced, and again at the
  exit, which took a third of a second. It rests since `experiments` was loaded.
  """
  gc.freeze()
  gc.enable()
  atexit.register(gc.freeze)


def run(
  main: Callable[[list[str]], None], doc: str | None, *, arguments: bool = False
) -> NoReturn:
  """Parses flags, runs `main(argv)`, and turns a user's mistake into one line.

  --help shows `doc`. Only with `arguments` are there any that are no flags.
  """

  def guarded(argv: list[str]) -> None:
    _keep_what_is_loaded()
    logging.set_verbosity(logging.ERROR)
    if FLAGS[compile_cache.FLAG].value:
      compile_cache.use()
    with mistakes_told():
      main(argv)

  app.run(guarded, flags_parser=lambda argv: _parse(argv, doc or "", arguments))
  raise AssertionError("app.run returned")
