"""Trains a grid of runs: any flags of experiments.train, with many values.

  python -m experiments.sweep --over=learning_rate=0.1,0.5 --over=seed=0:10
  python -m experiments.sweep --over=l2=log:1e-6:1e-2 --points=20

--over=NAME=VALUES: values with commas between (64/16,32/8 for those that are
lists), FIRST:END for whole numbers, log:LOW:HIGH:COUNT or lin:LOW:HIGH:COUNT;
without COUNT it is a range in which --points are drawn. Arms differ in more
than seeds and are compared on development data. Leaves sweep/ (the runs:
the command goes on, values may be added), table.parquet, summary.csv, figures.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags
from jaxtyping import Float

from experiments._shared import app, cluster, progress, study
from experiments._shared import flags as shared
from mnist_jax import plotting, runtime, stats, sweep
from mnist_jax.runtime import files
from mnist_jax.runtime.errors import InputError
from mnist_jax.sweep import axes, figures, tables
from mnist_jax.training import settings

FLAGS = flags.FLAGS
SEEDS = ("seed", "order_seed")
SHOWN = 8  # arms in the figure of curves and in the printed table
METRICS = ("dev_accuracy", "dev_loss")
GUESSING = {"dev_accuracy": 0.1, "dev_loss": tables.GUESSING}

shared.use(
  "epochs",
  *settings.FIELDS,
  *shared.DATA_FLAGS,
  "workdir",
  "overwrite",
  *shared.CLUSTER_FLAGS,
)


def define_flags() -> None:
  flags.DEFINE_multi_string("over", [], "a setting and its values; repeated")
  flags.DEFINE_integer("points", None, "drawn in the ranges", lower_bound=1)
  flags.DEFINE_enum("draw", "halton", axes.DRAWS, "how they are drawn")
  flags.DEFINE_integer("draw_seed", 0, "of these points", lower_bound=0)
  flags.DEFINE_enum("metric", METRICS[0], METRICS, "by which arms are compared")
  flags.DEFINE_float(
    "evaluate_every", 1.0, "epochs between evaluations", lower_bound=0.01
  )


def asked() -> tuple[list[axes.Axis], list[sweep.Settings]]:
  """The axes and cells that the flags are about.

  Raises:
    InputError: No axis, or a flag beside an axis of the same name.
  """
  found = [axes.parse(text) for text in FLAGS.over]
  if not found:
    raise InputError("over=: expected at least one, as learning_rate=0.1,0.2")
  for axis in found:
    if FLAGS[axis.name].present:
      raise InputError(
        f"found --{axis.name} and --over={axis.name}, expected one of the two"
      )
  base = settings.from_values(shared.flag_values())
  points, draw, seed = FLAGS.points, FLAGS.draw, FLAGS.draw_seed
  cells = axes.cells(base, found, points=points, draw=draw, seed=seed)
  return found, cells


def arms(
  found: Sequence[axes.Axis], cells: Sequence[sweep.Settings]
) -> dict[str, list[sweep.Settings]]:
  """The cells by arm: alike but for the seeds."""
  names = [axis.name for axis in found if axis.name not in SEEDS]
  result: dict[str, list[sweep.Settings]] = {}
  for cell in cells:
    said = (
      f"{n}={settings.FIELDS[n].text(getattr(cell, n)).replace(',', '/')}"
      for n in names
    )
    result.setdefault(" ".join(said) or "all", []).append(cell)
  return result


def ends(table: pd.DataFrame, metric: str) -> pd.DataFrame:
  """The last row of each run, with `end`: its metric, as counted, and `lost`.

  A lost run (`sweep.tables.lost`) counts as guessing.
  """
  last = sweep.last_rows(table)
  lost = tables.lost(last)
  return last.assign(end=last[metric].mask(lost, GUESSING[metric]), lost=lost)


def ranked(last: pd.DataFrame, metric: str) -> pd.DataFrame:
  """A row for each arm, the best first: mean, interval, seeds, lost runs."""
  rows = []
  for arm, own in last.groupby("arm", sort=False):
    values = own["end"].to_numpy(float)
    low = high = np.nan
    if len(values) > 1:
      effect = stats.mean_interval(values, seed=0)
      low, high = effect.low, effect.high
    rows.append(
      {
        "arm": arm,
        "mean": values.mean(),
        "low": low,
        "high": high,
        "seeds": len(values),
        "lost": int(own["lost"].sum()),
      }
    )
  return pd.DataFrame(rows).sort_values(
    "mean", ascending=metric.endswith("loss"), ignore_index=True
  )


def draw_curves(
  table: pd.DataFrame, best: Sequence[str], metric: str
) -> plotting.Figure:
  """The curves of the best arms."""
  figure, panels = plotting.panels(1, 1, (8, 5))
  ax = panels[0, 0]
  for i, arm in enumerate(best):
    own = table[table["arm"] == arm]
    # A run of its own arm: seeds need not be the same in all of them.
    wide = own.pivot(index="cell", columns="epoch", values=metric)
    wide = wide.sort_index(axis=1)
    points, values = wide.columns.to_numpy(float), wide.to_numpy(float)
    plotting.bands(ax, points, values, arm, index=i)
  figures.metric_axis(ax, metric)
  ax.set_xlabel("epoch")
  plotting.integer_ticks(ax.xaxis)
  ax.legend(fontsize="small")
  return figure


def draw_ends(
  last: pd.DataFrame, found: Sequence[axes.Axis], metric: str
) -> plotting.Figure:
  """The end of every run against each axis, with the mean at each value."""
  shown = [axis for axis in found if axis.name not in SEEDS] or [found[0]]
  figure, panels = plotting.panels(1, len(shown))
  for ax, axis in zip(panels[0], shown, strict=True):
    values = last[axis.name]
    numbers = pd.api.types.is_numeric_dtype(values) and values.notna().all()
    if numbers and not pd.api.types.is_bool_dtype(values):
      places = values.to_numpy(float)
      if places.min() > 0 and places.max() >= 8 * places.min():
        plotting.log_axis(ax, "x")
    else:
      names = values.astype("string").fillna("none")
      places, labels = pd.factorize(names)
      ax.set_xticks(range(len(labels)), list(labels))
    _draw_axis(ax, places.astype(float), last)
    ax.set_xlabel(axis.name)
    figures.metric_axis(ax, metric)
  figure.suptitle(
    f"After {last['epoch'].max():g} epochs; bars: 95 % of the mean"
  )
  return figure


def _draw_axis(
  ax: plotting.Axes, places: Float[np.ndarray, " N"], last: pd.DataFrame
) -> None:
  """Every run, and the mean over all else at each place, over its seeds."""
  ax.plot(places, last["end"], ".", color="#777777", alpha=0.6)
  for place, own in last.groupby(places):
    values = own.groupby("seed")["end"].mean().to_numpy(float)
    if len(values) > 1:
      mean = stats.mean_interval(values, seed=0)
      plotting.error_bars(ax, float(place), mean.estimate, mean.low, mean.high)


def printed(best: pd.DataFrame, metric: str) -> list[str]:
  """The best arms, a line each."""
  scale, digits, unit = (
    (100, 2, "%") if "accuracy" in metric else (1, 4, "nats")
  )
  rows = [("", f"{metric} ({unit})", "95 % interval", "n", "lost")]
  for row in best.head(SHOWN).to_dict("records"):
    low, high = (f"{scale * row[k]:.{digits}f}" for k in ("low", "high"))
    rows.append(
      (
        row["arm"],
        f"{scale * row['mean']:.{digits}f}",
        "of one seed: none" if row["seeds"] == 1 else f"{low} to {high}",
        str(row["seeds"]),
        str(row["lost"]),
      )
    )
  return app.aligned(rows)


def run(cells: Sequence[sweep.Settings], workdir: Path) -> pd.DataFrame:
  """The sweep's table."""
  budget = sweep.Budget(
    epochs=FLAGS.epochs, evaluate_every=FLAGS.evaluate_every
  )
  # Cells cut the training set by themselves.
  given = [f for f in shared.data_flags() if not f.startswith("--num_train")]
  with cluster.executor() as executor, progress.SweepProgress() as shown:
    table = sweep.run(
      cells,
      budget,
      dataset=shared.load_dataset(take=False),
      data_flags=given,
      workdir=workdir / "sweep",
      overwrite=FLAGS.overwrite,
      executor=executor,
      mixed=FLAGS.mixed,
      on_progress=shown.show,
    )
  return table


