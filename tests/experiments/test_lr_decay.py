"""L5 judged on made-up runs whose answer is known, and on their opposite."""

import numpy as np
import pandas as pd
import pytest

from experiments import lr_decay
from experiments._shared import study
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40


def runs(losses, seeds):
  """Runs of each arm that end at its loss; accuracy is 1 less it."""
  rows = []
  for k, (arm, loss) in enumerate(losses.items()):
    for seed in seeds:
      value = loss + 0.0005 * np.sin(37 * k + 5 * seed)
      row = {"cell": f"{arm}-{seed}", "arm": arm, "seed": seed, "step": 1}
      row |= {"epoch": 1.0, "dev_loss": value, "test_loss": value}
      rows.append(row | {"dev_accuracy": 1 - value, "test_accuracy": 1 - value})
  return pd.DataFrame(rows)


def measured(gain, judged_gain=None):
  """A tuned decay whose loss is `gain` below the tuned fixed rate's."""
  values = study.preset_values(lr_decay.STUDY, "full")
  families = {
    family: [cell.describe() for cell in cells]
    for family, cells in lr_decay.families(values).items()
  }
  fixed, decayed = families["fixed"], families["decayed"]
  losses = dict.fromkeys(fixed, 0.2) | dict.fromkeys(decayed, 0.25)
  losses |= {fixed[2]: 0.1, decayed[4]: 0.1 - gain}
  tuning = runs(losses, study.tuning_seeds(5))
  if judged_gain is not None:
    losses |= {decayed[4]: 0.1 - judged_gain}
  choice = dict(
    zip(lr_decay.ARMS, (decayed[4], fixed[2], fixed[4], fixed[0]), strict=True)
  )
  judged = {arm: losses[arm] for arm in choice.values()}
  table = runs(judged, range(SEEDS))
  return {"table": table, "tuning": tuning, "choice": choice}, values


@pytest.mark.parametrize(
  ("gain", "expected"), [(0.02, Verdict.HOLDS), (-0.02, Verdict.FAILS)]
)
def test_by_the_loss_at_the_end(gain, expected):
  (judged,) = lr_decay.judge(*measured(gain))
  assert judged.verdict is expected
  part = judged["against best fixed, loss"]
  assert part.role == "primary"
  assert part.effect.estimate == pytest.approx(gain, abs=5e-4)
  assert part.test_effect.estimate == pytest.approx(gain, abs=5e-4)
  assert judged["against small alone, accuracy"].verdict is Verdict.HOLDS


def test_tuned_seeds_do_not_judge():
  """What tuning saw is not what is judged: a gain of the tuning seeds alone."""
  (judged,) = lr_decay.judge(*measured(0.02, judged_gain=-0.02))
  assert judged.verdict is Verdict.FAILS


def test_a_gain_in_loss_alone_has_limits():
  found, values = measured(0.02)
  for column in ("dev_accuracy", "test_accuracy"):
    found["table"][column] = 0.9 + 1e-4 * np.sin(found["table"]["seed"])
  (judged,) = lr_decay.judge(found, values)
  assert judged.verdict is Verdict.LIMITS
  assert "0.0200 nats" in judged.sentence
  assert "0.00 point" in judged.sentence
