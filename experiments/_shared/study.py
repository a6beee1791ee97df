"""What every study shares: presets, the sweep with its progress, the results.

A study is a file with `OPTIONS`, `measure`, `judge` and `draw`, put together
as a `Study` and run by `main`. Its run directory then has

  verdict.json   each claim's parts: verdict, n, effect, interval, test; the
                 command, device, versions and wall time
  summary.csv    the numbers behind the figures, small
  table.parquet  every evaluation of every run
  NAME.png       the figures
  sweep/         the runs, filed as they end: started again, a study goes on
"""

import concurrent.futures as futures
import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pandas as pd
from absl import flags

from experiments._shared import app, cluster, progress, tuning, workers
from experiments._shared import flags as shared
from mnist_jax import data, plotting, runtime, sweep
from mnist_jax.runtime import code, environment, files
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import verdicts
from mnist_jax.sweep import store
from mnist_jax.training import run_directory

FLAGS = flags.FLAGS
TUNING_SEED = 1000

Number = int | float
Value = Number | tuple[Number, ...]
Arms = tuning.Families
Case = Callable[[], list[dict[str, Any]]]
Values = SimpleNamespace  # of the options, by their names
Tables = Any  # what `measure` returns and the others take
Summary = Any  # a table, or what JSON can hold
Figures = Mapping[str, plotting.Figure]
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Option:
  """A number or a list of numbers that the presets fix.

  Each is a flag as well, which overrides the preset's value.

  Attributes:
    rises: For a list, the fewest numbers that it needs, which are above 0 and
      rise; None where they need not.
  """

  name: str
  quick: Value
  full: Value
  help: str
  rises: int | None = None

  def value(self, preset: str) -> Any:
    """The flag's value if it was given, else the preset's."""
    given = FLAGS[self.name].value
    if given is None:
      return getattr(self, preset)
    if isinstance(self.full, tuple):
      return self._numbers(given)
    return given

  def _numbers(self, given: Sequence[str]) -> tuple[Number, ...]:
    assert isinstance(self.full, tuple)
    kind = int if all(isinstance(v, int) for v in self.full) else float
    found = f"{self.name}={','.join(given)}"
    try:
      values = tuple(kind(v) for v in given)
    except ValueError:
      raise InputError(
        f"{found}: expected {'whole ' if kind is int else ''}numbers "
        "separated by commas"
      ) from None
    if self.rises is not None and (
      len(values) < self.rises
      or list(values) != sorted(set(values))
      or values[0] <= 0
    ):
      raise InputError(
        f"{found}: expected at least {self.rises} numbers above 0 that rise"
      )
    return values

  def define(self) -> None:
    """Defines the flag; without a value the preset decides."""
    text = f"{self.help} (quick {_shown(self.quick)}, full {_shown(self.full)})"
    if isinstance(self.full, tuple):
      flags.DEFINE_list(self.name, None, text)
    elif isinstance(self.full, int):
      least = min(1, self.quick, self.full)
      flags.DEFINE_integer(self.name, None, text, lower_bound=least)
    else:
      flags.DEFINE_float(self.name, None, text, lower_bound=0)
    shared.list_in_help(self.name)