def main(_: list[str]) -> None:
  signal.signal(signal.SIGINT, study.stop)
  runtime.use_all_cores()
  found, cells = asked()
  by_arm = arms(found, cells)
  names = "+".join(axis.name for axis in found)
  workdir = files.expanded(FLAGS.workdir or f"runs/sweep/{names}")
  budget = sweep.Budget(
    epochs=FLAGS.epochs, evaluate_every=FLAGS.evaluate_every
  )
  table = study.by_arm(run(cells, workdir), by_arm, budget)
  metric = FLAGS.metric
  last = ends(table, metric)
  best = ranked(last, metric)
  with files.replacing(workdir / "table.parquet") as temporary:
    table.to_parquet(temporary, index=False)
  files.write_text(
    workdir / "summary.csv", best.to_csv(index=False, float_format="%.6g")
  )
  shown = best["arm"].head(SHOWN).tolist()
  for name, figure in {
    "curves": draw_curves(table, shown, metric),
    "ends": draw_ends(last, found, metric),
  }.items():
    plotting.save(figure, workdir / f"{name}.png")
  print("\n".join(printed(best, metric)))
  if len(best) > SHOWN:
    print(f"and {len(best) - SHOWN} more arms in summary.csv")
  if best["seeds"].min() == 1:
    print("intervals need seeds: --over=seed=0:5")
  print(f"in {workdir}")


if __name__ == "__main__":
  define_flags()
  app.run(main, __doc__)
