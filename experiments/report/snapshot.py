"""Trains the book's run and keeps its weights at a few epochs for the page.

  python -m experiments.report.snapshot      # writes results/book_run/

`network.npz` has theta, all parameters in the order W1, B1, W2, B2, W3, B3: of
the last epoch as trained (float32), of the others in float16. `run.json` says
how they came about, and the share of the dev digits each gets right.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from experiments._shared import app
from mnist_jax import data, training
from mnist_jax.model import mlp
from mnist_jax.runtime import environment, files
from mnist_jax.training import loop

FLAGS = flags.FLAGS
KEPT = Path(__file__).parents[2] / "results" / "book_run"
EPOCHS = (0, 1, 2, 5, 10, 20, 40)


def flat(params: mlp.Params) -> Float[np.ndarray, " P"]:
  """Theta: every tensor row by row, layer by layer, W before B."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def unflat(theta: Float[np.ndarray, " P"]) -> mlp.Params:
  """The parameters of the book's network, in theta's precision."""
  sizes = training.Settings().train_config().sizes
  layers, at = [], 0
  for fan_in, fan_out in itertools.pairwise(sizes):
    end = at + fan_in * fan_out
    tensors: Any = theta[at:end].reshape(fan_in, fan_out), theta[end:][:fan_out]
    layers.append(mlp.Layer(*tensors))
    at = end + fan_out
  return tuple(layers)


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def take(settings: training.Settings) -> tuple[dict[str, Any], dict[str, Any]]:
  """The arrays by name, and what is to be said of them."""
  dataset = loop.to_device(data.load())
  config, rate = settings.train_config(), float(settings.learning_rate)
  run = loop.params_at(config, rate, dataset.train, settings.seed, EPOCHS)
  arrays, rows = {}, []
  for epoch, params in run:
    theta = flat(params)
    kept = theta if epoch == EPOCHS[-1] else theta.astype(np.float16)
    found = training.evaluate(
      config.activations,
      jax.tree.map(jax.numpy.float32, unflat(kept)),
      dataset.dev,
    )
    arrays[f"theta_{epoch}"] = kept
    accuracy, loss = float(found.accuracy), float(found.loss)
    rows.append({"epoch": epoch, "dev_accuracy": accuracy, "dev_loss": loss})
    print(f"epoch {epoch}: dev accuracy {accuracy:.4f}, dev loss {loss:.4f}")
  said = {
    "command": "python -m experiments.report.snapshot",
    "same_run_as": settings.command("experiments.train"),
    "learning_rate": rate,
    "batch_size": settings.batch_size,
    "seed": settings.seed,
    "dev_examples": len(dataset.dev.labels),
    "theta_sha256": _digest(theta),
    "epochs": rows,
    **environment.describe(),
  }
  return arrays, said


def main(_: list[str]) -> None:
  arrays, said = take(training.Settings())
  output = Path(FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)
  with files.replacing(output / "network.npz") as part, part.open("wb") as file:
    np.savez(file, **arrays)
  files.write_text(output / "run.json", json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
  flags.DEFINE_string("output", str(KEPT), "the folder they are kept in")
  app.run(main, __doc__)
