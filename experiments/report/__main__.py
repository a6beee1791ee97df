"""Builds the chapter's page from the committed results.

  python -m experiments.report              # writes docs/chapter.html
  python -m experiments.report --output=page.html

The same results give the same bytes. The page is one file that opens from the
disk and asks the network for nothing.
"""

from pathlib import Path

from absl import flags

from experiments._shared import app
from experiments.report.page import build
from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError

FLAGS = flags.FLAGS
ROOT = Path(__file__).parents[2]


def define_flags() -> None:
  flags.DEFINE_string("output", None, "the page (docs/chapter.html)")
  flags.DEFINE_string("results", None, "those of the studies (results)")


def main(_: list[str]) -> None:
  results = Path(FLAGS.results or ROOT / "results").expanduser()
  if not results.is_dir():
    raise InputError(f"--results={results}: is no folder")
  output = Path(FLAGS.output or ROOT / "docs" / "chapter.html").expanduser()
  if not output.parent.is_dir():
    raise InputError(f"--output={output}: {output.parent} is no folder")
  text = build.page(results, ROOT / "docs" / "results.md")
  files.write_text(output, text)
  print(f"{output}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
