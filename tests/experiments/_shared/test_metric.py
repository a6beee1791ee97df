"""What is measured, which way is better, and summaries over runs."""

import numpy as np
import pandas as pd
import pytest

from experiments._shared import metric
from experiments._shared.metric import ACCURACY, LOSS, Metric


@pytest.mark.parametrize(
  ("own", "name", "scale", "unit", "sign"),
  [
    (ACCURACY, "accuracy", 100, "points of accuracy", 1),
    (LOSS, "loss", 1, "nats", -1),
    (Metric("test_accuracy", 0.1), "test accuracy", 100, None, 1),
  ],
)
def test_metric(own, name, scale, unit, sign):
  assert (own.name, own.scale, own.sign) == (name, scale, sign)
  assert unit is None or own.unit == unit
  assert own.is_accuracy is (sign == 1)


def test_a_gain_is_above_0_where_the_first_is_better():
  first, other = np.array([0.9, 0.2]), np.array([0.8, 0.3])
  np.testing.assert_allclose(ACCURACY.gain(first, other), [0.1, -0.1])
  np.testing.assert_allclose(LOSS.gain(first, other), [-0.1, 0.1])


def test_a_question_is_of_its_metric_and_margin():
  effects = np.array([0.01, 0.02, 0.03])
  found = LOSS.question("gain", "it gains", effects, note="more")
  assert (found.name, found.text) == ("gain, loss", "it gains")
  assert (found.kind, found.margin, found.note) == ("greater", 0.005, "more")
  assert found.effect.estimate == pytest.approx(0.02)
  assert found.effect.n == 3
  assert ACCURACY.question("a", "b", effects, "same").kind == "same"
  beside = ACCURACY.question("a", "b", effects, on_test=effects / 2)
  assert beside.test_effect is not None
  assert beside.test_effect.estimate == pytest.approx(0.01)
  assert ACCURACY.on_test == "test_accuracy"


def test_a_run_that_fails_badly_does_not_decide():
  effects = np.linspace(0.01, 0.02, 30)
  effects[3] = -0.9
  found = ACCURACY.question("a", "b", effects).effect
  assert found.test == "sign test"
  assert found.low > 0.01


def test_amounts_have_their_unit():
  effects = np.full(30, 0.0123)
  accuracy, loss = (own.question("a", "b", effects) for own in (ACCURACY, LOSS))
  assert ACCURACY.amount(accuracy.effect) == "1.23 point (1.23 to 1.23)"
  assert LOSS.amount(loss.effect) == "0.0123 nats (0.0123 to 0.0123)"


def test_spread():
  runs = pd.DataFrame(
    {
      "arm": ["b", "b", None],
      "rate": [1.0, 1.0, 2.0],
      "dev_accuracy": [0.5, 0.7, 0.9],
      "dev_loss": [1.0, 3.0, 5.0],
    }
  )
  found = metric.spread(runs, ["arm", "rate"])
  assert found.columns.tolist() == [
    "arm",
    "rate",
    *(f"dev_accuracy_{kind}" for kind in ("mean", "std", "count")),
    *(f"dev_loss_{kind}" for kind in ("mean", "std", "count")),
  ]
  assert found["rate"].tolist() == [1.0, 2.0]  # in order, those of no arm too
  assert found["dev_accuracy_mean"].tolist() == pytest.approx([0.6, 0.9])
  assert found["dev_loss_std"][0] == pytest.approx(2**0.5)
  assert np.isnan(found["dev_loss_std"][1])
  assert found["dev_loss_count"].tolist() == [2, 1]
  few = metric.spread(runs, "rate", ["dev_loss"], kinds=("min", "max"))
  assert few.to_numpy().tolist() == [[1.0, 1.0, 3.0], [2.0, 5.0, 5.0]]
