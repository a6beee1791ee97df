"""Programs that outlive a command: whole, bounded, and nobody else's."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import pytest

from experiments._shared import compile_cache
from mnist_jax.runtime.errors import InputError

ROOT = Path(__file__).parents[3]

# Runs the same small training in children for each line of stdin, its words
# the flags of one each, all at once. The disk of "full" ends within the first
# entry that it writes, and so does the life of "kill".
SERVER = """
import os, resource, signal, sys, traceback, warnings
import jax, jax.numpy as jnp, numpy as np
from experiments._shared import app
warnings.filterwarnings("ignore", message=".*fork")

def main(_):
  hits = []
  jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event.endswith("/cache_hits"))
  )
  x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
  loss = lambda w: jnp.mean(jnp.tanh(x @ w) ** 2)
  step = lambda w, _: (w - 0.1 * jax.grad(loss)(w), None)
  train = lambda w: jax.lax.scan(step, w, None, 9)[0]
  w = jax.jit(jnp.square)(jax.jit(train)(x[0]))
  line = f"{float(np.asarray(w).sum()).hex()} {sum(hits)}\\n"
  os.write(1, line.encode())  # in one piece

for line in sys.stdin:
  children = []
  for flag in line.split():
    if not (pid := os.fork()):
      try:
        if flag in ("full", "kill"):
          resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        if flag == "kill":
          signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        sys.argv = ["some", *[flag] * flag.startswith("-")]
        app.run(main, "")
      except SystemExit as error:
        os._exit(error.code or 0)
      except BaseException:
        traceback.print_exc()
      os._exit(1)
    children.append(pid)
  codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in children]
  print(*codes, flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def commands(home):
  """commands(*flags) runs one for each, at once: results, hits, codes, errors.

  They have a cache of their own in `home`.
  """
  env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  said = home / "said"
  with (
    said.open("w") as errors,
    subprocess.Popen(
      [sys.executable, "-c", SERVER],
      cwd=ROOT,
      env=env | {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
    ) as server,
  ):

    def run(*flags):
      print(*flags, file=server.stdin, flush=True)
      before = len(said.read_text())
      printed = [server.stdout.readline().split()]
      while len(printed[-1]) == 2 and printed[-1][0].startswith(("0x", "-0x")):
        printed.append(server.stdout.readline().split())
      *results, codes = printed
      values = {value for value, _ in results}
      hits = [int(hits) for _, hits in results]
      return values, hits, list(map(int, codes)), said.read_text()[before:]

    yield run
    server.stdin.close()


def entries(home):
  return {path.name: path.stat().st_size for path in home.rglob("jit_*-cache")}


def test_it_is_filled_read_and_mended_and_changes_no_result(commands, home):
  plain, hits, codes, said = commands("--nocompile_cache")
  assert (len(plain), hits, codes, said) == (1, [0], [0], "")
  assert not (home / "mnist_jax").exists()

  # A kill leaves half an entry, on which no later command trips.
  assert commands("kill") == (set(), [], [-signal.SIGXFSZ], "")
  torn = entries(home)
  assert [*torn.values()] == [1000]

  values, hits, codes, said = commands("full")
  assert (values, hits, codes) == (plain, [0], [0])
  assert said == (
    "programs are not kept for the next command: OSError: [Errno 27] File too "
    "large\n"
  )

  # Two at once.
  values, _, codes, said = commands("cold", "cold")
  assert (values, codes, said) == (plain, [0, 0], "")
  whole = entries(home)
  assert whole[next(iter(torn))] > torn[next(iter(torn))]

  values, (hits,), codes, said = commands("warm")
  assert (values, codes, said) == (plain, [0], "")
  assert hits >= len(whole)

  # Each torn, some empty.
  assert len(whole) > 1
  for number, path in enumerate(home.rglob("jit_*-cache")):
    os.truncate(path, number % 2 * path.stat().st_size // 2)
  assert commands("torn") == (plain, [0], [0], "")
  assert commands("warm") == (plain, [hits], [0], "")

  (place,) = (home / "mnist_jax" / "compiled").iterdir()
  assert place.stat().st_mode & 0o777 == 0o700
  place.chmod(0o770)
  values, hits, codes, said = commands("open")
  assert (values, hits, codes) == (plain, [0], [0])
  assert said == (
    "programs are not kept for the next command: "
    f"{place} has mode 770, expected 700\n"
  )


def test_a_directory_that_jax_has_already_is_left_to_it(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  assert before is not None  # that of the tests
  compile_cache.use()
  assert jax.config.jax_compilation_cache_dir == before
  assert not [*tmp_path.iterdir()]


def test_it_is_where_the_xdg_specification_has_it(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  for given in ("", "relative/path"):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert compile_cache._root().is_relative_to("/home/me/.cache/mnist_jax")
  monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
  assert compile_cache._root().is_relative_to("/elsewhere/mnist_jax")


@pytest.fixture
def loose_umask():
  before = os.umask(0)
  yield
  os.umask(before)


def test_what_it_makes_is_private(tmp_path, loose_umask):
  made = compile_cache._made(tmp_path / "a" / "b" / "c")
  for place in (made, made.parent, made.parents[1]):
    assert place.stat().st_mode & 0o777 == 0o700


def give_away(path, monkeypatch):
  if os.getuid() == 0:
    os.chown(path, 12345, -1)
  else:
    monkeypatch.setattr(os, "getuid", lambda: 12345)


@pytest.mark.parametrize(
  ("change", "line"),
  [
    (lambda place, _: place.chmod(0o750), "/a/b has mode 750, expected 700"),
    (lambda place, _: place.chmod(0o701), "/a/b has mode 701, expected 700"),
    (
      lambda place, _: place.parent.chmod(0o770),
      "/a has mode 770: others can write to it",
    ),
    (
      lambda place, _: place.parent.chmod(0o707),
      "/a has mode 707: others can write to it",
    ),
    (give_away, "/a/b belongs to user"),
    (lambda place, patch: give_away(place.parent, patch), "belongs to user"),
  ],
)
def test_nobody_else_can_change_or_exchange_it(
  tmp_path, monkeypatch, change, line
):
  place = compile_cache._made(tmp_path / "a" / "b")
  change(place, monkeypatch)
  with pytest.raises(InputError, match=line):
    compile_cache._made(place)


def test_a_link_to_it_counts_as_what_it_points_to(tmp_path):
  real = compile_cache._made(tmp_path / "open" / "real")
  real.parent.chmod(0o777)
  link = tmp_path / "link"
  link.symlink_to(real)
  with pytest.raises(InputError, match="/open has mode 777"):
    compile_cache._made(link)
  real.parent.chmod(0o1777)  # as /tmp: nobody can exchange what is not theirs
  assert compile_cache._made(link) == real


@pytest.fixture
def no_directory():
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("base", ["/dev/null", "/proc/nowhere"])
def test_where_there_can_be_none_a_line_says_why(
  base, no_directory, monkeypatch, capsys
):
  monkeypatch.setenv("XDG_CACHE_HOME", base)
  compile_cache._say.cache_clear()
  compile_cache.use()
  said = capsys.readouterr().err
  assert said.startswith("programs are not kept for the next command: ")
  assert base in said
  assert said.count("\n") == 1


def test_what_was_read_longest_ago_goes_first(tmp_path, monkeypatch):
  monkeypatch.setattr(compile_cache, "LIMIT", 250)
  for age, name in enumerate(("new/c", "new/a", "old/b")):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (time.time() - age, time.time()))
  compile_cache._prune(tmp_path)
  left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
  assert left == ["a", "c"]


def test_other_warnings_are_shown_and_a_full_disk_said_once(
  tmp_path, monkeypatch, capsys
):
  shown = []
  monkeypatch.setattr(warnings, "showwarning", lambda *a: shown.append(a[0]))
  compile_cache._say.cache_clear()
  compile_cache._mend(tmp_path)
  (tmp_path / "jit_f-12-cache").touch()
  (tmp_path / "jit_ff-12-cache").touch()
  text = "Error writing persistent compilation cache entry for 'jit_f': full"
  for message in (text, text.replace("jit_f", "jit_g"), "other"):
    warnings.showwarning(UserWarning(message), UserWarning, "a.py", 1)
  assert list(map(str, shown)) == ["other"]
  assert [p.name for p in tmp_path.iterdir()] == ["jit_ff-12-cache"]
  assert capsys.readouterr().err.count("\n") == 1
