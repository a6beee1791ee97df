"""The notebook, run from top to bottom in a kernel of its own."""

import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "colab.ipynb"
COPY = ROOT / "docs" / "colab.ipynb"  # made by `make notebook`
MOST_BYTES = 500_000


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


def printed(notebook):
  """What the cells print, which is complete with five pictures."""
  outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
  pictures = [out for out in outputs if "image/png" in out.get("data", {})]
  text = "".join(out.get("text", "") for out in outputs)
  assert len(pictures) == 5
  assert "epoch 5: dev accuracy 0.9" in text
  assert "noise, geometric mean over 4 of 4 seeds" in text
  assert "L4  UNDECIDED" in text
  assert "first, accuracy" in text
  return text


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
  assert "pip" not in printed(notebook)
  shutil.rmtree(work / "runs")


def test_the_copy_in_docs_is_this_notebook_run_to_its_end():
  notebook, copy = (
    nbformat.read(path, as_version=4) for path in (NOTEBOOK, COPY)
  )
  nbformat.validate(copy)
  assert [(cell.cell_type, cell.source) for cell in copy.cells] == [
    (cell.cell_type, cell.source) for cell in notebook.cells
  ]
  code = [cell for cell in copy.cells if cell.cell_type == "code"]
  counts = [cell.execution_count for cell in code]
  assert counts == list(range(1, len(code) + 1))
  outputs = [out for cell in code for out in cell.outputs]
  assert not [out for out in outputs if out.output_type == "error"]
  assert not re.search(r"Traceback|Warning|/(tmp|home|root)/", printed(copy))
  assert COPY.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", [NOTEBOOK, COPY], ids=["notebook", "copy"])
def test_colab_opens_it_on_a_tpu_v5e_1(path):
  metadata = nbformat.read(path, as_version=4).metadata
  assert metadata.accelerator == "TPU"
  assert metadata.colab.gpuType == "V5E1"  # which names every accelerator


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
