"""The notebook, run from top to bottom in a kernel of its own."""

import itertools
import os
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "colab.ipynb"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
  """A kernel of this interpreter, found under a name of its own."""
  folder = tmp_path / "jupyter" / "kernels" / "here"
  folder.mkdir(parents=True)
  (folder / "kernel.json").write_text(
    f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", '
    '"{connection_file}"], "display_name": "here", "language": "python"}'
  )
  monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
  return "here"


@pytest.mark.once
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_from_top_to_bottom(kernel, tmp_path):
  """As in Colab: the notebook lies in a directory without the package."""
  work = tmp_path / "work"
  work.mkdir()
  for name in ("mnist_jax", "experiments"):
    os.symlink(ROOT / name, work / name)
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name=kernel,
    resources={"metadata": {"path": str(work)}},
  )
  client.execute()
  outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
  pictures = [out for out in outputs if "image/png" in out.get("data", {})]
  text = "".join(out.get("text", "") for out in outputs)
  assert len(pictures) == 5
  assert "epoch 5: dev accuracy 0.9" in text
  assert "noise, geometric mean over 4 of 4 seeds" in text
  assert "L4  UNDECIDED" in text
  assert "first, accuracy" in text
  assert "pip" not in text
  shutil.rmtree(work / "runs")


def test_is_committed_without_outputs():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    assert not cell.get("outputs")
    assert cell.get("execution_count") is None


def test_every_code_cell_has_a_sentence_of_why_before_it():
  cells = nbformat.read(NOTEBOOK, as_version=4).cells
  for before, cell in itertools.pairwise(cells):
    if cell.cell_type == "code":
      assert before.cell_type == "markdown"
      assert before.source.endswith(".")
