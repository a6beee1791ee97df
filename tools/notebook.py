"""Runs experiments/colab.ipynb, and keeps it with its output in docs/.

python tools/notebook.py      # make notebook
"""

import base64
import io
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "experiments" / "colab.ipynb"
COPY = ROOT / "docs" / NOTEBOOK.name
COLOURS = 64  # a figure's, which makes of its bytes a quarter


def small(picture: str) -> str:
  """A PNG in base64 with as many colours as a figure needs."""
  image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
  buffer = io.BytesIO()
  image.quantize(COLOURS, dither=Image.Dither.NONE).save(
    buffer, "png", optimize=True
  )
  return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbclient.NotebookClient(
    notebook,
    timeout=600,  # seconds a cell
    record_timing=False,
    coalesce_streams=True,
    resources={"metadata": {"path": str(NOTEBOOK.parent)}},
  ).execute()
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      data = output.get("data", {})
      if "image/png" in data:
        data["image/png"] = small(data["image/png"])
  nbformat.write(notebook, COPY)
  print(f"{COPY}: {COPY.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
  main()