def _shown(value: Value) -> str:
  if isinstance(value, tuple) and len(value) > 6:
    return f"{len(value)} from {value[0]} to {value[-1]}"
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclasses.dataclass
class Lab:
  """Where a study measures: its data and its directory.

  Attributes:
    overwrite: Whether the next sweep or collection begins afresh.
    data_flags: Those that load the data set, for the replays.
    code_key: Of the code on which what `collect` files rests.
    executor: Whose workers run the sweeps; None for this process.
    known: Directories of sweeps whose runs need not be made again.
    seconds: The time spent in sweeps, over all sessions of the study.
    session_seconds: The same of this session alone.
  """

  _dataset: data.Dataset | None
  workdir: Path
  overwrite: bool
  data_flags: Sequence[str] = ()
  code_key: str = "any"
  executor: futures.Executor | None = None
  mixed: bool = False
  known: Sequence[Path] = ()
  seconds: float = 0.0
  session_seconds: float = 0.0

  @property
  def dataset(self) -> data.Dataset:
    """The study's data set.

    Raises:
      ValueError: the study has `reads_data` false.
    """
    if self._dataset is None:
      raise ValueError("a study that reads no data has no data set")
    return self._dataset

  @property
  def data_digest(self) -> str | None:
    """Of the data set; None where no data are read."""
    return None if self._dataset is None else self._dataset.digest

  def collect(
    self,
    cases: Mapping[str, Case],
    name: str = "cases",
    *,
    at_once: bool = False,
  ) -> list[dict[str, Any]]:
    """The records of all cases, each filed in NAME.jsonl when it is done.

    A study that stops goes on with the cases that its code has not done.

    Args:
      cases: By name, in the order of the records. A case returns its records
        as JSON has them, the same whichever ran before it.
      at_once: Several at a time, as `workers.finished` says; they are pickled.
    """
    path = self.workdir / f"{name}-{self.code_key}.jsonl"
    if self.overwrite:
      path.unlink(missing_ok=True)
      self.overwrite = False
    done = _done_cases(path)
    todo = {case: run for case, run in cases.items() if case not in done}
    begun = filed = time.monotonic()
    ended = workers.finished(todo) if at_once else workers.in_turn(todo)
    with files.named(path), path.open("a") as file:
      for case, records in progress.each(ended, name, len(todo)):
        now = time.monotonic()
        # Since the one before was filed: the sum is that of the clock.
        done[case] = {"case": case, "records": records, "seconds": now - filed}
        filed = now
        # One write a case: a killed one leaves no half of it behind.
        file.write(json.dumps(done[case]) + "\n")
        file.flush()
    self.session_seconds += time.monotonic() - begun
    self.seconds += sum(done[case]["seconds"] for case in cases)
    return [record for case in cases for record in done[case]["records"]]

  def blocks(self) -> list[dict[str, Any]]:
    """What was noted about the blocks of all sweeps so far."""
    folders = self.workdir.glob("*/blocks")
    return [note for each in folders for note in store.read_blocks(each)]

  def tune(
    self,
    families: Arms,
    seeds: int,
    budget: sweep.Budget,
    *,
    metric: str = "dev_accuracy",
    **where: Any,
  ) -> tuning.Tuned:
    """The candidate of each family with the best mean at the end of its runs.

    Args:
      seeds: How many, from TUNING_SEED on, so that no fresh run has them.
      metric: A column of development data.
      where: As in `sweep`: dataset, data_flags, name.
    """
    run = functools.partial(self.sweep, **where)
    return tuning.tune(run, families, tuning_seeds(seeds), budget, metric)

  def sweep_likely(
    self,
    tuned: tuning.Tuned,
    seeds: Sequence[int],
    budget: sweep.Budget,
    **where: Any,
  ) -> pd.DataFrame:
    """Runs of other seeds at each candidate that the tuning may have chosen.

    Args:
      tuned: What `tune` returned.
      where: As in `sweep`: dataset, data_flags, name.

    Returns:
      The table with the columns `arm`, the family, and `candidate`, its number
      in the family. `tuning.arm` makes of it what `stats.tuned_difference`
      takes.
    """
    run = functools.partial(self.sweep, **where)
    return tuning.sweep_likely(run, tuned, seeds, budget)

  def sweep(
    self,
    cells: Sequence[sweep.Settings] | Arms,
    budget: sweep.Budget,
    *,
    dataset: data.Dataset | None = None,
    data_flags: Sequence[str] = (),
    name: str = "sweep",
  ) -> pd.DataFrame:
    """`sweep.run` with its progress shown and its results filed.

    Args:
      cells: The cells, or those of each arm by its name, which the table then
        has in a column `arm`. A cell of two arms is run once.
      dataset: The study's by default; another needs another `name`.
      data_flags: The flags with which `experiments.replay` makes it from the
        study's.
      name: The directory's inside the study's.
    """
    if isinstance(cells, Mapping):
      every = list(dict.fromkeys(itertools.chain(*cells.values())))
    else:
      every = list(cells)
    begun = time.monotonic()
    with progress.SweepProgress() as shown:
      table = sweep.run(
        every,
        budget,
        dataset=dataset or self.dataset,
        data_flags=(*self.data_flags, *data_flags),
        workdir=self.workdir / name,
        overwrite=self.overwrite,
        executor=self.executor,
        mixed=self.mixed,
        known=self.known,
        on_progress=shown.show,
      )
    self.overwrite = False  # a second sweep adds to the first
    self.session_seconds += time.monotonic() - begun
    self.seconds = sum(block["seconds"] for block in self.blocks())
    if isinstance(cells, Mapping):
      return by_arm(table, cells, budget)
    return table


