"""The reference that `make docs` makes has every exported name."""

import html
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_layering import ORDER

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """The pages, made by the command of the Makefile in another place."""
  pytest.importorskip("pdoc")
  makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
  (line,) = re.findall(r"^\t@\S+ (-m pdoc .*)$", makefile, re.M)
  place = tmp_path_factory.mktemp("reference")
  arguments = line.replace("build/docs", str(place)).split()
  subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
  return place / "mnist_jax"


@pytest.mark.once
def test_every_exported_name_has_its_entry(reference):
  pages = {path.stem: path.read_text("utf-8") for path in reference.iterdir()}
  assert set(pages) == set(ORDER)
  for name, page in pages.items():
    exported = importlib.import_module(f"mnist_jax.{name}").__all__
    assert set(re.findall(r'<section id="(\w+)"', page)) == set(exported)


@pytest.mark.once
def test_shapes_read_as_in_the_sources(reference):
  page = (reference / "model.html").read_text("utf-8")
  shown = html.unescape(re.sub("<[^>]+>", "", page))
  assert "x: Float[Array, 'B D']) -> Float[Array, 'B C']:" in shown
  assert not re.search("jaxtyping|jaxlib", shown)
