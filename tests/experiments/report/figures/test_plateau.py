"""How long the network waits at its saddle: runs that never left are apart."""

from pathlib import Path

import pandas as pd

from experiments.report.figures import _gradient
from experiments.report.results import Results
from experiments.report.words import Words

SAID = Path(__file__).parents[4] / "docs" / "results.md"


def test_where_none_has_left_no_wait_is_drawn(tmp_path):
  (tmp_path / "saddle").mkdir()
  rows = [
    {"arm": arm, "held": held, "seeds": 10, "value": value}
    | {"value_low": 0.9 * value, "value_high": 1.1 * value}
    for arm, held, value in (
      ("xavier", 0, 17.0),
      ("0.0001", 10, 12_900.0),
      ("0.01", 1, 718.0),
    )
  ]
  pd.DataFrame([row | {"what": "updates to leave"} for row in rows]).to_csv(
    tmp_path / "saddle" / "summary.csv", index=False
  )
  (figure,) = _gradient._plateau(Results(tmp_path, SAID), Words())
  drawn = {series.word: series.points for series in figure.series}
  assert drawn["series.left"] == [
    (17.0, 0, *(0.9 * 17, 1.1 * 17)),
    (718.0, 2, 0.9 * 718.0, 1.1 * 718.0),
  ]
  assert drawn["series.held"] == [(12_900.0, 1)]
