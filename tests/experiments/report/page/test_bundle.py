"""The network and the images that the page brings with it."""

import base64
import hashlib
import json

import numpy as np
import pytest

from experiments.report import snapshot
from experiments.report.page import bundle
from mnist_jax import data, training
from mnist_jax.training import loop


def unpacked(packed, length):
  values, at, i = np.zeros(length, np.uint8), 0, 0
  while i < len(packed):
    at, others = at + packed[i], packed[i + 1]
    values[at : at + others] = np.frombuffer(packed, np.uint8)[i + 2 :][:others]
    at, i = at + others, i + 2 + others
  assert at == length
  return values


@pytest.mark.parametrize(
  "runs", [[(0, 5)], [(1, 5)], [(0, 600), (9, 600), (0, 255), (3, 256), (0, 1)]]
)
def test_what_is_packed_can_be_unpacked(runs):
  values = np.concatenate([np.full(n, v, np.uint8) for v, n in runs])
  assert np.array_equal(unpacked(bundle.pack(values), len(values)), values)


@pytest.fixture(scope="module")
def made():
  return bundle.bundle()


def test_the_bundle_is_small_and_the_same_each_time(made):
  first, second = (
    json.dumps(each, sort_keys=True) for each in (made, bundle.bundle())
  )
  assert first == second
  assert len(first) < 2e6


def test_images_to_look_at_are_of_every_digit_read_right_and_wrong(mnist, made):
  chosen = made["test"]
  assert mnist.test.labels[chosen["indices"]].tolist() == [
    digit for digit in range(10) for _ in range(2)
  ]
  packed = base64.b64decode(chosen["images"])
  images = unpacked(packed, 20 * 784).reshape(20, 784)
  assert np.array_equal(images, mnist.test.images[chosen["indices"]])


def test_the_network_on_file_is_whole():
  said = json.loads((bundle.BOOK_RUN / "run.json").read_text("utf-8"))
  with np.load(bundle.BOOK_RUN / "network.npz") as arrays:
    theta = arrays[f"theta_{snapshot.EPOCHS[-1]}"]
  assert hashlib.sha256(theta.tobytes()).hexdigest() == said["theta_sha256"]
  assert [row["epoch"] for row in said["epochs"]] == list(snapshot.EPOCHS)
  assert np.array_equal(snapshot.flat(snapshot.unflat(theta)), theta)


def test_a_snapshot_is_the_run_itself(mnist, monkeypatch):
  small = data.take(mnist, 256)
  monkeypatch.setattr(data, "load", lambda: small)
  monkeypatch.setattr(snapshot, "EPOCHS", (0, 2))
  book = training.Settings()
  arrays, said = snapshot.take(book)
  run = loop.params_at(
    book.train_config(), book.learning_rate, small.train, 0, [0, 2]
  )
  start, end = (snapshot.flat(params) for _, params in run)
  assert np.array_equal(arrays["theta_0"], start.astype(np.float16))
  assert np.array_equal(arrays["theta_2"], end)
  assert said["epochs"][1]["dev_loss"] < said["epochs"][0]["dev_loss"]