def _done_cases(path: Path) -> dict[str, dict[str, Any]]:
  """The finished cases by key; a line cut short by a kill is taken away."""
  if not path.exists():
    return {}
  text = path.read_text("utf-8")
  whole = text[: text.rfind("\n") + 1]
  if whole != text:
    files.write_text(path, whole)
  return {line["case"]: line for line in map(json.loads, whole.splitlines())}


def tuning_seeds(count: int) -> range:
  """The seeds of tuning, apart from those of the fresh runs."""
  return range(TUNING_SEED, TUNING_SEED + count)


def by_arm(
  table: pd.DataFrame, arms: Arms, budget: sweep.Budget
) -> pd.DataFrame:
  """The rows of each arm's cells, one arm after another, with its name."""
  parts = []
  for arm, cells in arms.items():
    keys = {sweep.cell_key(cell, budget) for cell in cells}
    parts.append(table[table["cell"].isin(keys)].assign(arm=arm))
  return pd.concat(parts, ignore_index=True)


def preset_values(study: "Study", preset: str) -> Values:
  """The values of "quick" or "full" without any flags, for a notebook."""
  return Values(**{each.name: getattr(each, preset) for each in study.options})


@dataclasses.dataclass(frozen=True)
class Study:
  """A study of one claim or several.

  Attributes:
    name: of the module in `experiments`.
    options: The preset's values, each a flag.
    measure: (lab, values) -> what was measured, a table or several.
    judge: (measured, values) -> the claims, judged.
    draw: (measured, values) -> figures by name.
    summarise: (measured, values) -> a small table for summary.csv, or several
      files by name, tables and what JSON can hold.
    check: raises InputError for values that do not go together, before
      anything is measured.
    reads_data: whether it has the data flags, and `lab` a data set.
    report: (measured, values) -> lines to print before those of the verdicts.
  """

  name: str
  options: tuple[Option, ...]
  measure: Callable[[Lab, Values], Tables]
  judge: Callable[[Tables, Values], list[verdicts.Judged]]
  draw: Callable[[Tables, Values], Figures]
  summarise: Callable[[Tables, Values], pd.DataFrame | dict[str, Summary]]
  check: Callable[[Values], None] = lambda values: None
  reads_data: bool = True
  report: Callable[[Tables, Values], str] | None = None

  def figures(self, measured: Tables, values: Values) -> Figures:
    """What `draw` gives, in the project's style."""
    with plotting.style():
      return self.draw(measured, values)


def _write_verdict(
  name: str,
  lab: Lab,
  claims: Sequence[verdicts.Judged],
  values: Values,
  begun: float,
) -> None:
  # What this session did beside its sweeps, and all sessions' sweeps.
  beside = time.monotonic() - begun - lab.session_seconds
  places = (
    "--workdir",
    "--overwrite",
    "--known_runs",
    "--nocompile_cache",
    "--scheduler",
  )
  given = [arg for arg in sys.argv[1:] if not arg.startswith(places)]
  record = {
    "study": name,
    "preset": FLAGS.preset,
    "command": shlex.join(["python", "-m", f"experiments.{name}", *given]),
    "values": vars(values),
    "claims": [claim.to_dict() for claim in claims],
    "wall_seconds": round(lab.seconds + beside, 1),
    "runs_taken": sum(len(note.get("taken", ())) for note in lab.blocks()),
    "date": datetime.date.today().isoformat(),
    "data_digest": lab.data_digest,
    "code_version": store.code_version(),
    **environment.describe(),
  }
  text = json.dumps(record, indent=2, ensure_ascii=False)
  files.write_text(lab.workdir / "verdict.json", f"{text}\n")


def _part_row(part: verdicts.Part) -> tuple[str, ...]:
  effect = ""
  if part.effect is not None:
    low, high = part.effect.low, part.effect.high
    effect = f"{part.effect.estimate:+.4g} [{low:+.4g}, {high:+.4g}]"
    effect += f" n={part.effect.n}"
  more = f"{part.seeds_needed} seeds would" if part.seeds_needed else ""
  notes = "; ".join(note for note in (part.note, more) if note)
  effect += f" ({notes})" if notes else ""
  return f"  {part.role}", part.name, part.verdict, effect


