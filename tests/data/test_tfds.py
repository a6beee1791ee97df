"""TFDS: prepared data sets are read whole or refused, and nothing hangs."""

import contextlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_jax.data import dataset as data
from mnist_jax.data import tfds as tfds_source
from mnist_jax.runtime.errors import InputError

WITH_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
TRAIN, TEST = 23, 7


def make_rows(count: int, seed: int):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
  return images, rng.integers(0, 10, count)


def prepare(directory: Path, **kwargs) -> Path:
  """Prepares a small data set, without TensorFlow; returns its directory.

  Args:
    kwargs: `feature` of the image ("tensor" or "png"), `shape` of one image,
      `dtype`, `first_label`, `splits`, `file_format`.
  """
  import tensorflow_datasets as tfds

  shape = kwargs.get("shape", (28, 28, 1))
  dtype = kwargs.get("dtype", np.uint8)
  as_png = kwargs.get("feature") == "png"

  class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Random grey levels."""

    VERSION = tfds.core.Version("1.0.0")
    name = "digits"
    pkg_dir_path = directory
    # Old importlib_resources cannot look into a package without __init__.py.
    code_path = Path(__file__)

    def _info(self):
      if as_png:
        image = tfds.features.Image(shape=shape)
      else:
        image = tfds.features.Tensor(shape=shape, dtype=dtype)
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            kwargs.get("image_key", "image"): image,
            "label": tfds.features.Scalar(np.int64),
          }
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      names = kwargs.get("splits", ("train", "test"))
      counts = (TRAIN, TEST)
      return {
        name: self._generate_examples(count, seed)
        for seed, (name, count) in enumerate(zip(names, counts, strict=True))
      }

    def _generate_examples(self, count, seed):
      images, labels = make_rows(count, seed)
      labels[0] = kwargs.get("first_label", labels[0])
      for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if as_png:
          file = io.BytesIO()
          Image.fromarray(image[..., 0]).save(file, "png")
          file.seek(0)
          value = file
        else:
          value = np.resize(image, shape).astype(dtype)
        key = kwargs.get("image_key", "image")
        yield i, {key: value, "label": label}

  builder = Digits(
    data_dir=directory, file_format=kwargs.get("file_format", "array_record")
  )
  builder.download_and_prepare()
  return Path(builder.data_dir)


def read(root: Path, dataset="digits"):
  return tfds_source.read(dataset, root, data.BUNDLED)


def refused(root: Path, dataset="digits") -> str:
  with pytest.raises(InputError) as error:
    read(root, dataset)
  line = str(error.value)
  assert "\n" not in line
  return line


@pytest.mark.parametrize(
  "kwargs",
  [
    {"feature": "tensor"},
    {"feature": "png"},
    {"feature": "tensor", "shape": (28, 28)},
    {"feature": "tensor", "shape": (784,)},
  ],
)
def test_a_prepared_data_set_is_read_whole_and_in_order(tmp_path, kwargs):
  prepare(tmp_path, **kwargs)
  for seed, count, part in zip(
    (0, 1), (TRAIN, TEST), read(tmp_path), strict=True
  ):
    images, labels = make_rows(count, seed)
    assert part.images.dtype == np.uint8
    np.testing.assert_array_equal(part.images, images.reshape(count, 784))
    np.testing.assert_array_equal(part.labels, labels)
  if not WITH_TENSORFLOW:
    assert "tensorflow" not in sys.modules


def test_reading_goes_on_past_one_piece(tmp_path, monkeypatch):
  prepare(tmp_path)
  whole = read(tmp_path)
  monkeypatch.setattr(tfds_source, "_ROWS_AT_ONCE", 5)
  for part, again in zip(whole, read(tmp_path), strict=True):
    np.testing.assert_array_equal(part.images, again.images)
    np.testing.assert_array_equal(part.labels, again.labels)


def change_info(directory: Path, change) -> None:
  path = directory / "dataset_info.json"
  info = json.loads(path.read_text())
  change(info)
  path.write_text(json.dumps(info))


@pytest.mark.parametrize("declared", [TRAIN - 1, TRAIN + 1])
def test_lost_and_added_rows_are_refused(tmp_path, declared):
  directory = prepare(tmp_path)

  def change(info):
    info["splits"][0]["shardLengths"] = [str(declared)]

  change_info(directory, change)
  assert refused(tmp_path) == (
    f"{directory} (train): found {TRAIN} rows, expected {declared}"
  )


def test_a_shard_of_fewer_rows_is_refused(tmp_path):
  directory = prepare(tmp_path)
  train, test = sorted(directory.glob("*.array_record-*"), reverse=True)
  assert "train" in train.name
  train.write_bytes(test.read_bytes())
  assert refused(tmp_path) == (
    f"{directory} (train): found {TEST} rows, expected {TRAIN}"
  )


def test_damaged_and_missing_shards_are_refused(tmp_path):
  directory = prepare(tmp_path)
  shard = next(directory.glob("*train*"))
  whole = shard.read_bytes()
  start = f"{directory} (train): found unreadable records ("
  end = "), expected array_record files as TFDS writes them"
  damaged = bytearray(whole)
  for i in range(1000, 1100):  # TFDS pads short files with zeros
    damaged[i] ^= 0xFF
  for body in (bytes(damaged), whole[:1000], b""):
    shard.write_bytes(body)
    line = refused(tmp_path)
    assert line.startswith(start), line
    assert line.endswith(end), line
  shard.unlink()
  assert refused(tmp_path).startswith(start)


def test_damaged_metadata_are_refused(tmp_path):
  directory = prepare(tmp_path)
  (directory / "features.json").write_text("{")
  line = refused(tmp_path)
  assert line.startswith(f"{directory}: found unreadable metadata (")
  assert line.endswith("), expected a data set prepared by TFDS")


@pytest.mark.parametrize(
  ("kwargs", "line"),
  [
    (
      {"shape": (32, 32, 3)},
      ": found images of uint8 (32, 32, 3), expected uint8 (28, 28, 1)",
    ),
    (
      {"dtype": np.int32},
      ": found images of int32 (28, 28, 1), expected uint8 (28, 28, 1)",
    ),
    (
      {"first_label": 10},
      " (train) row 0: found label 10, expected 0 to 9",
    ),
    (
      {"first_label": -1},
      " (train) row 0: found label -1, expected 0 to 9",
    ),
    (
      {"image_key": "picture"},
      ": found features label, picture, expected image and label",
    ),
    (
      {"splits": ("train", "validation")},
      ": found splits train, validation, expected train and test",
    ),
  ],
)
def test_what_is_not_mnist_shaped_is_refused(tmp_path, kwargs, line):
  directory = prepare(tmp_path, **kwargs)
  assert refused(tmp_path) == f"{directory}{line}"


def test_another_format_is_refused(tmp_path):
  directory = prepare(tmp_path)
  change_info(directory, lambda info: info.update(fileFormat="tfrecord"))
  assert refused(tmp_path) == (
    f"{directory}: found it prepared as tfrecord, expected array_record "
    "(another data_dir= has it prepared anew)"
  )


def test_the_newest_version_is_taken_unless_one_is_named(tmp_path):
  old = prepare(tmp_path)
  new = old.parent / "1.10.0"
  middle = old.parent / "1.9.0"
  old.rename(new)
  for path in (middle, old.parent / "incomplete.X_2.0.0"):
    path.mkdir()
    (path / "dataset_info.json").write_text("{}")
  assert len(read(tmp_path)[0].labels) == TRAIN
  assert len(read(tmp_path, "digits:1.10.0")[0].labels) == TRAIN
  assert refused(tmp_path, "digits:1.9.0").startswith(f"{middle}: found")


def test_configurations_are_named(tmp_path):
  version = prepare(tmp_path)
  for config in ("a", "b"):
    (version.parent / config).mkdir()
  version.rename(version.parent / "a" / version.name)
  assert len(read(tmp_path, "digits/a")[0].labels) == TRAIN
  assert refused(tmp_path) == (
    f"{version.parent}: found the configurations a, expected dataset=digits/ "
    "with one of them"
  )


@pytest.mark.parametrize("name", ["", "../digits", "digits:1", "Digits", "a b"])
def test_a_name_that_cannot_be_is_refused(tmp_path, name):
  assert refused(tmp_path, name) == (
    f"dataset={name}: expected a name like mnist, emnist/digits or mnist:3.0.1"
  )


def test_a_file_in_place_of_the_data_directory_is_refused(tmp_path):
  (tmp_path / "file").touch()
  assert refused(tmp_path / "file") == (
    f"{tmp_path}/file: found a file, expected TFDS's data directory"
  )


@pytest.mark.skipif(WITH_TENSORFLOW, reason="TensorFlow is installed")
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "nosuch"])
def test_without_tensorflow_one_line_and_at_once(tmp_path, dataset):
  start = time.monotonic()
  line = refused(tmp_path, dataset)
  assert time.monotonic() - start < 5
  assert line == (
    f"{tmp_path}: found no prepared {dataset} and no TensorFlow to prepare it, "
    "expected a data set prepared as array_record, or tensorflow installed"
  )


@pytest.mark.skipif(not WITH_TENSORFLOW, reason="needs TensorFlow")
def test_tensorflow_prepares_mnist_from_our_own_files(tmp_path):
  dataset = data.load("tfds", data_dir=tmp_path)
  bundled = data.load()
  assert dataset.digest == bundled.digest
  np.testing.assert_array_equal(dataset.dev.images, bundled.dev.images)


class _Server(BaseHTTPRequestHandler):
  def do_HEAD(self):
    self.send_response(int(self.path.strip("/")))
    self.send_header("Content-Length", "0")
    self.end_headers()

  def log_message(self, *args):
    pass


@pytest.fixture
def no_proxy(monkeypatch):
  monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("status", [200, 404, 405, 503])
def test_any_answer_of_the_host_counts(no_proxy, status):
  with HTTPServer(("127.0.0.1", 0), _Server) as server:
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_port}/{status}"
    try:
      assert tfds_source.unreachable(url, 20.0) is None
    finally:
      server.shutdown()


def test_a_host_that_refuses_is_unreachable(no_proxy):
  with socket.create_server(("127.0.0.1", 0)) as closed:
    port = closed.getsockname()[1]
  reason = tfds_source.unreachable(f"http://127.0.0.1:{port}/", 20.0)
  assert reason is not None
  assert "refused" in reason


def test_a_host_that_is_silent_is_given_up(no_proxy):
  with socket.create_server(("127.0.0.1", 0)) as silent:
    port = silent.getsockname()[1]
    start = time.monotonic()
    assert tfds_source.unreachable(f"http://127.0.0.1:{port}/", 1.0) is not None
    assert time.monotonic() - start < 5


def test_a_host_that_never_ends_its_answer_is_given_up(no_proxy):
  def trickle(server):
    with server.accept()[0] as connection, contextlib.suppress(OSError):
      for _ in range(100):
        connection.sendall(b"H")
        time.sleep(0.1)

  with socket.create_server(("127.0.0.1", 0)) as server:
    thread = threading.Thread(target=trickle, args=(server,))
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    start = time.monotonic()
    assert tfds_source.unreachable(url, 2.0) == "no answer in 2 s"
    assert time.monotonic() - start < 5
    thread.join()


def test_the_address_of_a_known_data_set_and_of_an_unknown():
  url = tfds_source._download_url("fashion_mnist", "fashion_mnist")
  assert url is not None
  assert url.startswith("http")
  with pytest.raises(InputError) as error:
    tfds_source._download_url("nosuch/a", "nosuch")
  assert str(error.value) == (
    "dataset=nosuch/a: expected a data set TFDS knows"
  )


def test_importing_the_module_does_not_import_tfds():
  code = "import mnist_jax.data.tfds, sys; print(*sys.modules)"
  done = subprocess.run(
    python(code),
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
  )
  loaded = set(done.stdout.split())
  assert "mnist_jax.data.tfds" in loaded
  assert not loaded & {"tensorflow_datasets", "tensorflow", "array_record"}


def python(code: str) -> list[str]:
  return [sys.executable, "-c", code]


def test_a_watched_command_that_succeeds_or_fails():
  assert tfds_source.run_watched(python("print(1)"), 30.0) is None
  code = "print(1)\nraise ValueError('the last word')"
  reason = tfds_source.run_watched(python(code), 30.0)
  assert reason == "ValueError: the last word"


def test_a_watched_command_finds_what_this_process_finds(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert tfds_source.run_watched(python("import mnist_jax"), 30.0) is None


def test_a_watched_command_lives_as_long_as_it_speaks(tmp_path):
  code = (
    "import sys, time\n"
    "for _ in range(12): print('.', flush=True); time.sleep(0.2)\n"
    f"open({str(tmp_path / 'done')!r}, 'w').close()"
  )
  assert tfds_source.run_watched(python(code), 1.2) is None
  assert (tmp_path / "done").exists()


def test_a_watched_command_that_hangs_is_ended(tmp_path):
  code = (
    "import os, time\n"
    f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    "time.sleep(60)"
  )
  start = time.monotonic()
  reason = tfds_source.run_watched(python(code), 1.0)
  assert time.monotonic() - start < 10
  assert reason == "nothing happened for 1 s"
  pid = int((tmp_path / "pid").read_text())
  assert not Path(f"/proc/{pid}").exists()
