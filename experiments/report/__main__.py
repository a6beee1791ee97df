"""Builds the chapter's page from the committed results.

  python -m experiments.report              # writes docs/chapter.html
  python -m experiments.report --output=page.html

The same results give the same bytes. The page is one file that opens from the
disk and asks the network for nothing.
"""

from pathlib import Path

from absl import flags

from experiments._shared import app
from experiments.report import build
from mnist_jax.runtime import files

FLAGS = flags.FLAGS
ROOT = Path(__file__).parents[2]


def define_flags() -> None:
  flags.DEFINE_string("output", str(ROOT / "docs" / "chapter.html"), "the page")
  flags.DEFINE_string("results", str(ROOT / "results"), "of the studies")


def main(_: list[str]) -> None:
  text = build.page(Path(FLAGS.results), ROOT / "docs" / "results.md")
  files.write_text(Path(FLAGS.output), text)
  print(f"{FLAGS.output}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
