"""The results of a sweep on the disk."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnist_jax import data
from mnist_jax.runtime import code
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import store
from mnist_jax.training.settings import FIELDS, Settings

ROOT = Path(__file__).parents[2]


def rows(key="k", seeds=(0,), **fields):
  """A table as the engine makes it, of made-up numbers."""
  return store.frame(
    {
      **store.setting_columns(Settings(seed=seed)),
      "cell": f"{key}{seed}",
      "step": step,
      "epoch": step / 10,
      "rate": 0.2,
      "dev_loss": 1 / (1 + step + seed),
      "budget": "{}",
      "command": "python",
      **fields,
    }
    for seed in seeds
    for step in (0, 10)
  )


@pytest.fixture
def workdir(tmp_path):
  return tmp_path / "sweep"


def opened(workdir, digest="d", overwrite=False):
  return store.Store(workdir, digest, {"about": "x"}, overwrite)


@pytest.fixture
def filed(workdir):
  """A directory with two blocks in it."""
  with opened(workdir) as results:
    results.add(["k0"], rows(), {"seconds": 1.5})
    results.add(["k1", "k2"], rows(seeds=(1, 2)), {"seconds": 2.5})
  return workdir


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_columns_have_one_type_whatever_is_in_them():
  full = rows(
    num_train=500,
    momentum=1,
    boundaries="1,2",
    staircase=True,
    batch_loss=1,
    diverged_step=3,
    reached=False,
  )
  empty = rows()
  none = store.frame([])
  assert list(full.columns) == list(store.COLUMNS)
  for other in (empty, none):
    pd.testing.assert_series_equal(full.dtypes, other.dtypes)
  assert empty["num_train"].isna().all()
  assert full["diverged_step"].tolist() == [3, 3]
  assert len(none) == 0


def test_columns_hold_every_setting():
  names = list(FIELDS)
  assert list(store.COLUMNS[: len(names)]) == names
  cell = Settings(schedule="multistep", boundaries=(10, 20.5))
  found = store.setting_columns(cell)
  assert found["hidden_sizes"] == "64,16"
  assert found["boundaries"] == "10,20.5"
  assert found["num_train"] is None


def test_pandas_opens_the_cells_in_one_line(filed):
  table = pd.read_parquet(filed / "cells")
  assert sorted(set(table["cell"])) == ["k0", "k1", "k2"]
  pd.testing.assert_series_equal(table.dtypes, rows().dtypes)
  with opened(filed) as results:
    ordered = ["cell", "step"]
    pd.testing.assert_frame_equal(
      results.table().sort_values(ordered, ignore_index=True),
      table.sort_values(ordered, ignore_index=True),
    )


def test_notes_of_blocks(filed):
  notes = store.read_blocks(filed / "blocks")
  assert sorted(note["seconds"] for note in notes) == [1.5, 2.5]


def test_manifest_says_of_what_the_results_are(filed):
  manifest = json.loads((filed / "manifest.json").read_text())
  assert manifest == {
    "data_digest": "d",
    "code_version": store.code_version(),
    "about": "x",
  }


def test_overwrite_begins_afresh(filed):
  with opened(filed, "other", overwrite=True) as results:
    assert len(results.table()) == 0
    assert store.read_blocks(filed / "blocks") == []
  with pytest.raises(InputError, match="data_digest"):
    opened(filed, "d")


def test_what_a_kill_left_is_removed(filed):
  for folder in (filed, filed / "cells", filed / "blocks"):
    (folder / ".tmp-x.parquet").write_bytes(b"half")
    os.utime(folder / ".tmp-x.parquet", (0, 0))
    (folder / ".tmp-y.parquet").write_bytes(b"of another writer")
  assert len(pd.read_parquet(filed / "cells")) == 6
  with opened(filed) as results:
    assert len(results.table()) == 6
  assert {path.name for path in filed.rglob(".tmp-*")} == {".tmp-y.parquet"}


def other_code(workdir):
  manifest = json.loads((workdir / "manifest.json").read_text())
  manifest["code_version"] = "0" * 12
  (workdir / "manifest.json").write_text(json.dumps(manifest))


def flip(workdir):
  """One bit of a number, which without checksums would be read as another."""
  (path,) = (
    p for p in (workdir / "cells").iterdir() if len(pd.read_parquet(p)) == 2
  )
  found = path.read_bytes()
  at = found.index(np.float64(1 / 11).tobytes())
  path.write_bytes(found[:at] + bytes([found[at] ^ 1]) + found[at + 1 :])


def cut(workdir):
  path = min((workdir / "cells").iterdir())
  path.write_bytes(path.read_bytes()[:100])


def other_columns(workdir):
  pd.DataFrame({"a": [1]}).to_parquet(workdir / "cells" / "a.parquet")


DAMAGE = {
  "code": (other_code, r"code_version 000000000000, now \w{12}"),
  "torn manifest": (
    lambda w: (w / "manifest.json").write_text('{"data_dig'),
    "manifest.json: is not the manifest",
  ),
  "list as manifest": (
    lambda w: (w / "manifest.json").write_text("[]"),
    "manifest.json: is not the manifest",
  ),
  "no manifest": (
    lambda w: (w / "manifest.json").unlink(),
    "cells but no manifest.json",
  ),
  "flipped bit": (flip, r"\.parquet: cannot be read"),
  "cut part": (cut, r"\.parquet: cannot be read"),
  "other columns": (other_columns, r"a\.parquet: cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_gone_on_with_is_one_line(filed, kind):
  damage, message = DAMAGE[kind]
  damage(filed)
  before = contents(filed)
  with pytest.raises(InputError, match=message) as caught, opened(filed) as it:
    it.table()
  assert "\n" not in str(caught.value)
  assert contents(filed) == before
  with opened(filed, overwrite=True) as results:
    assert len(results.table()) == 0


def test_other_data_is_one_line(filed):
  before = contents(filed)
  with pytest.raises(
    InputError, match=r"data_digest d, now e;.*overwrite=True"
  ):
    opened(filed, "e")
  assert contents(filed) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
  "there", ["thesis.tex", "cells/notes.txt", "manifest.json", "blocks/a.json"]
)
def test_a_directory_of_something_else_is_left_alone(workdir, there, overwrite):
  for name in (there, "mine.txt"):
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_text('{"name": "my web app"}')
  before = contents(workdir)
  with pytest.raises(InputError, match="no results of a sweep") as caught:
    opened(workdir, overwrite=overwrite)
  assert "\n" not in str(caught.value)
  assert contents(workdir) == before


def test_what_a_file_manager_leaves_is_passed_over(workdir):
  litter = [".DS_Store", "cells/._a.parquet", "blocks/._a.json"]
  for name in litter:
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_bytes(b"\0\5\x16\7")
  for overwrite in (False, True):
    with opened(workdir, overwrite=overwrite) as results:
      results.add(["k0"], rows(), {"seconds": 1.5})
      assert len(results.table()) == 2
    assert store.read_blocks(workdir / "blocks") == [{"seconds": 1.5}]
  assert contents(workdir).keys() > set(litter)


def test_a_file_is_no_directory(workdir):
  workdir.write_text("mine")
  with pytest.raises(InputError, match="is a file"):
    opened(workdir, overwrite=True)
  with pytest.raises(InputError, match="cannot be used"):
    opened(workdir / "below")
  assert workdir.read_text() == "mine"


def test_rows_from_before_a_setting_are_read_with_its_default(filed):
  path = min((filed / "cells").glob("*.parquet"))
  whole = pd.read_parquet(path)
  for name in ("clip_norm", "batch_schedule"):
    whole.drop(columns=name).to_parquet(path, index=False)
    with opened(filed) as results:
      found = results.table()
    assert found[name].isna().all()
    assert list(found.columns) == list(store.COLUMNS)
  whole.drop(columns="l2").to_parquet(path, index=False)
  with opened(filed) as results, pytest.raises(InputError, match="l2"):
    results.table()


def test_a_directory_in_use_is_one_line(filed):
  code = (
    "import sys, pathlib\n"
    "from mnist_jax.runtime import errors\n"
    "from mnist_jax.sweep import store\n"
    "try:\n"
    "  store.Store(pathlib.Path(sys.argv[1]), 'd', {}, True)\n"
    "except errors.InputError as error:\n"
    "  print(error)\n"
  )
  before = contents(filed)
  with opened(filed):
    done = subprocess.run(
      [sys.executable, "-c", code, str(filed)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    )
  assert done.stdout == f"workdir={filed}: is being written by another " + (
    "process\n"
  )
  assert contents(filed) == before
  with opened(filed):
    pass  # given up


def test_code_version_sees_code_but_no_words(monkeypatch):
  read = Path.read_text
  compute = store.code_version.__wrapped__  # once a process else

  def changed(change):
    def text(path, *args):
      found = read(path, *args)
      return change(found) if path.name == "loop.py" else found

    monkeypatch.setattr(Path, "read_text", text)
    version = compute()
    monkeypatch.setattr(Path, "read_text", read)
    return version

  now = compute()
  assert changed(lambda s: s + "\n\n# a comment\n") == now
  assert changed(lambda s: s.replace('"""One update', '"""An update')) == now
  assert changed(lambda s: s.replace("2000", "2001")) != now
  assert changed(lambda s: s.replace("state.step + 1", "state.step")) != now


def test_every_module_behind_a_number_is_decisive():
  """What the decisive modules import is decisive, or cannot change numbers."""
  beside = {"data/idx", "data/tfds"}
  package = ROOT / "mnist_jax"
  for name in store._DECISIVE:
    for path in code.imported(package / f"{name}.py", ROOT):
      found = path.relative_to(package).with_suffix("").as_posix()
      if path.stem != "__init__" and not found.startswith("runtime/"):
        assert found in {*store._DECISIVE, *beside}, name


def test_data_digest_sees_every_split(mnist):
  small = dataclasses.replace(
    data.take(mnist, 50), test=data.Split(*(a[:9] for a in mnist.test))
  )
  now = store.data_digest(small)
  assert now == store.data_digest(small)
  digests = {now}
  for name in ("train", "dev", "test"):
    split = getattr(small, name)
    shorter = data.Split(*(array[1:] for array in split))
    relabelled = split._replace(labels=np.roll(split.labels, 1))
    for other in (shorter, relabelled):
      changed = dataclasses.replace(small, **{name: other})
      digests.add(store.data_digest(changed))
  assert len(digests) == 7
