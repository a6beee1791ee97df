"""S1: one rate does not suit all parameters when features are sparse.

  python -m experiments.adaptive_rates --preset=full

Claim (12.4): with sparse data whose features have very different frequencies,
parameters should not all be updated alike; rare features want larger updates.
Data: MNIST in which pixel j is shown in a share p_j of the examples only,
log p_j uniform on [log(--lowest), 0] (mnist_jax.sparse_features); and MNIST as
it is, as the control.
Arms: SGD, with one rate for all parameters; Adagrad, RMSProp, Adam, with one
for each. Each at its own rate, tuned on its own seeds (from 1000) for each
data set by the best mean development accuracy; a best rate on the edge of its
grid is noted.
Metric: accuracy and loss on the development set at the last epoch, on fresh
seeds (from 0), paired.
Parts: on the sparse data, each adaptive method against SGD; and how much more
it gains there than on the control (the claim is about sparseness).
Margin: 0.1 point of accuracy, 0.005 nats. Test: Student's t over seeds, Holm
over all parts, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds and 3 to tune with, 10 epochs) about 6
minutes.
"""

from typing import Any

import pandas as pd

from experiments._shared import study
from experiments._shared.metric import BOTH, spread
from mnist_jax import plotting, sweep
from mnist_jax.data import sparse as sparse_features
from mnist_jax.stats import verdicts
from mnist_jax.sweep import figures, tables

SPARSE_SEED = 0
GRIDS = {  # decades apart where little is known, factors of 2 to 3 else
  "sgd": (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
  "adagrad": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
  "rmsprop": (0.0003, 0.001, 0.003, 0.01, 0.03),
  "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
ADAPTIVE = ("adagrad", "rmsprop", "adam")

OPTIONS = (
  study.Option("epochs", 1, 10, "epochs of each run"),
  study.Option("seeds", 2, 30, "fresh seeds of each arm"),
  study.Option("tuning_seeds", 1, 3, "seeds of each tuned rate"),
  study.Option("lowest", 0.01, 0.01, "share in which a pixel may be shown"),
)


def measure(lab: study.Lab, values: study.Values) -> dict[str, Any]:
  sparse = sparse_features.sparsify(lab.dataset, values.lowest, SPARSE_SEED)
  flags = (f"--sparse_lowest={values.lowest}", f"--sparse_seed={SPARSE_SEED}")
  sets = {"sparse": (sparse, flags), "control": (lab.dataset, ())}
  candidates = {
    kind: sweep.product(optimizer=kind, learning_rate=rates)
    for kind, rates in GRIDS.items()
  }
  tuned, fresh = [], []
  for name, (dataset, data_flags) in sets.items():
    where = dict[str, Any](dataset=dataset, data_flags=data_flags, name=name)
    budget = sweep.Budget(epochs=values.epochs)
    found = lab.tune(candidates, values.tuning_seeds, budget, **where)
    tuned.append(found.table.assign(data=name))
    table = lab.sweep(
      {
        kind: sweep.product(best, seed=range(values.seeds))
        for kind, best in found.best.items()
      },
      sweep.Budget(epochs=values.epochs, evaluate_every=1),
      **where,
    )
    fresh.append(table.assign(data=name))
  return {
    "table": pd.concat(fresh, ignore_index=True),
    "tuning": pd.concat(tuned, ignore_index=True),
  }


def _curves(table: pd.DataFrame, name: str, metric: str) -> tables.Curves:
  return tables.curves(table[table["data"] == name], "optimizer", metric)


def _rates(table: pd.DataFrame) -> pd.Series:
  """The tuned rate, by data and optimiser."""
  return table.groupby(["data", "optimizer"])["learning_rate"].first()


def _note(table: pd.DataFrame, kind: str) -> str:
  """The tuned rates of a method and of SGD, and which lie on an edge."""
  rates = _rates(table)
  texts = []
  for name in ("sparse", "control"):
    for method in (kind, "sgd"):
      rate = float(rates[name, method])
      edge = rate in (GRIDS[method][0], GRIDS[method][-1])
      texts.append(
        f"{method} {rate:g} on {name}{' (edge of the grid)' if edge else ''}"
      )
  return ", ".join(texts)


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  table = measured["table"]
  questions = []
  for metric in BOTH:
    sparse = _curves(table, "sparse", metric.column)
    control = _curves(table, "control", metric.column)
    for kind in ADAPTIVE:
      gain, without = (
        metric.gain(curves.arm(kind), curves.arm("sgd"))[:, -1]
        for curves in (sparse, control)
      )
      questions += [
        metric.question(
          "S1",
          kind,
          f"{kind} does better than SGD on sparse features",
          gain,
          note=_note(table, kind),
        ),
        metric.question(
          "S1",
          f"{kind} by sparseness",
          f"{kind} gains more over SGD than on MNIST as it is",
          gain - without,
        ),
      ]
  return verdicts.judge(questions)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Mean and sd over seeds by data, method and rate: tuning, then fresh."""
  parts = []
  for stage in ("tuning", "table"):
    ends = tables.last_rows(
      measured[stage].assign(cell=lambda t: t["data"] + t["cell"])
    )
    result = spread(ends, ["data", "optimizer", "learning_rate"])
    seeds = "tuning" if stage == "tuning" else "fresh"
    parts.append(result.assign(seeds=seeds))
  return pd.concat(parts, ignore_index=True)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  table = measured["table"]
  for row, name in zip(axes, ("sparse", "control"), strict=True):
    labels = {k: f"{k}, rate {r:g}" for k, r in _rates(table)[name].items()}
    for ax, metric in zip(row, ("dev_loss", "dev_accuracy"), strict=True):
      curves = _curves(table, name, metric)
      figures.draw_curves(ax, curves, metric, labels.__getitem__, since=1)
      ax.set_title(
        f"pixels shown in {100 * values.lowest:g} to 100 % of examples"
        if name == "sparse"
        else "MNIST as it is"
      )
  figure.suptitle(
    f"Each method at its tuned rate, batch 128, {values.seeds} seeds, mean "
    "and 95 % band"
  )
  return {"adaptive_rates": figure}


STUDY = study.Study("adaptive_rates", OPTIONS, measure, judge, draw, summarise)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
