"""The data of the interactive parts, from committed files.

Arrays are base64 of little-endian numbers. Images are mostly zeros: of a row of
bytes every run of zeros becomes its length, and what stands between two of them
its length and itself (`pack`); assets/parts/book.js undoes it.
"""

import base64
import json
from typing import Any

import numpy as np
import scipy
from jaxtyping import Shaped, UInt8

from experiments.report import snapshot
from mnist_jax import data

BOOK_RUN = snapshot.KEPT
TRAINING, DEVELOPMENT = 2000, 500  # images to train on and to judge by
_LONGEST = 255  # what a length has room for


def pack(values: UInt8[np.ndarray, " N"]) -> bytes:
  """Zeros run by run: (zeros, others, the others), each length in a byte."""
  edges = np.flatnonzero(np.diff(np.r_[True, values == 0, True]))
  starts, ends = edges[::2], edges[1::2]  # of the runs that are not 0
  packed, at = bytearray(), 0

  def zeros(count: int) -> int:
    while count > _LONGEST:
      packed.extend((_LONGEST, 0))
      count -= _LONGEST
    return count

  for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
    gap = zeros(start - at)
    for begin in range(start, end, _LONGEST):
      part = values[begin : min(begin + _LONGEST, end)].tobytes()
      packed.extend((gap, len(part), *part))
      gap = 0
    at = end
  packed.extend((zeros(len(values) - at), 0))
  return bytes(packed)


def _text(array: Shaped[np.ndarray, "..."]) -> str:
  little = array.astype(array.dtype.newbyteorder("<"))
  return base64.b64encode(little.tobytes()).decode()


def _examples(split: data.Split, chosen: Any) -> dict[str, Any]:
  images = np.asarray(split.images)[chosen]
  return {
    "count": len(images),
    "images": base64.b64encode(pack(images.ravel())).decode(),
    "labels": _text(np.asarray(split.labels)[chosen].astype(np.uint8)),
  }


def _shown(test: data.Split, theta: np.ndarray) -> list[int]:
  """Of each digit the first test image, and the first that is read wrong."""
  a = np.asarray(test.images, np.float64) / 255
  layers = snapshot.unflat(theta.astype(np.float64))
  functions = (scipy.special.expit, np.tanh, lambda z: z)
  for layer, function in zip(layers, functions, strict=True):
    a = function(a @ layer.w + layer.b)
  right = a.argmax(axis=1) == test.labels
  digits = [test.labels == digit for digit in range(10)]
  return [
    int(np.flatnonzero(chosen)[0])
    for digit in digits
    for chosen in (digit, digit & ~right)
  ]


def bundle() -> dict[str, Any]:
  """What `window.BUNDLE` holds: JSON-able, arrays in base64.

  "epochs": by epoch, rising, theta (see `snapshot`) and the share of the dev
  digits it gets right; "run": how the network was trained; "train", "dev" and
  "test": images and labels, of the test set only some to look at.
  """
  dataset = data.load()
  said = json.loads((BOOK_RUN / "run.json").read_text("utf-8"))
  with np.load(BOOK_RUN / "network.npz") as arrays:
    epochs = [
      {
        "epoch": row["epoch"],
        "dev_accuracy": row["dev_accuracy"],
        "type": str(arrays[f"theta_{row['epoch']}"].dtype),
        "theta": _text(arrays[f"theta_{row['epoch']}"]),
      }
      for row in said["epochs"]
    ]
    theta = arrays[f"theta_{snapshot.EPOCHS[-1]}"]
  shown = _shown(dataset.test, theta)
  return {
    "epochs": epochs,
    "run": {
      name: said[name]
      for name in ("command", "learning_rate", "batch_size", "dev_examples")
    },
    "train": _examples(dataset.train, slice(TRAINING)),
    "dev": _examples(dataset.dev, slice(DEVELOPMENT)),
    "test": _examples(dataset.test, shown) | {"indices": shown},
  }
