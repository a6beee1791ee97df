"""Reading MNIST-shaped data sets through tensorflow-datasets (TFDS).

TFDS is imported inside the functions that need it, since that is slow. A data
set prepared as array_record is read without TensorFlow. One that is not is
prepared by TFDS in a process of its own, which needs TensorFlow and, save for
MNIST, the network: TFDS's download retries for minutes where there is none, and
a process can be ended.
"""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.data.idx import CLASSES, MAX_EXAMPLES, PIXELS, SIDE, Split
from mnist_jax.runtime import extras, files
from mnist_jax.runtime.errors import InputError

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
PROBE_SECONDS = 8.0  # for one answer, of any kind, from the download's host
STALL_SECONDS = 120.0  # without a word from TFDS, whose progress bars speak

_SHAPES = ((SIDE, SIDE, 1), (SIDE, SIDE), (PIXELS,))
_ROWS_AT_ONCE = 1000
_NAME = re.compile(
  r"(?P<name>[a-z]\w*)(?:/(?P<config>\w[\w.+-]*))?"
  r"(?::(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_PROBE = """
import ssl, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], method="HEAD")
try:
  urllib.request.urlopen(request, timeout=float(sys.argv[2])).close()
except urllib.error.HTTPError:
  pass  # the host has answered; what it thinks of HEAD does not matter
except OSError as error:
  reason = getattr(error, "reason", error)
  # A refused certificate is an answer too, and TFDS has its own certificates.
  if not isinstance(reason, ssl.SSLError):
    sys.exit(str(reason))
"""
_PREPARE = """
import sys
from mnist_jax.data import tfds
tfds.prepare_here(*sys.argv[1:])
"""


def read(
  dataset: str, data_dir: str | os.PathLike[str] | None, own_files: Path
) -> tuple[Split, Split]:
  """Reads the train and test splits of a TFDS data set, in TFDS's order.

  Args:
    dataset: A "name" or "name/config", either with ":version". Without a
      version the newest prepared one is taken, or TFDS's own if none is.
    data_dir: Where TFDS keeps its prepared data sets; None stands for
      DEFAULT_DATA_DIR.
    own_files: The directory with MNIST's four published files, from which
      "mnist" is prepared without the network.

  Raises:
    InputError: unknown or unprepared and not to be prepared here (no
      TensorFlow, no network), prepared in another format than array_record,
      damaged, rows lost, or not 28x28 bytes with labels 0 to 9.
  """
  match = _NAME.fullmatch(dataset)
  if not match:
    raise InputError(
      f"dataset={dataset}: expected a name like mnist, "
      "emnist/digits or mnist:3.0.1"
    )
  root = files.expanded(data_dir or DEFAULT_DATA_DIR)
  directory = _find(root, match)
  if directory is None:
    _prepare(dataset, match["name"], root, own_files)
    directory = _find(root, match)
  if directory is None:
    raise InputError(
      f"{root}: found no {dataset} after TFDS prepared it, expected version "
      f"{match['version'] or 'directories'} under {match['name']}"
    )
  return _read_prepared(directory)


def _find(root: Path, match: re.Match[str]) -> Path | None:
  """The directory of the newest prepared version that fits the name."""
  if root.exists() and not root.is_dir():
    raise InputError(f"{root}: found a file, expected TFDS's data directory")
  parent = root / match["name"] / (match["config"] or "")
  prepared = (path.parent for path in parent.glob("*/dataset_info.json"))
  versions = [path for path in prepared if _VERSION.fullmatch(path.name)]
  if match["version"]:
    versions = [path for path in versions if path.name == match["version"]]
  if versions:
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")])
  configs = {p.parent.parent.name for p in parent.glob("*/*/dataset_info.json")}
  if configs and not match["config"]:
    raise InputError(
      f"{parent}: found the configurations {', '.join(sorted(configs))}, "
      f"expected dataset={match['name']}/ with one of them"
    )
  return None


@contextlib.contextmanager
def _refusing(where: str, what: str, expected: str) -> Iterator[None]:
  """Turns what TFDS and its readers raise on damaged files into InputError.

  It is of many kinds, none of them documented; each means that the files are
  not what they should be.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    raise InputError(
      f"{where}: found unreadable {what} ({_brief(error)}), expected {expected}"
    ) from error


def _read_prepared(directory: Path) -> tuple[Split, Split]:
  with extras.needed("tfds"):
    import tensorflow_datasets as tfds

  with _refusing(str(directory), "metadata", "a data set prepared by TFDS"):
    builder = tfds.builder_from_directory(str(directory))
    info = builder.info
    splits = ", ".join(sorted(info.splits))
    file_format = info.file_format.value
  if file_format != "array_record":
    raise InputError(
      f"{directory}: found it prepared as {file_format}, expected array_record "
      "(another data_dir= has it prepared anew)"
    )
  if not {"train", "test"} <= set(info.splits):
    raise InputError(
      f"{directory}: found splits {splits}, expected train and test"
    )
  keys = _check_features(str(directory), info)
  train, test = (
    _read_split(directory, builder, split, keys) for split in ("train", "test")
  )
  return train, test


def _check_features(where: str, info: Any) -> Sequence[str]:
  """The names of the image and the label among a TFDS info's features."""
  keys = info.supervised_keys or ("image", "label")
  if len(keys) != 2 or not all(
    isinstance(key, str) and key in info.features for key in keys
  ):
    raise InputError(
      f"{where}: found features {', '.join(sorted(info.features))}, expected "
      "image and label"
    )
  image, label = (info.features[key] for key in keys)
  if image.shape not in _SHAPES or image.np_dtype != np.uint8:
    raise InputError(
      f"{where}: found images of {np.dtype(image.np_dtype)} {image.shape}, "
      f"expected uint8 {_SHAPES[0]}"
    )
  if label.shape or np.dtype(label.np_dtype).kind not in "iu":
    raise InputError(
      f"{where}: found labels of {np.dtype(label.np_dtype)} {label.shape}, "
      "expected whole numbers"
    )
  return keys


