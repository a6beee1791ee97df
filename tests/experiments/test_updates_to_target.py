"""B7, B8: the runs asked for, and verdicts on tables whose answer is known."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

from experiments._shared import study
from experiments.updates_to_target import runs
from experiments.updates_to_target import study as updates_to_target
from experiments.updates_to_target import tables as scaling_tables
from mnist_jax import data, training
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict
from mnist_jax.sweep import tables
from mnist_jax.training.settings import Settings

SEEDS = 30
VALUES = study.preset_values(updates_to_target.STUDY, "full")


def wobble(*where):
  return np.random.default_rng(list(where)).normal()


def made(critical=150.0, rough=-0.5, worse=0.01):
  """Updates of a trade-off, roughness ~ batch^rough, and B8's runs."""
  target, rough_rows, gap, other = [], [], [], []
  for seed in range(SEEDS):
    for size in VALUES.batches:
      exact = 150 * (1 + critical / size) if critical else 3e8 / size
      step = math.ceil(exact * math.exp(0.02 * wobble(seed, size)))
      row = {"seed": seed, "batch_size": size, "learning_rate": 0.5}
      target.append(
        row | {"step": step, "epoch": step * size / 55e3, "reached": seed > 0}
      )
      noisy = size**rough * math.exp(0.1 * wobble(seed, size, 1))
      rough_rows.append(row | {"batch_loss": noisy, "dev_loss": noisy / 2})
    for i, size in enumerate(VALUES.gap_batches):
      shared = 0.001 * wobble(seed, size, 2)
      row = {
        "seed": seed,
        "batch_size": size,
        "learning_rate": 1.0,
        "dev_accuracy": 0.97 - worse * i + shared,
        "dev_loss": 0.1 + worse * i + shared,
        "train_loss": 0.05,
        "train_accuracy": 0.98,
        "gap": 0.05 + worse * i + shared,
        "diverged_step": None,
      }
      gap.append(row | {"budget_unit": "epochs"})
      if size < 8192:
        gap.append(row | {"budget_unit": "updates"})
      value = {"sharpness": 10.0 + size + seed, "noise_scale": 100.0 + seed}
      if size in (32, 2048):
        other.append(row | value)
  return {
    "table": pd.DataFrame(target),
    "roughness": pd.DataFrame(rough_rows),
    "gap": pd.DataFrame(gap),
    "sharpness": pd.DataFrame(other),
    "noise": pd.DataFrame(other).query("batch_size == 32"),
  }


def verdict_of(measured):
  parts = updates_to_target.judge(measured, VALUES)
  assert len({(part.claim, part.name) for part in parts}) == len(parts)
  return {part.name: part for part in parts}


def test_as_claimed():
  parts = verdict_of(made())
  assert len(parts) == 5 + 6
  assert {part.verdict for part in parts.values()} == {Verdict.HOLDS}
  assert "14 of 420 runs did not" in parts["fewer updates"].note


def test_opposite():
  """More gain without end, rougher curves, and better large batches."""
  parts = verdict_of(made(critical=None, rough=0.3, worse=-0.01))
  assert parts["fewer updates"].verdict is Verdict.HOLDS
  assert parts["fewer updates"].effect.estimate == pytest.approx(-1, abs=0.01)
  others = {part.verdict for name, part in parts.items() if "fewer" not in name}
  assert others == {Verdict.FAILS}


def test_no_difference_is_no_worse_generalisation():
  parts = verdict_of(made(worse=0.0))
  found = {p.verdict for p in parts.values() if p.claim == "B8"}
  assert found == {Verdict.FAILS}


def test_summary():
  found = updates_to_target.summarise(made(), VALUES)
  own = found[found["what"] == "updates to target"].set_index("batch_size")
  assert own["reached"].tolist() == [29] * 14
  assert own.loc[128, "updates"] == pytest.approx(
    150 * (1 + 150 / 128), rel=0.02
  )
  assert own["region"].tolist()[::13] == ["perfect", "none"]
  fits = found.set_index("what")
  assert fits.loc["critical batch", "value"] == pytest.approx(150, rel=0.03)
  assert 100 < fits.loc["noise scale after an epoch", "value"] < 130
  assert any("BIC" in what for what in found["what"])
  gap = found[found["what"] == "gap"]
  assert len(gap) == 9
  assert len(found[found["what"] == "sharpness"]) == 2


def test_figures():
  figures = updates_to_target.draw(made(), VALUES)
  assert set(figures) == {"updates_to_target", "generalisation"}


