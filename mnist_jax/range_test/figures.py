"""The figure of a learning-rate range test: the ramp, and loss against rate.

Section 12.4 asks for both curves. Beside it that of a search for a batch size.
`plotting.save` writes what is returned.
"""

import numpy as np
from jaxtyping import Int

from mnist_jax.plotting import axes as plots
from mnist_jax.range_test.curve import LossCurve
from mnist_jax.range_test.rules import RangeTest, Suggestion
from mnist_jax.range_test.throughput import BatchSizes, shown

_SEED_COLOUR = "#9a9a9a"
_MARK_COLOUR = "#000000"
_MOST_TICKS = 8
# None of those that the rules have.
_STOP_MARKERS = {"diverged": "|", "not finite": "x"}


def range_test(test: RangeTest, title: str = "") -> plots.Figure:
  """Left the rate of each update, right the smoothed loss at each rate.

  On the right: the mean over seeds with the 95 % interval of the mean as band,
  as far as every seed goes; each seed as a thin line, to where it was cut;
  where seeds were cut, at the upper edge; the mean curve's minimum; and each
  rule's suggestion with its interval, at the lower edge.
  """
  figure, axes = plots.panels(1, 2, size=(11, 5.4))
  ramp, loss = axes[0]
  with plots.style():
    _draw_ramp(ramp, test)
    shared = min(len(curve.smoothed) for curve in test.curves)
    _draw_seeds(loss, test.curves, shared)
    _draw_mean(loss, test.curves, shared)
    _draw_stops(loss, test.curves)
    for i, found in enumerate(test.suggestions):
      _draw_suggestion(loss, found, i)
    _frame(loss, test)
    figure.suptitle(title)
    figure.legend(
      *loss.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
  return figure


def batch_sizes(found: BatchSizes, title: str = "") -> plots.Figure:
  """Left examples per second, each round a point, right memory, by batch."""
  figure, axes = plots.panels(1, 2, size=(11, 5.0))
  speed, memory = axes[0]
  with plots.style():
    style = plots.series(0)
    speed.plot(found.sizes, found.speed, label="median over rounds", **style)
    for row in found.seconds:
      speed.plot(found.sizes, found.sizes / row, ".", color=_SEED_COLOUR)
    memory.plot(found.sizes, found.memory, label="needed", **style)
    for ax, (name, size) in zip(axes[0], found.marks.items(), strict=True):
      if size is not None:
        ax.axvline(
          size, color=_MARK_COLOUR, linestyle=":", label=f"{name}: {size}"
        )
    for ax, label in ((speed, "examples / s"), (memory, "memory")):
      _log2_axis(ax, "x", found.sizes)
      ax.xaxis.set_major_formatter(
        lambda at, _: f"{at:.0f}" if at < 1e4 else f"$2^{{{np.log2(at):.0f}}}$"
      )
      ax.set(xlabel="batch size (examples)", ylabel=label)
      ax.legend()
    if np.isfinite(found.speed).any():
      plots.log_axis(speed, "y")
    _log2_axis(memory, "y", found.memory)
    memory.yaxis.set_major_formatter(lambda at, _: shown(round(at)))
    figure.suptitle(title)
  return figure


def _log2_axis(
  ax: plots.Axes, which: str, values: Int[np.ndarray, " K"]
) -> None:
  """A logarithmic axis around the values, with two or more powers of two."""
  if not len(values):
    return
  low = int(np.floor(np.log2(values.min())))
  high = max(low + 1, int(np.ceil(np.log2(values.max()))))
  step = -(-(high - low) // _MOST_TICKS)
  plots.log_axis(ax, which, 2.0 ** np.arange(low, high + 1, step))
  ax.set(**{f"{which}lim": (2.0 ** (low - 0.3), 2.0 ** (high + 0.3))})


def _draw_ramp(ax: plots.Axes, test: RangeTest) -> None:
  rates = np.asarray(test.recording.rates, np.float64)
  ax.plot(np.arange(len(rates)), rates, color=plots.COLOURS[0])
  ax.set(xlabel="update", ylabel="learning rate", title="rate of each update")
  factors = rates[1:] / rates[:-1]
  if np.ptp(factors) < 1e-3 * factors[0]:
    plots.log_axis(ax, "y")


def _draw_seeds(
  ax: plots.Axes, curves: tuple[LossCurve, ...], shared: int
) -> None:
  if len(curves) == 1 and shared:
    return
  for i, curve in enumerate(curves):
    ax.plot(
      curve.rates,
      curve.smoothed,
      color=_SEED_COLOUR,
      linewidth=0.6,
      label="each seed" if i == 0 and len(curves) > 1 else None,
      zorder=1,
    )


def _draw_mean(
  ax: plots.Axes, curves: tuple[LossCurve, ...], shared: int
) -> None:
  if not shared:
    return
  table = np.stack([curve.smoothed[:shared] for curve in curves])
  rates = curves[0].rates[:shared]
  plots.bands(ax, rates, table, "smoothed loss")
  mean = table.mean(axis=0)
  least = int(mean.argmin())
  ax.plot(
    rates[least],
    mean[least],
    marker="*",
    markersize=15,
    linestyle="none",
    color=_MARK_COLOUR,
    markerfacecolor="white",
    label=f"minimum, at rate {rates[least]:.2g}",
    zorder=5,
  )


def _draw_stops(ax: plots.Axes, curves: tuple[LossCurve, ...]) -> None:
  stops = [curve.stop for curve in curves if curve.stop]
  for reason in dict.fromkeys(stop.reason for stop in stops):
    rates = [stop.rate for stop in stops if stop.reason == reason]
    ax.plot(
      rates,
      np.full(len(rates), 0.98),
      transform=ax.get_xaxis_transform(),
      marker=_STOP_MARKERS[reason],
      markersize=11,
      markeredgewidth=2,
      linestyle="none",
      color=plots.LOST_COLOUR,
      clip_on=False,
      label=(
        f"{reason}: {len(rates)} of {len(curves)} seeds, "
        f"at rate {np.median(rates):.2g} (median)"
      ),
      zorder=5,
    )


def _draw_suggestion(ax: plots.Axes, found: Suggestion, index: int) -> None:
  if found.rate is None:
    ax.plot([], [], linestyle="none", label=f"rule {found.rule}: none")
    return
  text = f"rule {found.rule}: {found.rate:.2g}"
  low, high = found.rate, found.rate
  if found.low is not None and found.high is not None:
    low, high = found.low, found.high
    text += f" ({low:.2g} to {high:.2g})"
  plots.error_bars(
    ax,
    0.04 + 0.05 * index,
    found.rate,
    low,
    high,
    index=index + 1,
    across=True,
    transform=ax.get_xaxis_transform(),
    markersize=7,
    label=text,
    zorder=4,
  )


def _frame(ax: plots.Axes, test: RangeTest) -> None:
  """Room below for the suggestions, and no more above than the start needs.

  A loss that diverges by powers of ten would press the descent flat.
  """
  plots.log_axis(ax, "x")
  on = "next batch" if test.recording.measured_on == "train" else "dev examples"
  ax.set(xlabel="learning rate", ylabel=f"loss on the {on}")
  smoothing = test.curves[0].smoothing
  ax.set_title(f"loss after each update, smoothed by {smoothing:g}")
  values = [curve.smoothed for curve in test.curves if len(curve.smoothed)]
  starts = [value[0] for value in values]
  if starts:
    low, high = min(value.min() for value in values), max(starts)
    room = max(high - low, 1e-3 * max(1.0, abs(high)))
    ax.set_ylim(low - 0.5 * room, high + 0.35 * room)
