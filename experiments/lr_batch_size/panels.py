"""B1: the chapter's four rates at batches 16 and 32."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import rate_search, study
from experiments._shared.metric import ACCURACY, BOTH, LOSS, Metric
from mnist_jax import plotting, stats, sweep
from mnist_jax.sweep import figures, tables

PANELS = {16: 0.1, 32: 0.5}  # the chapter's best rate of each
PANEL_RATES = (0.1, 0.3, 0.5, 0.7)
PANEL_EARLIER = (5, 20)  # epochs of the secondary parts


def _ends(
  panels: pd.DataFrame, column: str, epoch: study.Number
) -> dict[tuple[int, float], Float[np.ndarray, " S"]]:
  """A metric after an epoch, of each seed, by batch size and rate."""
  rows = rate_search.at_horizon(panels, epoch)
  found = tables.curves(rows, ["batch_size", "learning_rate"], column)
  return {arm: found.arm(arm)[:, 0] for arm in found.arms}


def _panel_gains(
  panels: pd.DataFrame, metric: Metric, column: str, epoch: study.Number
) -> dict[str, Float[np.ndarray, " S"]]:
  """By the text of each part: by how much the chapter's choice is better."""
  at = _ends(panels, column, epoch)
  gains = {
    f"at {size} {best:g} above {rate:g}": metric.gain(
      at[size, best], at[size, rate]
    )
    for size, best in PANELS.items()
    for rate in PANEL_RATES
    if rate != best
  }
  small, large = PANELS.values()
  steps = {
    size: metric.gain(at[size, large], at[size, small]) for size in PANELS
  }
  a, b = PANELS
  name = f"{large:g} less {small:g} larger at {b} than at {a}"
  return gains | {name: steps[b] - steps[a]}


def _best_in_panel(
  panels: pd.DataFrame, metric: Metric, epoch: study.Number
) -> str:
  """The rates of the best means, in words."""
  at = _ends(panels, metric.column, epoch)
  words = []
  for size in PANELS:
    means = [metric.sign * at[size, rate].mean() for rate in PANEL_RATES]
    words.append(f"{PANEL_RATES[int(np.argmax(means))]:g} at batch {size}")
  return " and ".join(words)


def judge_b1(measured: study.Tables, values: study.Values) -> stats.Judged:
  panels, last = measured["panels"], values.epochs
  sweep.require_whole_batches(panels)
  earlier = [epoch for epoch in PANEL_EARLIER if epoch < last]
  asked = [(ACCURACY, last), (LOSS, last), *((ACCURACY, e) for e in earlier)]
  parts = []
  for metric, epoch in asked:
    primary = metric is ACCURACY and epoch == last
    gains = _panel_gains(panels, metric, metric.column, epoch)
    test = {}
    if epoch == last:
      test = _panel_gains(panels, metric, metric.on_test, epoch)
    for name, gain in gains.items():
      more: dict[str, Any] = {"role": "primary" if primary else "secondary"}
      if not primary and "larger" in name:
        more["restriction"] = f"in {metric.name} after {epoch} epochs, {name}"
      parts.append(
        metric.question(
          f"{name}, {epoch} epochs",
          f"{metric.name} after {epoch} epochs: {name}",
          gain,
          on_test=test.get(name),
          **more,
        )
      )
  lost = tables.lost(tables.last_rows(panels))
  n = values.seeds

  def sentence(judged: stats.Judged) -> str:
    (contrast,) = [
      part.effect
      for part in judged.parts
      if part.role == "primary" and "larger" in part.name
    ]
    assert contrast is not None
    small, large = PANELS.values()
    return (
      f"Of rates .1, .3, .5 and .7 the best after {last} epochs is "
      f"{_best_in_panel(panels, ACCURACY, last)} by development accuracy, "
      f"{_best_in_panel(panels, LOSS, last)} by loss; what {large:g} gains "
      f"over {small:g} is larger at batch 32 than at 16 by "
      f"{ACCURACY.amount(contrast)} (n = {n}, {int(lost.sum())} of {len(lost)} "
      "runs diverged)."
    )

  return stats.judge(stats.Claim("B1", parts, sentence))


def draw_panels(panels: pd.DataFrame, values: study.Values) -> plotting.Figure:
  figure, axes = plotting.panels(2, 2, (11, 8.4))
  for row, (size, best) in zip(axes, PANELS.items(), strict=True):
    own = panels[panels["batch_size"] == size]
    for ax, metric in zip(row, BOTH, strict=True):
      curves = tables.curves(own, "learning_rate", metric.column)
      figures.draw_curves(
        ax, curves, metric.column, "rate {:g}".format, since=1
      )
      ax.set_title(f"batch {size}; the chapter's best: {best:g}")
  figure.suptitle(
    f"The chapter's rates at batches 16 and 32, {values.seeds} seeds, mean "
    "and 95 % band"
  )
  return figure
