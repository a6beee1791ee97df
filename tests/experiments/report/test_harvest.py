"""What a study leaves for the page."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import chapter
from experiments.report import harvest


def runs(arms, seeds=(0, 1, 2, 1000), epochs=(0, 1, 2), **more):
  rows = [
    {
      "learning_rate": rate,
      "seed": seed,
      "epoch": epoch,
      "dev_accuracy": rate + 0.1 * epoch + 0.01 * (seed % 10),
      "dev_loss": 1.0 - 0.1 * epoch,
      "diverged_step": np.nan,
      "command": f"run {rate} {seed}",
    }
    | more
    for rate in arms
    for seed in seeds
    for epoch in epochs
  ]
  return pd.DataFrame(rows)


def test_a_mean_has_students_interval():
  # t of 2 degrees of freedom at 0.975 is 4.303; the sd is 1.
  found = harvest.mean_and_interval(np.array([1.0, 2.0, 3.0]))
  half = 4.30265 / np.sqrt(3)
  assert found == pytest.approx([2, 2 - half, 2 + half], abs=1e-3)


def test_of_logarithms_it_is_geometric_and_leaves_out_what_is_lost():
  found = harvest.mean_and_interval(np.array([1.0, 100.0, np.inf]), log=True)
  assert found[0] == pytest.approx(10)
  assert found[1] * found[2] == pytest.approx(100, rel=1e-3)
  assert harvest.mean_and_interval(np.array([np.nan])) == [None] * 3


def test_curves_are_by_arm_with_their_seeds():
  table = runs([0.2, 0.5], seeds=(0, 1, 2))
  first, second = harvest.curves(
    table, "learning_rate", "dev_accuracy", seeds=True
  )
  assert (first["key"], second["key"], first["n"]) == ("0.2", "0.5", 3)
  assert [point[0] for point in first["points"]] == [0, 1, 2]
  assert first["points"][1][1] == pytest.approx(0.31)
  assert first["seeds"][2] == pytest.approx([0.22, 0.32, 0.42])


def test_the_map_has_a_cell_of_fresh_seeds_with_its_command(tmp_path):
  cells = pd.concat([runs([0.1, 0.5], batch_size=size) for size in (16, 32)])
  cells.loc[
    (cells["batch_size"] == 32) & (cells["seed"] == 1), "diverged_step"
  ] = 5.0
  cells.to_parquet(tmp_path / "table.parquet")
  cells.to_parquet(tmp_path / "panels.parquet")
  harvest.write("lr_batch_size", tmp_path, tmp_path)
  found = json.loads((tmp_path / "page.json").read_text())
  assert len(found["cells"]) == 4
  cell = found["cells"][-1]
  assert (cell["rate"], cell["batch"]) == (0.5, 32)
  assert (cell["n"], cell["lost"], cell["command"]) == (3, 1, "run 0.5 0")
  assert set(found["panels"]) == {"16", "32"}


def test_differences_are_paired(tmp_path):
  runs([0.2, 0.3, 0.5, 0.8], seeds=(0, 1, 2)).to_parquet(
    tmp_path / "table.parquet"
  )
  harvest.write("lr_comparison", tmp_path, tmp_path)
  found = json.loads((tmp_path / "page.json").read_text())
  (first, *_) = found["dev_accuracy_difference"]
  assert first["key"] == "0.8 - 0.5"
  for _, mean, low, high in first["points"]:  # the seeds cancel
    assert [mean, low, high] == pytest.approx([0.3, 0.3, 0.3])


def test_a_study_without_curves_leaves_nothing_and_takes_what_was(tmp_path):
  (tmp_path / "page.json").write_text("{}")
  harvest.write("line_fit", tmp_path, tmp_path)
  assert not (tmp_path / "page.json").exists()


def test_only_studies_are_read():
  assert set(harvest.READERS) <= set(chapter.STUDIES)
