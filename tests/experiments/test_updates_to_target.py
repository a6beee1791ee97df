"""B7, B8: the runs asked for, and verdicts on tables whose answer is known."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

from experiments._shared import study, tuning
from experiments.updates_to_target import judging, runs
from experiments.updates_to_target import study as updates_to_target
from mnist_jax import data, sweep, training
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats.verdicts import Verdict
from mnist_jax.training.settings import Settings

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 30
VALUES = study.preset_values(updates_to_target.STUDY, "full")


def wobble(*where):
  return np.random.default_rng(list(where)).normal()


def to_targets(critical):
  """Updates of a trade-off, of one seed in thirty cut short at the limit."""
  rows = []
  for target in VALUES.targets:
    main = target == VALUES.targets[1]
    for size in VALUES.batches if main else VALUES.few_batches:
      exact = 150 * (1 + critical / size) / target
      for seed in range(SEEDS):
        step = math.ceil(exact * math.exp(0.02 * wobble(seed, size)))
        row = {"target": target, "seed": seed, "batch_size": size, "step": step}
        row |= {"epoch": step * size / 55e3, "reached": seed > 0}
        rows.append(row | {"learning_rate": 0.5, "drop_last": True})
  return pd.DataFrame(rows)


def end(family, size, seed, candidate, loss):
  row = {"arm": family, "batch_size": size, "seed": seed, "step": 780}
  row |= {"cell": f"{family} {candidate} {seed}", "candidate": candidate}
  row |= {"learning_rate": 2.0**candidate, "drop_last": True}
  row |= {"diverged_step": None, "train_loss": loss / 2, "gap": loss / 2}
  for on in ("dev", "test"):
    row |= {f"{on}_loss": loss, f"{on}_accuracy": 1 - loss / 4}
  return row


def gaps(worse, spike=0.0, updates_worse=None):
  """Ends that are worse by so much for each step in batch size.

  spike: What one run in thirty at 2048 has more.
  """
  if updates_worse is None:
    updates_worse = worse
  losses = {"128": 0.1, "2048": 0.1 + worse, "8192": 0.1 + 2 * worse}
  for i, size in enumerate((2048, 8192), 1):
    losses[f"128, updates of {size}"] = losses[str(size)] - i * updates_worse
  rows, tuned = [], {}
  for family, loss in losses.items():
    size = int(family) if family.isdecimal() else 128
    scores = np.array([[0.2, 0.1, 0.3]] * 5) + 0.001 * np.arange(5)[:, None]
    tuned[family] = tuning.Tuned({family: [None] * 3}, {family: scores}, None)
    for seed in range(SEEDS):
      more = spike * (seed == 3 and family == "2048")
      own = (
        loss + more + 0.001 * wobble(seed) + 2e-4 * wobble(seed, len(family))
      )
      rows.append(end(family, size, seed, 1, own))
  return {"gap": pd.DataFrame(rows), "gap_tuned": tuned}


def made(critical=150.0, rough=-0.5, **gap):
  """Updates of a trade-off, roughness ~ batch^rough, and B8's runs."""
  rough_rows, other, rates = [], [], []
  for seed in range(SEEDS):
    for size in VALUES.smooth_batches:
      noisy = size**rough * math.exp(0.1 * wobble(seed, size, 1))
      row = {"seed": seed, "batch_size": size, "dev_loss": noisy}
      rough_rows.append(row | {"learning_rate": 0.5})
    for size in (128, 2048):
      row = {"seed": seed, "batch_size": size, "learning_rate": 1.0}
      value = {"sharpness": 10.0 + size + seed, "noise_scale": 100.0 + seed}
      other.append(row | value)
  for target in VALUES.targets:
    for size in VALUES.batches:
      row = {"target": target, "batch_size": size}
      rates.append(row | {"tuned": 0.1 * size, "smoothed": 0.1 * size})
  return {
    "table": to_targets(critical),
    "rates": pd.DataFrame(rates),
    "roughness": pd.DataFrame(rough_rows),
    "sharpness": pd.DataFrame(other),
    "noise": pd.DataFrame(other).query("batch_size == 128"),
    **gaps(**({"worse": 0.02} | gap)),
  }


