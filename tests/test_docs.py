"""The pages tell the truth: commands, code, names, links, sizes."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_layering import ORDER

from experiments import chapter

ROOT = Path(__file__).parent.parent
PAGES = [
  *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
  *sorted((ROOT / "docs").glob("*.md")),
]
READERS = ("student", "researcher", "engineer")
MOST_LINES = 200  # of the README
LONGEST_CELL = 400  # a claim's sentence
SHORTER = {"range(10)": "range(2)", "seconds=30": "seconds=3"}
# Measures, judges and draws the study that is shown, at a tiny size.
STUDY_TINY = """
from pathlib import Path
from mnist_jax import data
values = study.preset_values(STUDY, "quick")
values.seeds, values.epochs = 2, 1
dataset = data.take(data.load(), 256)
table = measure(study.Lab(dataset, Path("my_study"), True), values)
(part,) = judge(table, values)
assert (part.claim, part.n) == ("L4", 2)
assert list(STUDY.figures(table, values)) == ["curves"]
assert len(summarise(table, values)) == 4
"""
# Each text on stdin is run as a program in a child of a process that has
# imported what takes long; a line says how it ended and what it printed.
RUNNER = """
import json, os, sys, tempfile, traceback, warnings
import jax, matplotlib.pyplot, optax, orbax.checkpoint, pandas, scipy.stats
from mnist_jax import range_test, sweep
warnings.filterwarnings("ignore", message=".*fork")
for line in sys.stdin:
  with tempfile.TemporaryFile("w+") as output:
    if not (pid := os.fork()):
      os.dup2(output.fileno(), 1)
      os.dup2(output.fileno(), 2)
      code = 0
      try:
        exec(compile(json.loads(line), "page", "exec"), {"__name__": "page"})
      except SystemExit as error:
        code = error.code or 0
      except BaseException:
        traceback.print_exc()
        code = 1
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    output.seek(0)
    print(json.dumps([code, output.read()]), flush=True)
