"""Checkpoints: what is saved comes back, or is rejected by name."""

import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from mnist_jax.runtime.errors import InputError
from mnist_jax.training import checkpoint
from mnist_jax.training.checkpoint import Checkpointer


class State(NamedTuple):
  step: jax.Array
  params: tuple
  opt_state: tuple


def make_state(step):
  params = ({"w": jnp.full((7, 3), 0.1 * step), "b": jnp.arange(3.0)},)
  opt_state = optax.chain(optax.adam(0.1), optax.clip(1.0)).init(params)
  return State(jnp.int32(step), params, opt_state)


def abstract(tree):
  return jax.eval_shape(lambda: tree)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert checkpoint.tree_digest(a) == checkpoint.tree_digest(b)


@pytest.fixture
def saved(tmp_path):
  """A directory with steps 1, 2 and 3."""
  with Checkpointer(tmp_path / "checkpoints") as checkpointer:
    for step in (1, 2, 3):
      checkpointer.save(step, make_state(step), {"epoch": step})
  return tmp_path / "checkpoints"


def restore(directory, target=None, **kwargs):
  target = abstract(make_state(0)) if target is None else target
  with Checkpointer(directory) as checkpointer:
    return checkpointer.restore_newest(target, **kwargs)


@contextlib.contextmanager
def full_disk(room):
  """Files of this process can have so many bytes."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def rewrite_sums(step_dir):
  """Passes what is there off as what was saved."""
  names = sorted(
    p.relative_to(step_dir).as_posix()
    for p in step_dir.rglob("*")
    if p.is_file() and p.name != "SHA256SUMS"
  )
  (step_dir / "SHA256SUMS").write_text(
    "".join(
      f"{hashlib.sha256((step_dir / n).read_bytes()).hexdigest()}  {n}\n"
      for n in names
    )
  )


def test_restores_the_newest_step_as_it_was(saved):
  restored = restore(saved)
  assert (restored.step, restored.meta, restored.rejected) == (
    3,
    {"epoch": 3},
    (),
  )
  assert_same(restored.tree, make_state(3))
  assert isinstance(restored.tree.opt_state[0][0], optax.ScaleByAdamState)


def test_restored_leaves_are_where_and_what_the_target_is(tmp_path):
  tree = {"a": jnp.arange(3.0), "b": jnp.arange(2.0), "c": np.arange(4)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(0, tree, {})
  device = jax.devices()[-1]
  target = tree | {"b": jax.device_put(tree["b"], device)}
  tree = restore(tmp_path, target).tree
  assert not tree["a"].committed  # as fresh: jit must not compile again
  assert tree["b"].committed
  assert tree["b"].devices() == {device}
  assert type(tree["c"]) is np.ndarray
  assert tree["c"].dtype == np.int64


dtypes = st.sampled_from(["float32", "float64", "int32", "uint8", "bool"])
arrays = dtypes.flatmap(
  lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
)
trees = st.recursive(
  arrays,
  lambda t: st.lists(t, max_size=3) | st.tuples(t, st.none(), t),
  max_leaves=6,
).filter(lambda t: jax.tree.leaves(t))


@hypothesis.settings(
  max_examples=15,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(tree=trees)
def test_any_tree_of_arrays_comes_back(tmp_path, tree):
  directory = tmp_path / "any"
  shutil.rmtree(directory, ignore_errors=True)
  with Checkpointer(directory) as checkpointer:
    checkpointer.save(0, {"tree": tree}, {})
    assert_same(checkpointer.restore_newest({"tree": tree}).tree["tree"], tree)


def test_bfloat16_comes_back(tmp_path):
  tree = {"x": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(0, tree, {})
  assert_same(restore(tmp_path, abstract(tree)).tree, tree)


def test_partial_target_takes_its_leaves_only(saved):
  params = make_state(3).params
  target = {"params": abstract(params)}
  with pytest.raises(InputError, match="leaf step"):
    restore(saved, target)
  assert_same(restore(saved, target, partial=True).tree["params"], params)


def test_tree_digest_is_sha256_of_names_types_and_bytes():
  tree = {"a": (jnp.float32(1.5),), "b": np.array([[1, 2]], np.int32)}
  expected = hashlib.sha256(
    b'["a.0", "float32", []]\n\x00\x00\xc0\x3f'
    b'["b", "int32", [1, 2]]\n\x01\x00\x00\x00\x02\x00\x00\x00'
  ).hexdigest()
  assert checkpoint.tree_digest(tree) == expected


def test_tree_digest_depends_on_every_part():
  x = np.arange(6, dtype=np.float32)
  flipped = x.copy()
  flipped.view(np.uint8)[-1] ^= 1
  trees = [
    {"a": x},
    {"b": x},
    [x],
    {"a": flipped},
    {"a": x.reshape(2, 3)},
    {"a": x.view(np.int32)},
    {"a": x[:3], "b": x[3:]},
    {"a": -0.0 * x},
    {"a": 0.0 * x},
  ]
  assert len({checkpoint.tree_digest(t) for t in trees}) == len(trees)
  assert checkpoint.tree_digest({"a": jnp.asarray(x)}) == (
    checkpoint.tree_digest({"a": x})
  )


@pytest.mark.parametrize("leaf", [1.5, "text", np.array([None])])
def test_leaf_that_is_no_array_is_refused(tmp_path, leaf):
  with Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(TypeError, match=r"a\.0"):
      checkpointer.save(0, {"a": [leaf]}, {})
    assert checkpoint.steps(tmp_path) == ()


def flip(position):
  def damage(path):
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0x20
    path.write_bytes(data)

  return damage


DAMAGES = {
  "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
  "emptied": lambda p: os.truncate(p, 0),
  "missing": lambda p: p.unlink(),
  "first byte": flip(0),
  "middle byte": flip(0.5),
  "last byte": flip(1),
}


def test_any_damage_to_any_file_rejects_the_step(saved, tmp_path):
  step_dir = saved / "3"
  sound = tmp_path / "sound"
  step_dir.rename(sound)
  files = [p.relative_to(sound) for p in sound.rglob("*") if p.is_file()]
  assert len(files) >= 5
  expected = checkpoint.tree_digest(make_state(2))
  with Checkpointer(saved) as checkpointer:
    for file in files:
      for kind, damage in DAMAGES.items():
        if kind != "missing" and not (sound / file).stat().st_size:
          continue
        shutil.rmtree(step_dir, ignore_errors=True)
        shutil.copytree(sound, step_dir)
        damage(step_dir / file)
        restored = checkpointer.restore_newest(abstract(make_state(0)))
        ((step, reason),) = restored.rejected
        assert (restored.step, step) == (2, 3), (file, kind)
        assert file.name in reason, (file, kind)
        assert "\n" not in reason
        assert checkpoint.tree_digest(restored.tree) == expected


def test_extra_file_rejects_the_step(saved):
  (saved / "3" / "state" / "leaves" / "1").write_bytes(b"")
  assert restore(saved).rejected[0][0] == 3


def test_what_a_file_manager_leaves_is_no_damage(saved):
  litter = (".DS_Store", "state/leaves/._0", "state/@eaDir/0@SynoEAStream")
  for name in litter:
    (saved / "3" / name).parent.mkdir(exist_ok=True)
    (saved / "3" / name).write_bytes(b"x")
  assert restore(saved).step == 3


# What follows is damage that the files' own sums do not show.


def test_values_of_another_step_are_rejected_by_their_digest(saved):
  shutil.rmtree(saved / "3" / "state")
  shutil.copytree(saved / "1" / "state", saved / "3" / "state")
  rewrite_sums(saved / "3")
  restored = restore(saved)
  assert restored.step == 2
  assert "digest" in restored.rejected[0][1]


def test_missing_chunk_is_not_restored_as_zeros(saved):
  (saved / "3" / "state" / "leaves" / "0").unlink()
  rewrite_sums(saved / "3")
  restored = restore(saved)
  assert restored.step == 2
  assert restored.rejected[0][0] == 3


def test_state_that_orbax_cannot_read_is_rejected(saved):
  (saved / "3" / "state" / "_METADATA").write_text("{")
  rewrite_sums(saved / "3")
  restored = restore(saved)
  assert restored.step == 2
  assert "cannot be restored" in restored.rejected[0][1]


def test_all_damaged_is_one_line_with_every_reason(saved):
  for step in (1, 2, 3):
    (saved / str(step) / "meta.json").unlink()
  with pytest.raises(InputError) as raised:
    restore(saved)
  message = str(raised.value)
  assert "\n" not in message
  assert str(saved) in message
  for step in (1, 2, 3):
    assert f"{step}: 'meta.json' is in SHA256SUMS but missing" in message


def test_nothing_saved_is_none_and_reading_makes_nothing(tmp_path):
  assert restore(tmp_path / "none") is None
  assert checkpoint.steps(tmp_path / "none") == ()
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("room", [10, 300])  # for no file, for all but leaves
def test_a_full_disk_costs_no_step_that_was_saved(saved, room, capfd):
  tree = make_state(4), np.random.default_rng(0).bytes(9999)
  tree = {"state": tree[0], "more": np.frombuffer(tree[1], np.uint8)}
  with Checkpointer(saved) as checkpointer:
    with full_disk(room), pytest.raises(OSError, match=r"4\.tmp") as raised:
      checkpointer.save(4, tree, {})
    assert raised.value.errno == errno.EFBIG
    assert capfd.readouterr().err == ""
    assert sorted(os.listdir(saved)) == ["1", "2", "3"]
    checkpointer.save(4, tree, {})
  assert checkpoint.steps(saved) == (2, 3, 4)
  assert restore(saved, tree).step == 4


def test_interrupted_save_is_reported_then_removed(saved):
  for unfinished in ("2.tmp", "4.tmp"):
    shutil.copytree(saved / "3" / "state", saved / unfinished / "state")
  with Checkpointer(saved) as checkpointer:
    restored = checkpointer.restore_newest(abstract(make_state(0)))
    assert restored.step == 3
    assert restored.rejected == ((4, "its save was interrupted"),)
    checkpointer.save(5, make_state(5), {})
  assert sorted(p.name for p in saved.iterdir()) == ["2", "3", "5"]


def test_interrupted_first_save_is_no_checkpoint(tmp_path):
  (tmp_path / "1.tmp").mkdir()
  assert restore(tmp_path) is None


def test_damaged_step_is_set_aside_and_saved_again(saved):
  for n in (1, 2):
    (saved / "3" / "meta.json").write_text(f"damage {n}")
    with Checkpointer(saved) as checkpointer:
      restored = checkpointer.restore_newest(abstract(make_state(0)))
      assert restored.step == 2
      checkpointer.save(3, make_state(3), {"epoch": 3})
    restored = restore(saved)
    assert (restored.step, restored.rejected) == (3, ())
    aside = saved / f"3.damaged-{n}"
    assert (aside / "meta.json").read_text() == f"damage {n}"
  assert checkpoint.steps(saved) == (1, 2, 3)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_saving_an_existing_or_older_step_is_an_error(saved, step):
  before = {p: p.stat().st_mtime_ns for p in saved.rglob("*")}
  with (
    Checkpointer(saved) as checkpointer,
    pytest.raises(ValueError, match=f"step {step} .*: it has 3"),
  ):
    checkpointer.save(step, make_state(9), {})
  assert {p: p.stat().st_mtime_ns for p in saved.rglob("*")} == before


def test_damage_is_not_overwritten_unless_it_was_found(saved):
  (saved / "3" / "meta.json").write_text("damage")
  with Checkpointer(saved) as checkpointer, pytest.raises(ValueError):
    checkpointer.save(3, make_state(3), {})


@pytest.mark.parametrize("keep", [1, 2])
def test_keeps_the_newest(tmp_path, keep):
  with Checkpointer(tmp_path, keep=keep) as checkpointer:
    for step in (1, 9, 10, 200):
      checkpointer.save(step, make_state(step), {})
  assert checkpoint.steps(tmp_path) == (1, 9, 10, 200)[-keep:]


def test_keep_of_zero_is_refused(tmp_path):
  with pytest.raises(ValueError, match="keep is 0"):
    Checkpointer(tmp_path, keep=0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"w": jnp.zeros((7, 4))}, r"w is float32\[7,3\], expected float32\[7,4\]"),
    ({"w": jnp.zeros((7, 3), int)}, r"is float32\[7,3\], expected int32"),
    ({"extra": jnp.zeros(2)}, r"no leaf params\.0\.extra, expected float32"),
  ],
)
def test_other_structure_names_the_leaf(saved, change, message):
  state = make_state(0)
  target = state._replace(params=({**state.params[0], **change},))
  with pytest.raises(InputError, match=message) as raised:
    restore(saved, target)
  assert str(saved / "3") in str(raised.value)


def test_meta_must_be_json(tmp_path):
  with Checkpointer(tmp_path) as checkpointer, pytest.raises(ValueError):
    checkpointer.save(0, make_state(0), {"loss": float("nan")})
  assert checkpoint.steps(tmp_path) == ()


def test_sha256sum_can_check_a_step(saved):
  subprocess.run(
    ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=saved / "3", check=True
  )


def test_later_steps_are_what_orbax_would_write(saved, tmp_path):
  alone = tmp_path / "alone"
  with Checkpointer(alone) as checkpointer:
    checkpointer.save(3, make_state(3), {"epoch": 3})
  names = [path.relative_to(alone) for path in alone.rglob("*")]
  assert sorted(names) == sorted(
    path.relative_to(saved) for path in saved.rglob("*") if "3" in path.parts
  )
  for name in names:
    if (alone / name).is_file():
      assert (alone / name).read_bytes() == (saved / name).read_bytes()


def test_orbax_writes_only_the_first_of_a_size(tmp_path, monkeypatch):
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, make_state(1), {})
    with monkeypatch.context() as without:
      without.setattr(checkpointer._orbax, "save", None)
      checkpointer.save(2, make_state(2), {})
      with pytest.raises(TypeError, match="not callable"):
        checkpointer.save(3, {"w": np.zeros(9)}, {})
    assert_same(restore(tmp_path).tree, make_state(2))


def test_steps_of_several_sizes_and_of_zeros_come_back(tmp_path):
  with Checkpointer(tmp_path, keep=9) as checkpointer:
    for step, size in enumerate([3, 3, 5, 5, 3, 1]):
      tree = {"w": np.full(size, step, np.float32)}
      checkpointer.save(step, tree, {})
      assert_same(restore(tmp_path, tree).tree, tree)
  assert checkpoint.steps(tmp_path) == tuple(range(6))


def test_plain_orbax_and_json_can_read_a_step(saved):
  import orbax.checkpoint as ocp

  with ocp.PyTreeCheckpointer() as checkpointer:
    state = checkpointer.restore((saved / "3" / "state").absolute())
  record = json.loads((saved / "3" / "meta.json").read_text())
  assert record["meta"] == {"epoch": 3}
  assert record["leaves"][:3] == [
    ["step", "int32", []],
    ["params.0.b", "float32", [3]],
    ["params.0.w", "float32", [7, 3]],
  ]
  params = make_state(3).params[0]
  expected = [np.int32(3), np.asarray(params["b"]), np.asarray(params["w"])]
  start = b"".join(array.tobytes() for array in expected)
  assert state["leaves"].tobytes().startswith(start)
