"""B3, H4: has the learning rate an upper limit, is it 1.0, and what sets it?

  python -m experiments.largest_rate --preset=full

B3 (12.4, 学习率是有上限的，不能大于1.0): the rate cannot exceed 1.0.
Long runs: --epochs epochs at batch 128 and rates 0.5, 1.5, 2, at batch 32 and
rates 0.5, 1.5. A lost run (not finite, or a development loss of ln 10 or more)
counts as an accuracy of 0.1. Short ones: --updates updates at --batch_sizes
and rates from 0.5 by sqrt 2, on by code until each seed has one that is lost;
the largest stable rate is such that it and all below it are not lost.
Primary, any suffices, at batch 128, rate 1.5, development data:
  fails      more than half of the runs end below an accuracy of 0.95
  is worse   than 0.5, paired, accuracy, margin 0.1 point (test beside)
Secondary: the same at rate 2 and at batch 32; by the loss, margin 0.005; at
each batch size the largest stable rate is below 1 (its log). Diagnostic: that
of the largest batch is 2 / (the largest eigenvalue at the start), margin 25 %.

H4 (no sentence of the chapter): why there is a ceiling. Full-batch descent is
unstable where the largest eigenvalue of the loss Hessian is above 2 / rate,
and on the networks of Cohen et al. (2021) that eigenvalue rises to 2 / rate
and stays about there. At small batches it is the batch sharpness, mean g^T H g
/ |g|^2 of batches, and the eigenvalue stays below (Andreyev and Beneventano
2024, arXiv 2412.20553).
Runs: --edge_updates updates on --examples training examples, rates 0.2, 0.5,
1, 2 by batches of 16, 128 and all. Measured at 0, 1/8, 1/4, 1/2 and
all of them: the eigenvalue by Lanczos to a residual of 1 %, batch sharpness on
2048 drawn examples. Judged at the last, as shares of 2 / rate, margin 0.2:
  primary    all of: by full batches the eigenvalue is 1 at rates 0.5, 1, 2,
             where it is above 2 / rate at the start
  secondary  the same at 0.2, from below; at rate 1, batches 16 and 128, batch
             sharpness 1, and the eigenvalue below 1
Whole batches everywhere (the short last one is left out), the same seeds.
Test: Student's t (median: sign test; fractions: exact binomial), 95 % bootstrap
intervals; Holm over the secondaries. The grid of H4 was laid out on seed 1000.
Cost on two cores: full (30 seeds) an estimated 17 minutes.
"""

from typing import Any

import pandas as pd

from experiments._shared import study
from experiments._shared.metric import ACCURACY, interval_columns
from experiments.largest_rate import edge, figures, limit
from mnist_jax import stats

OPTIONS = (
  study.Option(
    "batch_sizes", (16, 256), (16, 64, 256, 1024), "of the limit", rises=2
  ),
  study.Option("updates", 50, 200, "of each run of the limit"),
  study.Option("epochs", 1, 30, "at rates below and above 1.0"),
  study.Option("seeds", 2, 30, "seeds of all"),
  study.Option("edge_updates", 16, 200, "of each run of the curvature"),
  study.Option("examples", 500, 4000, "of the runs of the curvature"),
)


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  return limit.measure(lab, values) | {"curvature": edge.measure(lab, values)}


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  curved = measured["curvature"]
  table, above = measured["table"], measured["above"]
  return [
    limit.claim(table, above, edge.starts(curved), values),
    edge.claim(curved, values),
  ]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """How the long runs end, largest stable rates, shares of 2 / rate."""
  rows: list[dict[str, Any]] = []
  for size, rate in limit.ARMS:
    place: dict[str, Any] = {"batch_size": size, "learning_rate": rate}
    accuracy = limit.ends(measured["above"], (size, rate), ACCURACY.column)
    middle = stats.typical_interval(accuracy, seed=0)
    found = (
      ("share below 0.95", limit.failed(measured["above"], (size, rate))),
      ("development accuracy", middle),
    )
    rows += [
      {"what": what} | place | interval_columns("value", each)
      for what, each in found
    ]
  for size in values.batch_sizes:
    rates, none = limit.largest(measured["table"], size)
    place = {"what": "largest stable rate", "batch_size": size, "none": none}
    mean = stats.geometric_mean(rates)
    rows.append(place | interval_columns("value", mean))
  for size in (*edge.SMALL_BATCHES, values.examples):
    for rate in edge.RATES:
      for column in ("sharpness", "batch_sharpness"):
        curves = edge.in_edges(measured["curvature"], size, rate, column)
        for step, shares in zip(curves.points, curves.values[0].T, strict=True):
          place = {"what": f"{column} over 2 / rate", "batch_size": size}
          place |= {"learning_rate": rate, "step": step}
          middle = stats.typical_interval(shares, seed=0)
          rows.append(place | interval_columns("value", middle))
  return pd.DataFrame(rows).assign(seeds=values.seeds)


STUDY = study.Study(
  "largest_rate", OPTIONS, measure, judge, figures.draw, summarise
)