"""


def name(page):
  return page.relative_to(ROOT).as_posix()


def text(page):
  return page.read_text("utf-8")


def blocks(page, language):
  """The code blocks of a page, without the margin they stand in."""
  found = re.findall(
    rf"^( *)```{language}\n(.*?)^\1```", text(page), re.M | re.S
  )
  return [re.sub(rf"^{margin}", "", code, flags=re.M) for margin, code in found]


def words(page):
  """What a person may type: shell blocks, and code in the text."""
  lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
  return [*lines, *re.findall(r"`([^`\n]+)`", text(page))]


def commands(page):
  """(experiments.NAME or benchmarks.NAME, its flags) of each command."""
  for line in words(page):
    found = re.search(
      r"python -m ((?:experiments|benchmarks)(?:\.\w+)+)([^#]*)", line
    )
    if found and found[1] not in ("experiments.NAME", "experiments.my_study"):
      yield found[1], re.findall(r"--(\w+)", found[2])


COMMANDS = sorted({module for page in PAGES for module, _ in commands(page)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """run(program) -> its exit code and what it printed."""
  with subprocess.Popen(
    [sys.executable, "-c", RUNNER],
    cwd=tmp_path_factory.mktemp("pages"),
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as server:

    def run(program):
      server.stdin.write(json.dumps(program) + "\n")
      server.stdin.flush()
      return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()


def flags_in_help(run, module, *given):
  code, printed = run(
    f"import runpy, sys; sys.argv = {[module, *given, '--help']!r}\n"
    f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
  )
  assert code == 0, printed
  return {"help", *re.findall(r"^  --(\w+)", printed, re.M)}


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_exists_with_its_flags(run, module):
  known = flags_in_help(run, module)
  for page in PAGES:
    for used, flags in commands(page):
      if used == module and "preset" in flags and "preset" not in known:
        # Without it the command answers a question, with it it is a study.
        assert set(flags) <= flags_in_help(run, module, "--preset=quick")
      elif used == module:
        assert set(flags) <= known, name(page)


@pytest.mark.parametrize(
  ("page", "code"),
  [(name(page), code) for page in PAGES for code in blocks(page, "python")],
)
def test_every_example_runs(run, page, code):
  for given, less in SHORTER.items():
    code = code.replace(given, less)
  ended, printed = run(code)
  assert ended == 0, printed


def test_the_example_of_the_readme_finds_its_mistake(run):
  (code,) = (c for c in blocks(PAGES[0], "python") if "gradcheck" in c)
  assert "gradient check: WRONG" in run(code)[1]


def test_the_study_that_is_shown_is_one(run):
  (code,) = blocks(ROOT / "docs" / "studies.md", "python")
  ended, printed = run(code + STUDY_TINY)
  assert ended == 0, printed


def test_the_check_needs_no_more_than_the_page_says():
  (row,) = re.findall(
    r"^\| (.*gradcheck.*) \| nothing \|",
    text(ROOT / "docs" / "limits.md"),
    re.M,
  )
  heavy = [
    "optax",
    "orbax",
    "absl",
    "scipy",
    "pandas",
    "matplotlib",
    "tensorboardX",
  ]
  program = "import sys, {}; print(*({} & set(sys.modules)))".format(
    ", ".join(re.findall(r"`([\w.]+)`", row)), set(heavy)
  )
  line = [sys.executable, "-c", program]
  done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (0, "\n"), done


def test_every_study_is_listed_with_its_claims():
  page = text(ROOT / "docs" / "studies.md")
  for study, claims in chapter.STUDIES.items():
    (row,) = re.findall(rf"^\| `experiments.{study}` \|(.*)", page, re.M)
    assert set(re.findall(r"[A-Z]\d", row.split(":")[0])) == set(claims)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_of_make_exist(page):
  makefile = (ROOT / "Makefile").read_text()
  for line in words(page):
    for target in re.findall(r"^make ([a-z-]+)", line):
      assert re.search(rf"^{target}:", makefile, re.M), target


def resolves(dotted):
  """Whether PACKAGE.NAME is there, as a module or as something in one."""
  found = importlib.import_module(f"mnist_jax.{dotted.split('.')[0]}")
  for part in dotted.split(".")[1:]:
    if not hasattr(found, part):
      try:
        importlib.import_module(f"{found.__name__}.{part}")
      except (ImportError, AttributeError):
        return False
    found = getattr(found, part)
  return True


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_and_paths_in_the_text_are_real(page):
  packages = "|".join(ORDER)
  folders = "mnist_jax|experiments|benchmarks|tests|docs|results|tools"
  for word in re.findall(r"`([^`\n]+)`", text(page)):
    dotted = re.match(
      rf"(?:mnist_jax\.)?((?:{packages})\.[\w.]+)(\(.*)?$", word
    )
    if dotted and not word.endswith((".png", ".json")):
      assert resolves(dotted[1]), word
    path = re.match(rf"(?:{folders})/[\w./]*$", word)
    if path and not re.search("[A-Z]{4}|my_study", word):  # a name to fill in
      assert (ROOT / word).exists(), word


def anchors(page):
  """What a link to a heading of the page may say after #, as on GitHub."""
  headings = re.findall(r"^#+ (.*)$", text(page), re.M)
  kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists(), target
    if anchor:
      assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_cell_of_a_table_is_a_sentence_at_most(page):
  for line in text(page).splitlines():
    for cell in re.split(r"(?<!\\)\|", line)[1:] if line[:1] == "|" else ():
      assert len(cell.strip()) <= LONGEST_CELL, cell
      assert not re.search(r"[\w)`][.!?] +[A-Z]", cell), cell


def test_the_readme_is_short_and_for_three_readers():
  readme = text(ROOT / "README.md")
  assert len(readme.splitlines()) <= MOST_LINES
  for reader in READERS:
    assert re.search(rf"^## If you are an? {reader}$", readme, re.M)
  assert "(docs/chapter.png)](docs/chapter.html)" in readme
  for page in PAGES[1:]:
    assert f"]({name(page)})" in readme