def verdict_lines(claims: Sequence[verdicts.Judged]) -> list[str]:
  """Of each claim its word and sentence, and a line for each of its parts."""
  lines = []
  for claim in claims:
    within = f" ({claim.restriction})" if claim.restriction else ""
    lines.append(f"{claim.claim}  {claim.verdict.upper()}{within}")
    lines.append(f"  {claim.sentence}")
    lines += app.aligned([_part_row(part) for part in claim.parts])
  return lines


def _text(content: Summary) -> str:
  if isinstance(content, pd.DataFrame):
    return content.to_csv(index=False, float_format="%.6g")
  return run_directory.dumps(content, indent=1) + "\n"


def _write(
  study: Study, lab: Lab, values: Values, measured: Tables, begun: float
) -> list[verdicts.Judged]:
  claims = study.judge(measured, values)
  every = measured if isinstance(measured, Mapping) else {"table": measured}
  for name, table in every.items():
    if isinstance(table, pd.DataFrame):
      with files.replacing(lab.workdir / f"{name}.parquet") as temporary:
        table.to_parquet(temporary, index=False)
  summary = study.summarise(measured, values)
  if isinstance(summary, pd.DataFrame):
    summary = {"summary.csv": summary}
  for name, content in summary.items():
    files.write_text(lab.workdir / name, _text(content))
  for name, figure in study.figures(measured, values).items():
    plotting.save(figure, lab.workdir / f"{name}.png")
  _write_verdict(study.name, lab, claims, values, begun)
  return claims


def stop(number: int, _: object) -> NoReturn:
  """Ends at once: what is filed is whole, as after a SIGKILL.

  A KeyboardInterrupt would be lost where jax runs a callback.
  """
  print("stopped; the same command goes on", file=sys.stderr, flush=True)
  os._exit(128 + number)


def _sweeps_below(folder: str | None, own: Path) -> list[Path]:
  """The sweeps of other studies in a folder, whose runs may be taken.

  Raises:
    InputError: There is no such folder.
  """
  if folder is None:
    return []
  if not Path(folder).is_dir():
    raise InputError(f"known_runs={folder}: found no directory of that name")
  found = sorted(Path(folder).resolve().rglob("manifest.json"))
  return [p.parent for p in found if own.resolve() not in p.parents]


def _main(study: Study) -> None:
  begun = time.monotonic()
  signal.signal(signal.SIGINT, stop)
  runtime.use_all_cores()
  values = Values(**{s.name: s.value(FLAGS.preset) for s in study.options})
  study.check(values)
  workdir = Path(FLAGS.workdir or f"runs/{study.name}/{FLAGS.preset}")
  if study.reads_data:
    lab = Lab(
      shared.load_dataset(),
      workdir,
      FLAGS.overwrite,
      shared.data_flags(),
      code.digest(code.rests_on(Path(sys.argv[0]).resolve(), ROOT)),
      mixed=FLAGS.mixed,
      known=_sweeps_below(FLAGS.known_runs, workdir),
    )
  else:
    lab = Lab(None, workdir, overwrite=False)
  workdir.mkdir(parents=True, exist_ok=True)
  with (
    cluster.executor()
    if study.reads_data
    else contextlib.nullcontext() as lab.executor
  ):
    measured = study.measure(lab, values)
  claims = _write(study, lab, values, measured, begun)
  if study.report is not None:
    print(study.report(measured, values))
  print("\n".join(verdict_lines(claims)))
  names = sorted(p.name for p in workdir.glob("*.png"))
  print(
    f"figures  {', '.join(names)}\nrecords  verdict.json, summary.csv, "
    f"table.parquet\nin       {workdir}"
  )


def define(study: Study) -> None:
  """Defines the study's flags; at its import, once."""
  for setting in study.options:
    if setting.name not in FLAGS:
      setting.define()
  shared.use("preset")
  if study.reads_data:
    shared.use(*shared.DATA_FLAGS, "workdir", "overwrite", "known_runs")
    shared.use(*shared.CLUSTER_FLAGS)
  else:  # no sweep, so nothing is kept that could be in the way
    shared.use("workdir")


def main(study: Study, doc: str | None) -> NoReturn:
  """Runs a study as a program; `doc` is its module's docstring."""
  define(study)
  app.run(lambda _: _main(study), doc)