def _read_split(
  directory: Path, builder: Any, split: str, keys: Sequence[str]
) -> Split:
  """All rows of one split, their number checked in the files themselves."""
  with extras.needed("tfds"):
    from array_record.python import array_record_data_source as records

  where = f"{directory} ({split})"
  info = builder.info.splits[split]
  count = info.num_examples
  if not 1 <= count <= MAX_EXAMPLES:
    raise InputError(
      f"{where}: found {count} rows declared, expected 1 to {MAX_EXAMPLES}"
    )
  images = np.empty((count, PIXELS), np.uint8)
  labels = np.empty(count, np.int64)
  with _refusing(where, "records", "array_record files as TFDS writes them"):
    paths = [str(path) for path in info.filepaths]
    stored = len(records.ArrayRecordDataSource(paths))
    source = builder.as_data_source(split)
    if not stored == len(source) == count:
      raise InputError(f"{where}: found {stored} rows, expected {count}")
    for start in range(0, count, _ROWS_AT_ONCE):
      piece = slice(start, start + _ROWS_AT_ONCE)
      rows = source.__getitems__(range(count)[piece])
      images[piece] = [np.ravel(row[keys[0]]) for row in rows]
      labels[piece] = [row[keys[1]] for row in rows]
  outside = np.flatnonzero((labels < 0) | (labels >= CLASSES))
  if outside.size:
    raise InputError(
      f"{where} row {outside[0]}: found label {labels[outside[0]]}, expected 0 "
      f"to {CLASSES - 1}"
    )
  return Split(images, labels.astype(np.int32))


def _brief(error: object) -> str:
  """A message on one line, and not a long one."""
  line = " ".join(str(error).split()) or type(error).__name__
  return line if len(line) <= 200 else f"{line[:200]}..."


def _prepare(dataset: str, name: str, root: Path, own_files: Path) -> None:
  """Has TFDS prepare a data set as array_record, in another process."""
  with extras.needed("tfds"):
    import tensorflow_datasets  # noqa: F401 (TensorFlow alone would not do)
  where = f"{root}: found no prepared {dataset}"
  if importlib.util.find_spec("tensorflow") is None:
    raise InputError(
      f"{where} and no TensorFlow to prepare it, expected a data set prepared "
      "as array_record, or tensorflow installed"
    )
  if name != "mnist":
    url = _download_url(dataset, name)
    if url and (reason := unreachable(url, PROBE_SECONDS)):
      host = urllib.parse.urlsplit(url).netloc
      raise InputError(
        f"{where} and no way to {host} ({_brief(reason)}), expected a data set "
        "prepared as array_record, or a network to download it"
      )
  command = [sys.executable, "-c", _PREPARE, dataset, str(root), str(own_files)]
  if reason := run_watched(command, STALL_SECONDS):
    raise InputError(
      f"{where}, and TFDS could not prepare it ({_brief(reason)}), expected a "
      "data set prepared as array_record"
    )


def _download_url(dataset: str, name: str) -> str | None:
  """One of the addresses TFDS would load the data set from."""
  with extras.needed("tfds"):
    import tensorflow_datasets as tfds

  try:
    urls = tfds.builder_cls(name).url_infos
  except tfds.core.DatasetNotFoundError:
    raise InputError(
      f"dataset={dataset}: expected a data set TFDS knows"
    ) from None
  return next((url for url in urls or () if url.startswith("http")), None)


def unreachable(url: str, seconds: float) -> str | None:
  """Why no answer comes from a URL's host in so many seconds, or None.

  Any HTTP answer counts, also through a proxy named in the environment. It is
  asked from a process of its own, since looking up a name has no time limit.
  """
  command = [sys.executable, "-c", _PROBE, url, str(seconds)]
  return run_watched(command, seconds, "no answer in")


def run_watched(
  command: Sequence[str], seconds: float, silent: str = "nothing happened for"
) -> str | None:
  """Runs a command; ends it when it says nothing for so many seconds.

  Returns:
    None if it succeeds, else the last line it wrote, or that it was `silent`.
  """
  path = os.pathsep.join(filter(None, sys.path)) or os.curdir
  environment = {**os.environ, "PYTHONPATH": path}
  with (
    tempfile.TemporaryFile() as log,
    subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    ) as process,
  ):
    try:
      written = -1
      while process.poll() is None:
        size = os.fstat(log.fileno()).st_size
        if size == written:
          return f"{silent} {seconds:g} s"
        written = size
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(seconds)
    finally:
      process.kill()
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
  if process.returncode == 0:
    return None
  said = [line.strip() for line in lines if line.strip()]
  return said[-1] if said else "no message"


def prepare_here(dataset: str, root: str, own_files: str) -> None:
  """Prepares a data set as array_record in this process; needs TensorFlow.

  `own_files` are for "mnist" alone: those of other sets have the same names.
  """
  with extras.needed("tfds"):
    import tensorflow_datasets as tfds

  builder = tfds.builder(dataset, data_dir=root, try_gcs=False)
  _check_features(dataset, builder.info)  # before a long download for nothing
  manual_dir = own_files if builder.name == "mnist" else None
  builder.download_and_prepare(
    file_format="array_record",
    download_config=tfds.download.DownloadConfig(
      manual_dir=manual_dir, try_download_gcs=False
    ),
  )
