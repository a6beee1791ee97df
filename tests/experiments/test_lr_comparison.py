"""L4 judged on made-up curves whose answer is known, and on their opposite."""

import numpy as np
import pandas as pd
import pytest

from experiments import lr_comparison
from experiments._shared import study
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run

SEEDS = 40
EPOCHS = 14


def values():
  found = study.preset_values(lr_comparison.STUDY, "full")
  found.epochs = EPOCHS
  return found


def runs(accuracy, loss=None):
  """Curves accuracy(rate, epoch); the loss 1 less it, or of its own."""
  loss = loss or accuracy
  rows = []
  for k, rate in enumerate((0.2, 0.3, 0.5, 0.8)):
    for seed in range(SEEDS):
      noise = 0.0005 * np.sin(37 * k + 5 * seed)
      for epoch in range(EPOCHS + 1):
        row = {"cell": f"{rate}-{seed}", "learning_rate": rate, "seed": seed}
        row |= {"epoch": float(epoch), "step": epoch * 430}
        row["dev_accuracy"] = accuracy(rate, epoch) + noise
        row["dev_loss"] = 1 - loss(rate, epoch) - noise
        last = epoch == EPOCHS  # where alone the test set is read
        row["test_accuracy"] = row["dev_accuracy"] if last else np.nan
        row["test_loss"] = row["dev_loss"] if last else np.nan
        rows.append(row)
  return pd.DataFrame(rows)


def as_claimed(rate, epoch):
  """0.8 ahead until epoch 5, 0.5 from there on; the others behind."""
  if rate == 0.8:
    return 0.95 if epoch else 0.1
  if rate == 0.5:
    return (0.94 if epoch < 5 else 0.96) if epoch else 0.1
  return 0.9


def opposite(rate, epoch):
  swapped = {0.8: 0.5, 0.5: 0.8}
  return as_claimed(swapped.get(rate, rate), epoch)


@pytest.mark.parametrize(
  ("accuracy", "loss", "word", "parts"),
  [
    (as_claimed, as_claimed, Verdict.HOLDS, Verdict.HOLDS),
    (as_claimed, opposite, Verdict.LIMITS, Verdict.HOLDS),
    (opposite, as_claimed, Verdict.FAILS, Verdict.FAILS),
  ],
)
def test_accuracy_makes_the_word_and_loss_limits_it(
  accuracy, loss, word, parts
):
  (judged,) = lr_comparison.judge(runs(accuracy, loss), values())
  assert judged.verdict is word
  for name in ("first", "passed", "stays", "best of 0.5 and 0.8"):
    assert judged[f"{name}, accuracy"].verdict is parts
  assert judged["best of 0.5 and 0.2, accuracy"].verdict is Verdict.HOLDS
  ends = judged["best of 0.5 and 0.8, accuracy"]
  assert ends.test_effect.estimate == pytest.approx(ends.effect.estimate)


def test_equals_do_not_hold_by_the_margin():
  (judged,) = lr_comparison.judge(runs(lambda rate, epoch: 0.95), values())
  assert judged["best of 0.5 and 0.8, accuracy"].verdict is Verdict.FAILS


@pytest.mark.parametrize("accuracy", [as_claimed, opposite])
def test_the_sentence_names_who_is_ahead(accuracy):
  (judged,) = lr_comparison.judge(runs(accuracy), values())
  at_first, later = ("0.8", "0.5")[:: 1 if accuracy is as_claimed else -1]
  assert f"rate {at_first} is 1.00 point" in judged.sentence
  assert f", {later} is 1.00 point" in judged.sentence
  crosses = "do at epoch" if accuracy is as_claimed else "do not cross"
  assert "-1.00" not in judged.sentence
  assert f"in accuracy they {crosses}" in judged.sentence


def test_crossing_is_where_the_means_cross_for_good():
  epochs = np.arange(1.0, 7)
  line = np.array([-0.3, 0.2, -0.1, 0.3, 0.2, 0.1])
  spread = np.linspace(-0.02, 0.02, SEEDS)[:, None]
  at, without = lr_comparison.crossing(epochs, line + spread)
  assert at.estimate == pytest.approx(3.25)
  assert 3.15 < at.low < 3.25 < at.high < 3.35
  assert without == 0

  at, without = lr_comparison.crossing(epochs, -line + spread)
  assert (at.estimate, without) == (6, 1)
  at, without = lr_comparison.crossing(epochs, np.abs(line) + spread)
  assert (at.estimate, without) == (1, 0)
