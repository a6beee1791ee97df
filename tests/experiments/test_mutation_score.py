"""The mutation score: its cases, its rates, and that it can be gone on with."""

import json

import numpy as np
import pytest

from experiments.mutation_score import cases as mutation_score
from experiments.mutation_score import check_grads, judge
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.gradcheck.network.check import value_and_grad_of

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

NETWORK = mutation_score.Network((4, 3, 3), ("tanh",), 4, 0.3)


@pytest.fixture(scope="module")
def some():
  """A tenth of the catalogue, and a fault that is none here."""
  whole = catalogue.catalogue(NETWORK.activations)
  names = [*list(whole)[::10], "dz1_saturated"]
  return {name: whole[name] for name in names}


@pytest.fixture(scope="module")
def faults(some):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(catalogue, "catalogue", lambda activations: some)
    return mutation_score.fault_records(NETWORK, 7)


def test_every_fault_is_a_record(some, faults):
  assert {*some} - {r["fault"] for r in faults} == {"dz1_saturated"}
  assert all(r["caught"] and r["placed"] for r in faults)
  assert all(r["differs"] for r in faults)
  assert {r["verdict"] for r in faults} == {"wrong"}
  json.dumps(faults, allow_nan=False)


def test_the_peer_tells_right_from_wrong():
  subject = mutation_score.draw(NETWORK, 1)
  seam = value_and_grad_of("hand", NETWORK.activations)
  setting = str(check_grads.Setting("float64", 1e-3))
  right = subject.gradient(seam)
  wrong = (right[0]._replace(w=-right[0].w), right[1])
  rejected = check_grads.rejections(subject, [right, wrong])
  assert [each[setting] for each in rejected] == [False, True]
  assert list(rejected[0]) == list(map(str, check_grads.SETTINGS))


def test_random_networks_are_correct_and_reproducible():
  cases = mutation_score.correct_cases(2, 2, 50)
  assert cases == mutation_score.correct_cases(2, 2, 50)
  assert cases[0][0] == cases[1][0]
  first = mutation_score.correct_record(NETWORK, 50)
  assert first["verdict"] == "correct"
  assert mutation_score.correct_record(NETWORK, 50) == first


def test_seeds_of_fault_cases_are_all_different():
  cases = mutation_score.fault_cases(1, 6, 100)
  seeds = [seed for _, seed in cases]
  assert len(seeds) == len(set(seeds)) == 31
  assert cases[0][0] == mutation_score.CHAPTER


def with_outcomes(records, **outcomes):
  return [r | outcomes for r in records]


def test_rates_and_verdicts_follow_the_records(faults):
  right = {"verdict": "correct", "check_grads": faults[0]["check_grads"]}
  correct = [
    {"seed": s, "distance": 10.0**-power, **right}
    for power in (10, 6)  # half of them above the chapter's bar
    for s in range(500)
  ]
  many = [r | {"seed": s} for s in range(30) for r in faults]
  summary = judge.summarise(many, correct)
  assert summary["caught"]["rate"] == 1
  assert summary["false_alarms"]["count"] == 0
  assert summary["faults"] == len(faults)
  assert summary["below_1e-2"]["count"] == sum(
    r["distance"] < 1e-2 for r in many
  )

  assert summary["ratio"]["caught"]["count"] == sum(
    r["distance"] > 1e-7 for r in many
  )
  assert summary["ratio"]["false_alarms"]["rate"] == 0.5

  def judged(faults, correct):
    (claim,) = judge.judged(faults, correct)
    return {part.name: str(part.verdict) for part in claim.parts}

  (claim,) = judge.judged(many, correct)
  below = np.mean([r["distance"] < 1e-7 for r in many])
  assert claim.found("mistakes above the bar").estimate == pytest.approx(
    1 - below
  )
  assert f"{len(many):,} of {len(many):,} wrong, with 0 false" in claim.sentence
  assert judged(many, correct)["mistakes found"] == "holds"
  assert judged(many, correct)["false alarms"] == "holds"
  missed = with_outcomes(many[:-60], caught=True) + with_outcomes(
    many[-60:], caught=False
  )
  assert judged(missed, correct)["mistakes found"] != "holds"
  alarms = with_outcomes(correct, verdict="wrong")
  assert judged(many, alarms)["false alarms"] == "does not hold"
  failed = judge.summarise(missed, alarms)
  assert failed["false_alarms"]["count"] == len(alarms)
  assert failed["caught"]["count"] == len(many) - 60
  assert len(failed["failures"]) == 60
  assert failed["caught"]["low"] < failed["caught"]["rate"] < 1


def test_table_and_picture(faults):
  rows = judge.by_fault(faults + faults)
  assert [r["fault"] for r in rows] == [r["fault"] for r in faults]
  assert {r["cases"] for r in rows} == {2}
  assert all(r["caught"] == 2 for r in rows)
  correct = [
    {
      "seed": 1,
      "verdict": "correct",
      "distance": 1e-10,
      "check_grads": faults[0]["check_grads"],
    }
  ]
  summary = judge.summarise(faults, correct)
  figure = judge.picture(summary)
  titles = [ax.get_title() for ax in figure.axes]
  assert titles == ["mistakes found", "correct networks rejected"]
  drawn = figure.axes[0].get_yticklabels()
  assert [t.get_text() for t in drawn][:2] == [
    "ours",
    "the chapter's ratio\nabove 1e-7",
  ]
  best = summary["check_grads_best"]
  gains = {
    s: rates["caught"]["rate"] - rates["false_alarms"]["rate"]
    for s, rates in summary["check_grads"].items()
  }
  assert gains[best] == pytest.approx(max(gains.values()))
  assert np.isfinite(gains[best])
