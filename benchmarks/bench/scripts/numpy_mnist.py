"""python -m benchmarks.bench.scripts.numpy_mnist EPOCHS OUT"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.bench.scripts import common

BATCH, RATE = 128, np.float32(0.2)


def main() -> None:
  epochs, out = int(sys.argv[1]), Path(sys.argv[2])
  out.mkdir(parents=True, exist_ok=True)
  sets, rng = common.mnist(), np.random.default_rng(0)
  x, y = sets["train"]
  targets = np.eye(10, dtype=np.float32)[y]
  layers = []
  for m, n in ((784, 64), (64, 16), (16, 10)):
    w = rng.uniform(-1, 1, (m, n)) * np.sqrt(6 / (m + n))
    layers.append((w.astype(np.float32), np.zeros(n, np.float32)))
  (w1, b1), (w2, b2), (w3, b3) = layers

  def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a1 = 1 / (1 + np.exp(-(x @ w1 + b1)))
    a2 = np.tanh(a1 @ w2 + b2)
    z = a2 @ w3 + b3
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return a1, a2, e / e.sum(axis=1, keepdims=True)

  rows = []
  for epoch in range(epochs + 1):
    order = rng.permutation(len(x) if epoch else 0)
    for start in range(0, len(order), BATCH):
      chosen = order[start : start + BATCH]
      a0 = x[chosen]
      a1, a2, p = forward(a0)
      d3 = (p - targets[chosen]) / len(chosen)
      d2 = d3 @ w3.T * (1 - a2 * a2)
      d1 = d2 @ w2.T * (a1 * (1 - a1))
      for (w, b), into, d in zip(
        layers, (a0, a1, a2), (d1, d2, d3), strict=True
      ):
        w -= RATE * (into.T @ d)
        b -= RATE * d.sum(axis=0)
    row = {"epoch": float(epoch)}
    for part in ("train", "dev"):
      found = common.measures(forward(sets[part][0])[2], sets[part][1])
      row[f"{part}_loss"], row[f"{part}_accuracy"] = found
    rows.append(row)
    common.record(out, rows)
    print(row, file=sys.stderr)
  p = forward(sets["test"][0])[2]
  print("test loss and accuracy", *common.measures(p, sets["test"][1]))
  np.savez(out / "weights.npz", *(array for layer in layers for array in layer))
  common.draw(out, rows, w1, sets["test"], p)


if __name__ == "__main__":
  main()
