"""H3, H5, H7: their figures say what the studies' tables hold."""

from pathlib import Path

import pandas as pd

from experiments.report.figures import _own
from experiments.report.results import Results
from experiments.report.words import LANGUAGES, Words

SAID = Path(__file__).parents[4] / "docs" / "results.md"


def interval(column, value):
  low, high = 0.9 * value, 1.1 * value
  return {column: value, f"{column}_low": low, f"{column}_high": high}


def write(root, study, rows):
  (root / study).mkdir()
  pd.DataFrame(rows).to_csv(root / study / "summary.csv", index=False)


def figures(root):
  made = _own.panels(Results(root, SAID), Words())
  return {figure.name: figure for panel in made for figure in panel.figures}


def test_without_results_there_is_no_figure(tmp_path):
  assert not figures(tmp_path)


def test_every_arm_has_its_line(tmp_path):
  arms = ("SGD", "momentum", "Adam, default", "Adam, half-life", "Adam, short")
  write(
    tmp_path,
    "adam_batch",
    [
      {"arm": arm, "batch_size": size, "seeds": 30}
      | interval("best_rate", size / 100)
      | interval("dev_loss", 1 / size)
      for arm in arms
      for size in (16, 64)
    ],
  )
  write(
    tmp_path,
    "width_transfer",
    [
      {"kind": kind, "width": width, "rate": rate, "seeds": 30}
      | interval("best_rate", 64 / width)
      for kind in ("standard", "muP")
      for width in (64, 512)
      for rate in (0.5, 1.0)
    ],
  )
  write(
    tmp_path,
    "critical_batch",
    [
      {"measure": measure, "epoch": epoch, "dev_loss": 1 / epoch, "seeds": 30}
      | interval("critical_batch", 100 * epoch)
      for measure in ("noise", "target", "branch")
      for epoch in (1, 2, 4)
    ],
  )
  made = figures(tmp_path)
  assert {name: len(each.series) for name, each in made.items()} == {
    "adam_rates": 5,
    "adam_losses": 5,
    "width_rates": 2,
    "critical": 3,
  }
  rates, widths = made["adam_rates"], made["width_rates"]
  assert rates.series[0].points[1] == (64, 0.64, 0.9 * 0.64, 1.1 * 0.64)
  assert [point[:2] for point in widths.series[1].points] == [
    (64, 1.0),
    (512, 0.125),
  ]
  losses = [point[0] for point in made["critical"].series[0].points]
  assert losses == sorted(losses)
  for each in made.values():
    assert each.n == 30
    for word in (each.word, *(series.word for series in each.series)):
      assert all(Words().of(lang)[word] for lang in LANGUAGES)
