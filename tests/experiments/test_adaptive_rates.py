"""S1's verdict on tables whose answer is known; SGD with rates by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments._shared import study, tuning
from experiments.adaptive_rates import pixel_rates
from experiments.adaptive_rates import study as adaptive_rates
from mnist_jax import data, sweep
from mnist_jax.data import sparse
from mnist_jax.stats.verdicts import Verdict
from mnist_jax.sweep import store

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40
VALUES = study.preset_values(adaptive_rates.STUDY, "full")
FAMILIES = {
  "sparse": ("sgd", "adagrad", "adam", *pixel_rates.POWERS),
  "control": ("sgd", "adagrad", "adam"),
}


def made_up(gains, doubt=0.0):
  """Runs of each family at its second rate, so far above SGD's 0.9.

  SGD's third rate is likely too, and `doubt` better there.
  """
  tuned, tables = {}, []
  for name, families in FAMILIES.items():
    candidates, scores = {}, {}
    for number, family in enumerate(families):
      rates = adaptive_rates.GRIDS[family]
      candidates[family] = sweep.product(learning_rate=rates)
      scores[family] = np.tile(np.arange(len(rates)) != 1.0, (5, 1)) * 1.0
      gain = gains.get((name, family), 0.0)
      ends = {1: 0.9 + gain}
      if family == "sgd" and doubt:
        scores[family][:, 2] = (0, 1, 0, 1, 0.5)
        scores[family][:, 1] = (1, 0, 1, 0, 0)
        ends[2] = ends[1] + doubt
      for candidate, end in ends.items():
        seeds = np.arange(SEEDS)
        own = (
          end + 0.002 * np.sin(37 * seeds + 5) + 1e-4 * np.sin(seeds + number)
        )
        tables.append(
          pd.DataFrame(
            {
              "data": name,
              "arm": family,
              "candidate": candidate,
              "cell": [f"{name} {family} {candidate} {s}" for s in seeds],
              "seed": seeds,
              "step": 1,
              "dev_accuracy": own,
              "test_accuracy": own - 0.01,
              "dev_loss": 1 - own,
              "test_loss": 1 - own,
              "diverged_step": np.nan,
            }
          )
        )
    tuned[name] = tuning.Tuned(candidates, scores, pd.DataFrame())
  return {"table": pd.concat(tables, ignore_index=True), "tuned": tuned}


def little(mnist, num_train):
  few = data.Split(mnist.dev.images[:500], mnist.dev.labels[:500])
  return dataclasses.replace(data.take(mnist, num_train), dev=few, test=few)


def judged(gains, **more):
  (found,) = adaptive_rates.judge(made_up(gains, **more), VALUES)
  return found


HAND = ("sparse", "sgd, rates p^-1/2")


@pytest.mark.parametrize(
  ("gains", "word", "restriction"),
  [
    ({("sparse", "adam"): 0.02, HAND: 0.02}, Verdict.HOLDS, ""),
    # As much on the control: it is not the sparseness.
    (
      {("sparse", "adam"): 0.02, ("control", "adam"): 0.02, HAND: 0.02},
      Verdict.LIMITS,
      "",
    ),
    ({HAND: 0.02}, Verdict.MOSTLY_NOT, "of rates set by hand"),
    ({("sparse", "adam"): -0.02, HAND: -0.02}, Verdict.FAILS, ""),
    # Above 0 to the last digit, but not by what matters.
    ({("sparse", "adam"): 0.0005}, Verdict.FAILS, ""),
  ],
)
def test_a_claim_by_any_method(gains, word, restriction):
  # Tuning prefers the method that is better, or none of them.
  made = made_up(gains)
  for tuned in made["tuned"].values():
    for family in ("adam", "sgd, rates p^-1/2"):
      if family in tuned.scores:
        tuned.scores[family] -= 0.5
  (found,) = adaptive_rates.judge(made, VALUES)
  assert (found.verdict, found.restriction) == (word, restriction)
  gain = gains.get(("sparse", "adam"), 0.0)
  part = found["adam, accuracy"]
  assert part.effect.estimate == pytest.approx(gain, abs=1e-4)
  assert part.test_effect.estimate == pytest.approx(gain, abs=1e-4)
  assert f"{abs(100 * gain):.2f} point" in found.sentence
  assert "lost runs: 0 of 320" in found.parts[-1].note


def test_the_doubt_about_the_tuned_rate_undoes_a_gain():
  gains = {("sparse", "adam"): 0.004}
  assert judged(gains)["adam, accuracy"].verdict is Verdict.HOLDS
  # SGD's other likely rate would have been as good as Adam.
  part = judged(gains, doubt=0.004)["adam, accuracy"]
  assert part.verdict is Verdict.UNDECIDED
  assert part.effect.low < 0.001 < part.effect.high


def test_rates_by_hand_share_the_movement_out_and_add_none():
  shown = np.array([0.01, 0.1, 1.0, 1.0])
  found = pixel_rates.scales(shown, 0.5)
  assert found[0] / found[2] == pytest.approx(10)
  assert (shown * found).sum() == pytest.approx(shown.sum())
  assert pixel_rates.scales(shown, 0.0) == pytest.approx(np.ones(4))


def test_with_all_pixels_alike_they_are_the_sweeps_runs(
  mnist, tmp_path, monkeypatch
):
  monkeypatch.setitem(pixel_rates.POWERS, "alike", 0.0)
  mnist = little(mnist, 1000)
  lab = study.Lab(mnist, tmp_path, overwrite=False)
  budget = sweep.Budget(epochs=2, evaluate_every=1, final_splits=("test",))
  cells = sweep.product(
    num_train=700, batch_size=32, learning_rate=[0.5, 1.0], seed=range(3)
  )
  ours = pixel_rates.run(
    lab,
    mnist,
    sparse.frequencies(0.01, 0),
    {"alike": cells, "sgd, rates p^-1": cells},
    budget,
  )
  theirs = sweep.run(cells, budget, dataset=mnist)
  index = ["cell", "step"]
  columns = ["epoch", "dev_loss", "dev_accuracy", "test_loss", "test_accuracy"]
  alike, other = (
    ours[ours["arm"] == arm]
    .set_index(index)
    .loc[list(theirs[index].itertuples(index=False, name=None)), columns]
    for arm in ("alike", "sgd, rates p^-1")
  )
  expected = theirs[columns].to_numpy()
  np.testing.assert_allclose(alike, expected, atol=2e-3)
  ends = theirs["step"] == theirs["step"].max()
  moved = np.abs(other["dev_loss"].to_numpy() - expected[:, 1])[ends]
  assert (moved > 1e-3).all()


def test_it_says_how_its_data_are_made_again(mnist, tmp_path, monkeypatch):
  dataset = little(mnist, 50)
  swept = []

  def made(lab, cells, budget, *, dataset=dataset, data_flags=(), name):
    swept.append((dataset, dict(flag[2:].split("=") for flag in data_flags)))
    runs = [
      dataclasses.asdict(cell)
      | {
        "cell": sweep.cell_key(cell, budget),
        "step": 1,
        "dev_accuracy": -abs(np.log(cell.learning_rate / 0.002)),
        "diverged_step": None,
      }
      for own in cells.values()
      for cell in own
    ]
    return study.by_arm(pd.DataFrame(runs), cells, budget)

  monkeypatch.setattr(study.Lab, "sweep", made)
  monkeypatch.setattr(
    pixel_rates,
    "run",
    lambda lab, dataset, shown, *more: made(
      lab, *more, dataset=dataset, data_flags=SPARSE, name="by pixel"
    ),
  )
  values = study.preset_values(adaptive_rates.STUDY, "quick")
  lab = study.Lab(dataset, tmp_path, overwrite=False)
  measured = adaptive_rates.measure(lab, values)
  assert set(measured["table"]["arm"]) == {*FAMILIES["sparse"]}
  for used, flags in swept:
    made_again = dataset
    if flags:
      made_again = sparse.sparsify(
        dataset, float(flags["sparse_lowest"]), int(flags["sparse_seed"])
      )
    assert store.data_digest(used) == store.data_digest(made_again)
  assert {bool(flags) for _, flags in swept} == {True, False}


SPARSE = ("--sparse_lowest=0.01", "--sparse_seed=0")
