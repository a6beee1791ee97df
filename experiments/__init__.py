"""One file per study, each a command: python -m experiments.NAME."""

import gc
import importlib.util
import sys

from mnist_jax.runtime import extras

_NEEDED = {
  "train": ("absl", "matplotlib", "orbax", "PIL", "tensorboardX", "tqdm"),
  "studies": ("pandas", "pyarrow"),
}
_PAGE = "vl_convert"  # which no run of a study needs
_WITHOUT_TABLES = ("experiments.train", "experiments.predict")


def _command() -> str:
  """The module that `python -m` is looking for if it is one of these, or ""."""
  argv = sys.orig_argv
  # Python calls the program "-m" meanwhile; `python -mMODULE` is left alone.
  if sys.argv[:1] != ["-m"] or "-m" not in argv[:-1]:
    return ""
  module = argv[argv.index("-m") + 1]
  return module if module.startswith("experiments.") else ""


def _check(command: str) -> None:
  """Ends a command with one line where a package is not installed.

  Here, since its own file imports them before it can say so.
  """
  for extra, packages in _NEEDED.items():
    if extra == "studies" and command in _WITHOUT_TABLES:
      continue
    for package in packages:
      if importlib.util.find_spec(package) is None:
        line = extras.missing(package, extra, ".")
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
  if command == "experiments.report" and not importlib.util.find_spec(_PAGE):
    print(f"error: {_PAGE} is not installed: make page does", file=sys.stderr)
    sys.exit(2)


if command := _command():
  _check(command)
  # Until `app.run`: the collector would go through all modules again and again
  # while more are loaded, which takes a sixth of the time.
  gc.disable()