class FakeLab:
  """Runs that get to the target after 150 + 22,000 / B, at rate 0.5 best."""

  def __init__(self, dataset):
    self.dataset = dataset
    self.budgets = []

  def sweep(self, cells, budget):
    rows = []
    for cell in cells:
      self.budgets.append((cell, budget))
      off = abs(math.log(cell.learning_rate / 0.5))
      needed = (150 + 22_000 / cell.batch_size) * (1 + off)
      row = {"batch_size": cell.batch_size, "seed": cell.seed}
      row |= {"learning_rate": cell.learning_rate, "cell": repr(cell)}
      for step in budget.points(cell.updates_per_epoch(55_000)):
        loss = 0.25 * (needed / max(step, 1)) ** 0.5
        found = row | {"step": step, "epoch": step / 430, "dev_loss": loss}
        found |= {"batch_loss": loss, "dev_accuracy": 1 - loss / 4}
        found |= {"train_loss": loss, "train_accuracy": 0.9}
        reached = loss <= 0.25
        rows.append(found | {"reached": reached, "diverged_step": None})
        if budget.target is not None and reached:
          break
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def small(mnist):
  return dataclasses.replace(
    mnist, train=data.Split(*(x[:1100] for x in mnist.train))
  )


def test_measure(small, monkeypatch):
  for name in ("noise_scale", "sharpness"):
    monkeypatch.setattr(runs, name, lambda *arguments: 7.0)
  values = study.preset_values(updates_to_target.STUDY, "quick")
  values.target, values.gap_batches = 0.25, (128, 1024, 2048)
  lab = FakeLab(small)
  monkeypatch.setattr(updates_to_target, "MOST_EPOCHS", 100)
  found = updates_to_target.measure(lab, values)
  table = found["table"]
  assert set(table["learning_rate"]) == {0.5}
  needed = 150 + 22_000 / table["batch_size"]
  assert ((table["step"] >= needed) & (table["step"] <= 1.06 * needed)).all()
  assert (table["limit"] / table["step"]).between(3.5, 4.5).all()
  fresh = {cell.seed for cell, _ in lab.budgets if cell.seed < 1000}
  assert fresh == {0, 1}
  late = [b for _, b in lab.budgets if b.target is None and b.unit == "updates"]
  assert len(late[0].evaluate_at) == updates_to_target.WINDOWS
  assert set(found["roughness"]["batch_size"]) == {16, 256}
  gap = found["gap"].groupby("budget_unit")["batch_size"].unique()
  assert gap["epochs"].tolist() == [128, 1024, 2048]
  assert gap["updates"].tolist() == [128, 1024]  # 2048: 112 epochs, over 100
  assert set(found["sharpness"]["batch_size"]) == {128, 2048}
  assert set(found["noise"]["batch_size"]) == {64}
  assert scaling_tables.gap(found["gap"])["gap"].abs().max() == 0.0


def test_roughness_is_of_single_late_updates(small, monkeypatch):
  lab = FakeLab(small)
  seen = []
  monkeypatch.setattr(
    runs,
    "roughness",
    lambda values: seen.append(values.shape) or np.zeros(len(values)),
  )
  cells = [Settings(seed=seed) for seed in range(2)]
  updates_to_target._rough(lab, cells, 300)
  assert seen == [(2, 40), (2, 40)]
  steps = tables.curves(
    lab.sweep(cells, lab.budgets[0][1]), "batch_size", "dev_loss", point="step"
  ).points
  assert steps.tolist() == [0, *range(300, 341)]


def test_minima_are_of_the_weights_at_the_end(small, monkeypatch):
  config = Settings(batch_size=500).train_config()
  split = jax.device_put(small.train)
  _, params = next(training.params_at(config, 1.0, split, 3, (2,)))
  monkeypatch.setattr(runs, "SHARPNESS_EXAMPLES", 200)
  given = []

  def moments(activations, params, some):
    given.append((len(some.labels), params))
    return SimpleNamespace(noise_scale=np.float32(1.5))

  def sharpness(activations, params, some, key, *, tolerance):
    given.append((len(some.labels), params))
    return SimpleNamespace(value=np.float32(2.5))

  monkeypatch.setattr(runs.analysis, "network_moments", moments)
  monkeypatch.setattr(runs.curvature, "network_sharpness", sharpness)
  assert runs.noise_scale(config, 1.0, split, 3, 2) == 1.5
  assert runs.sharpness(config, 1.0, split, 3, 2) == 2.5
  assert [count for count, _ in given] == [1100, 200]
  for _, found in given:
    for a, b in zip(found, params, strict=True):
      np.testing.assert_array_equal(a.w, b.w)


def test_reference_and_large_batch_are_needed():
  values = study.preset_values(updates_to_target.STUDY, "full")
  updates_to_target.check(values)
  values.gap_batches = (128, 512)
  with pytest.raises(InputError, match="gap_batches=128,512: expected 128 and"):
    updates_to_target.check(values)