def claims_of(measured):
  claims = updates_to_target.judge(measured, VALUES)
  return {claim.claim: claim for claim in claims}


def test_as_claimed():
  found = claims_of(made())
  assert {claim.verdict for claim in found.values()} == {Verdict.HOLDS}
  for claim in found.values():
    for part in claim.parts:
      assert part.verdict is Verdict.HOLDS, part.name
  assert len(found["B7"].parts) == 3 + 1 + 3
  assert "13 of 390 runs did not" in found["B7"]["no gain left"].note
  lost = found["B8"].found("test at 8192, equal epochs")
  assert lost.estimate == pytest.approx(0.01, abs=1e-4)
  assert "after 30 epochs batch 2048 loses 0.50 point" in found["B8"].sentence
  assert "batch 1 takes 90," in found["B7"].sentence


def test_opposite():
  """More updates for larger batches, rougher curves, better large batches."""
  measured = made(rough=0.3, worse=-0.02)
  table = measured["table"]
  table["step"] = (1e9 / table["step"]).round()
  found = claims_of(measured)
  assert {claim.verdict for claim in found.values()} == {Verdict.FAILS}
  b7 = found["B7"]
  names = [f"fewer updates to {target:g}" for target in VALUES.targets]
  for name in (*names, "smoother", "perfect scaling"):
    assert b7[name].verdict is Verdict.FAILS


def test_gain_without_end_is_no_gain_up_to_a_point():
  claim = claims_of(made(critical=1e6))["B7"]
  assert claim.verdict is Verdict.LIMITS
  assert claim["no gain left"].verdict is Verdict.FAILS
  assert claim["perfect scaling"].verdict is Verdict.HOLDS


def test_no_difference_is_no_worse_generalisation():
  claim = claims_of(made(worse=0.0))["B8"]
  assert claim.verdict is Verdict.FAILS


def test_worse_at_equal_epochs_alone_is_a_limit():
  claim = claims_of(made(updates_worse=-0.02))["B8"]
  assert claim.verdict is Verdict.LIMITS
  part = claim["development at 2048, equal updates"]
  assert part.verdict is Verdict.FAILS


def test_one_spike_hides_nothing():
  """Of 2048, whose mean it moves by ten times the difference."""
  claim = claims_of(made(spike=-6.0))["B8"]
  assert claim.verdict is Verdict.HOLDS
  part = claim["development at 2048, equal epochs"]
  assert part.effect.estimate == pytest.approx(0.005, abs=2e-4)


def test_short_batches_are_refused():
  measured = made()
  measured["gap"]["drop_last"] = False
  with pytest.raises(InputError, match="short last batches"):
    updates_to_target.judge(measured, VALUES)


def test_summary():
  found = updates_to_target.summarise(made(), VALUES)
  own = found[found["what"] == "updates to target"]
  assert len(own) == 13 + 2 * 4
  own = own[own["target"] == 0.25].set_index("batch_size")
  assert own["reached"].tolist() == [29] * 13
  assert own.loc[128, "updates"] == pytest.approx(
    600 * (1 + 150 / 128), rel=0.02
  )
  assert own["region"].tolist()[::12] == ["perfect", "none"]
  fits = found[found["what"] == "critical batch"]
  assert fits["value"].tolist() == pytest.approx([150] * 3, rel=0.05)
  gap = found[found["what"] == "gap"]
  assert gap["seeds"].tolist() == [SEEDS] * 5


def test_figures():
  figures = updates_to_target.draw(made(), VALUES)
  assert set(figures) == {"updates_to_target", "generalisation"}


