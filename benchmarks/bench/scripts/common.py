"""What the scripts do alike: read MNIST, record, and draw the four figures."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

MNIST = Path(__file__).parents[3] / "mnist_jax" / "data" / "mnist"
DEV = 5000


def _read(name: str, skipped: int) -> np.ndarray:
  with gzip.open(MNIST / f"{name}.gz") as file:
    return np.frombuffer(file.read(), np.uint8)[skipped:]


def mnist() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Images in [0, 1] as float32 and labels, of train, dev and test."""
  found = {}
  for part, name in (("train", "train"), ("test", "t10k")):
    images = _read(f"{name}-images-idx3-ubyte", 16).reshape(-1, 784)
    labels = _read(f"{name}-labels-idx1-ubyte", 8).astype(np.int64)
    found[part] = images.astype(np.float32) / np.float32(255), labels
  images, labels = found["train"]
  found["train"] = images[:-DEV], labels[:-DEV]
  found["dev"] = images[-DEV:], labels[-DEV:]
  return found


def measures(p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Mean cross-entropy and accuracy of probabilities [N, 10]."""
  right = p[np.arange(len(p)), labels]
  accuracy = float(np.mean(p.argmax(axis=1) == labels))
  return float(-np.log(np.maximum(right, 1e-30)).mean()), accuracy


def record(out: Path, rows: list[dict[str, Any]]) -> None:
  """The rows so far, a line for each epoch."""
  lines = [json.dumps(row) + "\n" for row in rows]
  (out / "metrics.jsonl").write_text("".join(lines))


def draw(
  out: Path,
  rows: list[dict[str, Any]],
  w: np.ndarray,
  test: tuple[np.ndarray, np.ndarray],
  p: np.ndarray,
) -> None:
  """Curves, first layer, mistakes and confusion, each as simply as can be."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(10, 4))
  for ax, what in zip(axes, ("loss", "accuracy"), strict=True):
    for part in ("train", "dev"):
      ax.plot([row[f"{part}_{what}"] for row in rows], label=part)
    ax.set(xlabel="epoch", ylabel=what)
    ax.legend()
  figure.savefig(out / "curves.png", dpi=160)
  figure.savefig(out / "curves.svg")

  side = int(np.ceil(np.sqrt(w.shape[1])))
  tiles = np.zeros((side * side, 28, 28), np.float32)
  tiles[: w.shape[1]] = w.T.reshape(-1, 28, 28)
  grid = tiles.reshape(side, side, 28, 28).swapaxes(1, 2).reshape(28 * side, -1)
  figure, ax = plt.subplots(figsize=(7, 7))
  figure.colorbar(ax.imshow(grid, cmap="RdBu_r"))
  figure.savefig(out / "first_layer.png", dpi=160)

  images, labels = test
  said = p.argmax(axis=1)
  wrong = np.flatnonzero(said != labels)
  wrong = wrong[np.argsort(-p.max(axis=1)[wrong])][:25]
  figure, panels = plt.subplots(5, 5, figsize=(8, 9))
  for ax, i in zip(panels.flat, wrong, strict=False):
    ax.imshow(images[i].reshape(28, 28), cmap="gray_r")
    ax.set_title(f"true {labels[i]}, predicted {said[i]}", fontsize=8)
    ax.axis("off")
  figure.savefig(out / "mistakes.png", dpi=160)

  counts = np.bincount(10 * labels + said, minlength=100).reshape(10, 10)
  figure, ax = plt.subplots(figsize=(8, 7))
  ax.imshow(counts * (1 - np.eye(10)), cmap="Blues")
  for i, j in np.ndindex(counts.shape):
    ax.text(j, i, str(counts[i, j]), ha="center", va="center")
  figure.savefig(out / "confusion.png", dpi=160)
