"""Reading MNIST-shaped data sets through tensorflow-datasets (TFDS).

Here, and nowhere else, TFDS is imported, inside the functions that need it,
since it is slow to import. A data set prepared as array_record is read without
TensorFlow. One that is not prepared is prepared by TFDS in a process of its
own, which needs TensorFlow and, save for MNIST, the network: TFDS's download
retries for minutes where there is no network, and a process can be ended.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.data.idx import CLASSES, MAX_EXAMPLES, PIXELS, SIDE, Examples
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
) -> tuple[Examples, Examples]:
  """Reads the train and test splits of a TFDS data set, in TFDS's order.

  Args:
    dataset: A "name" or "name/config", either with ":version". Without a
      version the newest prepared one is taken, or TFDS's own if none is.
    data_dir: The directory where TFDS keeps its prepared data sets; None stands
      for DEFAULT_DATA_DIR.
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
  root = Path(data_dir or DEFAULT_DATA_DIR).expanduser()
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
  prepared = [path.parent for path in parent.glob("*/dataset_info.json")]
  versions = [
    path
    for path in prepared
    if _VERSION.fullmatch(path.name) and match["version"] in (None, path.name)
  ]
  if versions:
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")])
  configs = {p.parent.parent.name for p in parent.glob("*/*/dataset_info.json")}
  if configs and not match["config"]:
    raise InputError(
      f"{parent}: found the configurations {', '.join(sorted(configs))}, "
      f"expected dataset={match['name']}/ with one of them"
    )
  return None


def _read_prepared(directory: Path) -> tuple[Examples, Examples]:
  import tensorflow_datasets as tfds

  # What TFDS and its readers raise on damaged files is of many kinds, none of
  # them documented; each means that the files are not what they should be.
  try:
    builder = tfds.builder_from_directory(str(directory))
    info = builder.info
    splits = set(info.splits)
    file_format = info.file_format.value
  except Exception as error:
    raise InputError(
      f"{directory}: found unreadable metadata ({_brief(error)}), expected a "
      "data set prepared by TFDS"
    ) from error
  if file_format != "array_record":
    raise InputError(
      f"{directory}: found it prepared as {file_format}, expected array_record "
      "(another data_dir= has it prepared anew)"
    )
  if not {"train", "test"} <= splits:
    raise InputError(
      f"{directory}: found splits {', '.join(sorted(splits))}, expected train "
      "and test"
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
  image = info.features[keys[0]]
  if image.shape not in _SHAPES or image.np_dtype != np.uint8:
    raise InputError(
      f"{where}: found images of {np.dtype(image.np_dtype)} {image.shape}, "
      f"expected uint8 {_SHAPES[0]}"
    )
  return keys


def _read_split(
  directory: Path, builder: Any, split: str, keys: Sequence[str]
) -> Examples:
  """All rows of one split, their number checked in the files themselves."""
  from array_record.python import array_record_module

  where = f"{directory} ({split})"
  declared = builder.info.splits[split].num_examples
  if not 1 <= declared <= MAX_EXAMPLES:
    raise InputError(
      f"{where}: found {declared} rows declared, expected 1 to {MAX_EXAMPLES}"
    )
  try:
    stored = 0
    for path in builder.info.splits[split].filepaths:
      reader = array_record_module.ArrayRecordReader(str(path))
      stored += reader.num_records()
      reader.close()
    source = builder.as_data_source(split)
  except Exception as error:
    raise _unreadable(where, error) from error
  if not stored == len(source) == declared:
    raise InputError(f"{where}: found {stored} rows, expected {declared}")
  images = np.empty((declared, PIXELS), np.uint8)
  labels = np.empty(declared, np.int64)
  for start in range(0, declared, _ROWS_AT_ONCE):
    indices = range(start, min(start + _ROWS_AT_ONCE, declared))
    try:
      rows = source.__getitems__(indices)
    except Exception as error:
      raise _unreadable(where, error) from error
    for i, row in zip(indices, rows, strict=True):
      images[i], labels[i] = _check_row(f"{where} row {i}", row, keys)
  return Examples(images, labels.astype(np.int32))


def _check_row(
  where: str, row: Mapping[str, Any], keys: Sequence[str]
) -> tuple[np.ndarray, int]:
  image, label = np.asarray(row[keys[0]]), np.asarray(row[keys[1]])
  if image.shape not in _SHAPES or image.dtype != np.uint8:
    raise InputError(
      f"{where}: found an image of {image.dtype} {image.shape}, expected "
      f"uint8 {_SHAPES[0]}"
    )
  if label.shape or label.dtype.kind not in "iu" or not 0 <= label < CLASSES:
    raise InputError(
      f"{where}: found label {label}, expected 0 to {CLASSES - 1}"
    )
  return image.reshape(PIXELS), int(label)


def _unreadable(where: str, error: Exception) -> InputError:
  return InputError(
    f"{where}: found unreadable records ({_brief(error)}), expected "
    "array_record files as TFDS writes them"
  )


def _brief(error: object) -> str:
  """A message on one line, and not a long one."""
  line = " ".join(str(error).split()) or type(error).__name__
  return line if len(line) <= 200 else f"{line[:200]}..."


def _prepare(dataset: str, name: str, root: Path, own_files: Path) -> None:
  """Has TFDS prepare a data set as array_record, in another process."""
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
  import tensorflow_datasets as tfds

  try:
    urls = tfds.builder_cls(name).url_infos
  except tfds.core.DatasetNotFoundError:
    raise InputError(
      f"dataset={dataset}: expected a data set TFDS knows"
    ) from None
  return next((url for url in urls or () if url.startswith("http")), None)


def unreachable(url: str, seconds: float) -> str | None:
  """Why no answer comes from a URL's host, or None if one does.

  Any HTTP answer counts, also through a proxy named in the environment. It is
  asked from a process of its own, since looking up a name has no time limit.

  Args:
    url: The address.
    seconds: How long to wait, all in all.
  """
  try:
    probe = subprocess.run(
      [sys.executable, "-c", _PROBE, url, str(seconds)],
      capture_output=True,
      text=True,
      timeout=seconds,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return f"no answer in {seconds:g} s"
  return _last_line(probe.stderr) if probe.returncode else None


def run_watched(command: Sequence[str], stall_seconds: float) -> str | None:
  """Runs a command; ends it when it says nothing for `stall_seconds`.

  Returns:
    None if it succeeds, else the last line it wrote.
  """
  path = os.pathsep.join(filter(None, sys.path)) or os.curdir
  environment = {**os.environ, "PYTHONPATH": path}
  with tempfile.TemporaryFile() as log:
    process = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    )
    try:
      written = -1
      while process.poll() is None:
        size = os.fstat(log.fileno()).st_size
        if size == written:
          return f"nothing happened for {stall_seconds:g} s"
        written = size
        try:
          process.wait(stall_seconds)
        except subprocess.TimeoutExpired:
          continue
    finally:
      process.kill()
      process.wait()
    log.seek(0)
    output = log.read().decode(errors="replace")
  return _last_line(output) if process.returncode else None


def _last_line(text: str) -> str:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1] if lines else "no message"


def prepare_here(dataset: str, root: str, own_files: str) -> None:
  """Prepares a data set as array_record in this process; needs TensorFlow.

  Args:
    own_files: The directory of MNIST's files, used for "mnist" alone: the files
      of other data sets have the same names.
  """
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
