"""One file per study, each a command: python -m experiments.NAME."""

import importlib.util
import sys

from mnist_jax.runtime import extras

_NEEDED = {
  "train": ("absl", "matplotlib", "orbax", "PIL", "tensorboardX", "tqdm"),
  "studies": ("pandas", "pyarrow"),
}
_PAGE = "vl_convert"  # which no run of a study needs
_WITHOUT_TABLES = ("experiments.train", "experiments.predict")


def _check(argv: list[str]) -> None:
  """Ends a command with one line where a package is not installed.

  Here, since its own file imports them before it can say so.
  """
  command = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
  if not command.startswith("experiments."):
    return
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


_check(sys.orig_argv)
