"""Says which digit is in a picture, by the network of a finished run.

  python -m experiments.predict --run=runs/train/TIME three.png photo.jpg
  python -m experiments.predict --run=runs/train/TIME folder_of_pictures

A picture may be of any size, dark on light or light on dark; it is brought to
MNIST's form first (20x20 box, centred by mass in 28x28). A file gets a table of
the ten probabilities, a folder one line per file. For a run on other data than
the bundled, MNIST's test digits tell whether those lie as they do, or whether
pictures must be transposed (EMNIST) or inverted for it.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from experiments._shared import app
from experiments._shared import flags as shared
from mnist_jax import data
from mnist_jax.data import picture
from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import run_directory, runner

FLAGS = flags.FLAGS

Predict = Callable[[UInt8[np.ndarray, "N 784"]], Float[np.ndarray, "N 10"]]

BAR_WIDTH = 30  # characters that stand for probability 1

shared.define_path("run", "run directory of experiments.train")


# How data may lie that are not as MNIST's.
_UPRIGHT = "as they are"
_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  _UPRIGHT: lambda images: images,
  "transposed": lambda images: _transposed(images),
  "dark on light": lambda images: 255 - images,
  "transposed, dark on light": lambda images: 255 - _transposed(images),
}


def _transposed(images: UInt8[np.ndarray, "N 784"]) -> np.ndarray:
  side = picture.SIDE
  squares = images.reshape(-1, side, side)
  return squares.transpose(0, 2, 1).reshape(images.shape)


def in_form_of_data(
  predict: Predict, digits: data.Split
) -> tuple[Predict, str]:
  """The network for digits as MNIST has them, though its data lie otherwise.

  Returns:
    The same network if it reads them best so, to within 10 %, or all badly;
    and what there is to say of it, if anything.
  """
  images, labels = np.asarray(digits.images), np.asarray(digits.labels)
  right = {
    name: float(np.mean(predict(change(images)).argmax(axis=1) == labels))
    for name, change in _CHANGES.items()
  }
  best = max(right, key=lambda name: right[name])
  if right[best] < 0.5:
    return predict, (
      f"this network gets {right[_UPRIGHT]:.0%} of MNIST's test digits right: "
      "its data may be no digits, or lie otherwise"
    )
  if right[best] < right[_UPRIGHT] + 0.1:
    return predict, ""
  change = _CHANGES[best]
  return lambda pictures: predict(change(pictures)), (
    f"this network gets {right[best]:.0%} of MNIST's test digits right {best}, "
    f"{right[_UPRIGHT]:.0%} {_UPRIGHT}: its data are {best}, and pictures are "
    "read so"
  )


def load(run_dir: str) -> Predict:
  """The network of a run; what is to be said of its data goes to stderr."""
  predict = runner.load_model(run_dir)
  flags_of_run = run_directory.read_run(run_dir).config["flags"]
  if flags_of_run.get("data_source", "bundled") == "bundled":
    return predict
  predict, said = in_form_of_data(predict, data.load().test)
  if said:
    print(f"{run_dir}: {said}", file=sys.stderr)
  return predict


def table(name: str, probabilities: Float[np.ndarray, " 10"]) -> str:
  """A line for each class: its probability, a bar, a mark at the largest."""
  best = int(probabilities.argmax())
  lines = [f"{name}: {best}", "digit  probability"]
  for digit, p in enumerate(probabilities):
    bar = "#" * round(BAR_WIDTH * float(p))
    mark = " <" if digit == best else ""
    lines.append(f"{digit:>5}  {p:>11.4f}  {bar}{mark}".rstrip())
  return "\n".join(lines)


def line(name: str, probabilities: Float[np.ndarray, " 10"]) -> str:
  """The file, its class and the two largest probabilities, on one line."""
  first, second = np.argsort(-probabilities, kind="stable")[:2]
  return (
    f"{name}: {first}  p = {probabilities[first]:.4f}"
    f"  (next: {second}, {probabilities[second]:.4f})"
  )


def predict_folder(folder: Path, predict: Predict) -> None:
  """Prints a line for each file by name; those that cannot be read say why.

  Raises:
    InputError: no files but hidden ones; or some could not be read, after all
      lines are printed.
  """
  pictures = sorted(
    path
    for path in folder.iterdir()
    if path.is_file()
    and not path.name.startswith(".")
    and not files.is_litter(path.name)
  )
  if not pictures:
    raise InputError(f"{folder}: no files in this folder, expected pictures")
  failed = 0
  for path in pictures:
    try:
      image = picture.read(path)
    except InputError as error:
      failed += 1
      print(error)
    else:
      print(line(str(path), predict(image.reshape(1, -1))[0]))
  if failed:
    raise InputError(
      f"{folder}: {failed} of {len(pictures)} files gave no digit, see above"
    )


def main(argv: list[str]) -> None:
  names = argv[1:]
  if not FLAGS.run:
    raise InputError("--run is missing, expected a run directory")
  if not names:
    raise InputError("no picture named, expected files or folders")
  # Files named one by one are read first, so that a wrong one costs no wait.
  images = {
    name: picture.read(name) for name in names if not os.path.isdir(name)
  }
  predict = load(FLAGS.run)
  for i, name in enumerate(names):
    if i and name in images:
      print()
    if name in images:
      print(table(name, predict(images[name].reshape(1, -1))[0]))
    else:
      predict_folder(Path(name), predict)


if __name__ == "__main__":
  app.run(main, __doc__, arguments=True)