class FakeLab:
  """Runs that get to .25 after 150 + 22,000 / B updates, at rate 0.5 best."""

  def __init__(self, dataset):
    self.dataset = dataset
    self.budgets = []

  def sweep(self, cells, budget):
    if isinstance(cells, dict):
      tables = [self.sweep(c, budget).assign(arm=a) for a, c in cells.items()]
      return pd.concat(tables, ignore_index=True)
    rows = []
    for cell in cells:
      self.budgets.append((cell, budget))
      off = abs(math.log(cell.learning_rate / 0.5))
      needed = (150 + 22_000 / cell.batch_size) * (1 + off)
      row = {"batch_size": cell.batch_size, "seed": cell.seed}
      row |= {"learning_rate": cell.learning_rate, "drop_last": cell.drop_last}
      row |= {"cell": sweep.cell_key(cell, budget), "diverged_step": None}
      per_epoch = cell.updates_per_epoch(1100)
      for step in budget.points(per_epoch):
        loss = 0.25 * (needed / max(step, 1)) ** 0.5
        found = row | {"step": step, "epoch": step / per_epoch}
        for split in ("train", "dev", "test"):
          found |= {f"{split}_loss": loss, f"{split}_accuracy": 1 - loss / 4}
        goal = budget.target
        reached = goal is not None and loss <= goal.value
        rows.append(found | {"reached": reached})
        if reached:
          break
    return pd.DataFrame(rows)

  def sweep_likely(self, tuned, seeds, budget):
    return tuning.sweep_likely(self.sweep, tuned, seeds, budget)


@pytest.fixture(scope="module")
def small(mnist):
  return dataclasses.replace(
    mnist, train=data.Split(*(x[:1100] for x in mnist.train))
  )


def test_measure(small, monkeypatch):
  for name in ("noise_scale", "sharpness"):
    monkeypatch.setattr(runs, name, lambda *arguments: 7.0)
  values = study.preset_values(updates_to_target.STUDY, "quick")
  values.targets, values.gap_batches = (0.4, 0.25, 0.2), (128, 512, 1024)
  monkeypatch.setattr(judging, "LARGE", 512)
  monkeypatch.setattr(updates_to_target, "LARGE", 512)
  lab = FakeLab(small)
  found = updates_to_target.measure(lab, values)
  assert all(cell.drop_last for cell, _ in lab.budgets)
  rates = found["rates"]
  np.testing.assert_allclose(rates["tuned"], 0.5, rtol=1e-3)
  np.testing.assert_allclose(rates["smoothed"], 0.5, rtol=1e-3)
  table = found["table"]
  needed = 150 + 22_000 / table["batch_size"]
  needed *= (0.25 / table["target"]) ** 2
  assert (
    (table["step"] >= needed) & (table["step"] <= 1.06 * needed + 1)
  ).all()
  assert (table["limit"] / table["step"]).between(3.5, 4.5).all()
  fresh = {cell.seed for cell, _ in lab.budgets if cell.seed < 1000}
  assert fresh == {0, 1}
  assert set(found["roughness"]["batch_size"]) == {32, 256}
  ends = found["gap"].groupby("arm")["step"].max()
  assert ends[["128, updates of 512", "128, updates of 1024"]].tolist() == [
    2,
    1,
  ]
  assert ends[["128", "512", "1024"]].tolist() == [8, 2, 1]
  assert set(found["gap_tuned"]) == set(ends.index)
  assert set(found["sharpness"]["batch_size"]) == {128, 512}
  assert set(found["noise"]["batch_size"]) == {64}
  assert found["gap"]["gap"].abs().max() == 0.0


def test_roughness_is_of_the_last_two_thirds_at_one_rate(small, monkeypatch):
  lab, seen = FakeLab(small), []
  monkeypatch.setattr(
    runs,
    "roughness",
    lambda values: seen.append(values.shape) or np.zeros(len(values)),
  )
  values = study.preset_values(updates_to_target.STUDY, "full")
  values.seeds = 2
  updates_to_target._measure_smooth(lab, values)
  # Half epochs from epoch 10 to 30, both ends among them.
  assert seen == [(2, 41)] * 4
  assert {cell.learning_rate for cell, _ in lab.budgets} == {0.5}


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
  values.targets = (0.25, 0.4)
  with pytest.raises(InputError, match=r"targets=0.25,0.4: .* two that fall"):
    updates_to_target.check(values)
  values.gap_batches = (128, 512)
  with pytest.raises(InputError, match="gap_batches=128,512: expected 128 fir"):
    updates_to_target.check(values)
