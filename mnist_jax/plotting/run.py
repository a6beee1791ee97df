"""The figures of a run directory: curves, weights, mistakes, confusion.

Each function takes plain records and arrays and returns a
`plotting.Figure`; `plotting.save` writes it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from mnist_jax.plotting import axes as plots

Row = Mapping[str, Any]

_TEST_COLOUR = plots.COLOURS[2]


def rendered(name: str, forms: Sequence[str], *args: Any) -> list[bytes]:
  """A figure of this file, by its name, as a file's bytes in each form."""
  figure: plots.Figure = globals()[name](*args)
  return [plots.render(figure, form) for form in forms]


def _column(
  rows: Sequence[Row], key: str
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
  """Epochs and values of a key, where a row has it; null counts as NaN."""
  pairs = [(row["epoch"], row[key]) for row in rows if key in row]
  epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
  return epochs, values


def _finite(rows: Sequence[Row], quantity: str) -> Float[np.ndarray, " K"]:
  values = np.concatenate(
    [_column(rows, f"{part}_{quantity}")[1] for part in ("train", "dev")]
  )
  return values[np.isfinite(values)]


def _epoch_label(rows: Sequence[Row]) -> str:
  """'epoch', with the updates that it stands for where rows tell."""
  steps = {
    row["step"] / row["epoch"] for row in rows if row["epoch"] and "step" in row
  }
  if len(steps) == 1:
    return f"epoch (1 epoch = {steps.pop():,.10g} updates)"
  if steps:
    last = rows[-1]
    return f"epoch ({last['step']:,} updates in {last['epoch']:,} epochs)"
  return "epoch"


def _draw_curves(
  ax: plots.Axes,
  rows: Sequence[Row],
  quantity: str,
  test: tuple[float, float | None],
  unit: str,
) -> None:
  """Train and dev lines of one panel, and the test result's star."""
  lost: list[float] = []
  for i, part in enumerate(("train", "dev")):
    epochs, values = _column(rows, f"{part}_{quantity}")
    good = np.isfinite(values)
    lost.extend(epochs[~good])
    ax.plot(
      epochs,
      np.where(good, values, np.nan),
      label=part,
      markevery=(i * max(1, len(epochs) // 16), max(1, len(epochs) // 8)),
      **plots.series(i),
    )
  epoch, value = test
  if value is not None:
    shown = f"{100 * value:.2f} %" if unit == "%" else f"{value:.4f}"
    if math.isfinite(value):
      ax.plot(
        [epoch],
        [value],
        linestyle="none",
        marker="*",
        markersize=14,
        color=_TEST_COLOUR,
        markeredgecolor="black",
        markeredgewidth=0.8,
        label=f"test: {shown}",
        zorder=4,
      )
    else:
      lost.append(epoch)
  plots.mark_not_finite(ax, np.unique(np.array(lost)))
  plots.integer_ticks(ax.xaxis)


def _below_view(
  ax: plots.Axes, rows: Sequence[Row], test_accuracy: float | None
) -> None:
  """Leaves the untrained network under the accuracy axis, and says so.

  It sits at about 10 %, and the differences to be read lie above 90 %. A
  network that has hardly learned keeps its whole curve in view.
  """
  start = {
    part: float(rows[0][f"{part}_accuracy"])
    for part in ("train", "dev")
    if rows[0]["epoch"] == 0 and rows[0].get(f"{part}_accuracy") is not None
  }
  later = _finite(rows[1:], "accuracy")
  if test_accuracy is not None and math.isfinite(test_accuracy):
    later = np.append(later, test_accuracy)
  if not start or not later.size:
    return
  low, high = later.min(), later.max()
  if low - max(start.values()) <= max(2 * (high - low), 0.2):
    return
  room = max(0.08 * (high - low), 1e-3)
  ax.set_ylim(low - 2 * room, high + room)
  text = ", ".join(f"{part} {100 * v:.1f} %" for part, v in start.items())
  ax.annotate(
    f"epoch 0, below: {text}",
    (0.02, 0.02),
    xycoords="axes fraction",
    fontsize=9,
    color="#444444",
    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
  )


def _legend(ax: plots.Axes, corner: str) -> None:
  """Puts the legend in a right-hand corner, or elsewhere if lines end there."""
  ax.get_ylim()  # settles the limits that the next line reads
  to_panel = ax.transScale + ax.transLimits
  heights = []
  for line in ax.lines:
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    if line.get_transform() != ax.transData:
      heights.append(y[-1])  # crosses, placed in the panel already
    elif np.isfinite(y).any():
      last = np.flatnonzero(np.isfinite(y))[-1]
      heights.append(to_panel.transform((x[last], y[last]))[1])
  if corner.startswith("lower"):
    free = min(heights, default=1.0) > 0.4
  else:
    free = max(heights, default=0.0) < 0.6
  ax.legend(loc=corner if free else "best")


def curves(
  rows: Sequence[Row],
  test: Mapping[str, Any] | None = None,
  test_epoch: int | None = None,
  *,
  title: str | None = None,
) -> plots.Figure:
  """Loss and accuracy against epochs: the figure of section 12.2, with units.

  Args:
    rows: One per epoch, at least one: "epoch", "step", "train_loss", "dev_loss"
      (nats), "train_accuracy", "dev_accuracy" (fractions). What is missing is
      not drawn; NaN, infinity and None are marked.
    test: It has "test_loss" and "test_accuracy", as a run's summary does.
    test_epoch: The epoch after which the test set was read; by default the
      last.

  Raises:
    ValueError: no rows.
  """
  if not rows:
    raise ValueError("no rows to draw")
  test = test or {}
  at = float(rows[-1]["epoch"] if test_epoch is None else test_epoch)
  figure, axes = plots.panels(1, 2, (10, 4))
  loss, accuracy = axes[0]
  with plots.style():
    _draw_curves(loss, rows, "loss", (at, test.get("test_loss")), "nats")
    loss.set_ylabel("cross-entropy (nats)")
    if np.any(_finite(rows, "loss") > 0):
      plots.log_axis(loss, "y")
    _draw_curves(
      accuracy, rows, "accuracy", (at, test.get("test_accuracy")), "%"
    )
    accuracy.set_ylabel("accuracy (% of examples)")
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.5g}")
    _below_view(accuracy, rows, test.get("test_accuracy"))
    for ax, corner in ((loss, "upper right"), (accuracy, "lower right")):
      ax.set_xlabel(_epoch_label(rows))
      _legend(ax, corner)
    if title:
      figure.suptitle(title)
  return figure


def mosaic(
  tiles: np.ndarray, columns: int, gaps: tuple[int, int] = (1, 1)
) -> np.ndarray:
  """[K, 28, 28] side by side, row by row.

  There are blank pixels above and left of each, as many as `gaps` says.
  """
  rows = -(-len(tiles) // columns)
  above, left = gaps
  high, wide = 28 + above, 28 + left
  canvas = np.full((high * rows + 1, wide * columns + 1), np.nan)
  for k, tile in enumerate(tiles):
    y, x = high * (k // columns) + above, wide * (k % columns) + left
    canvas[y : y + 28, x : x + 28] = tile
  return canvas


def first_layer(
  w: Float[np.ndarray, "784 H"], *, title: str | None = None
) -> plots.Figure:
  """The weights into each hidden unit, as 28x28 tiles.

  Blue is negative, white zero, red positive; the scale is symmetric, and ends
  at the 99.5th percentile of the sizes, so that a few large weights do not
  bleach the rest. Weights that are not finite are black.
  """
  hidden = w.shape[1]
  columns = math.ceil(math.sqrt(hidden))
  rows = -(-hidden // columns)
  sizes = np.abs(w[np.isfinite(w)])
  largest = float(sizes.max()) if sizes.size else 0.0
  limit = float(np.percentile(sizes, 99.5)) if sizes.size else 0.0
  limit = limit or largest or 1.0
  figure, axes = plots.panels(1, 1, (7.4, 5.8 * rows / columns + 0.9))
  ax = axes[0, 0]
  tiles = w.T.reshape(-1, 28, 28).astype(np.float64)
  with plots.style():
    image = ax.imshow(
      mosaic(np.clip(tiles, -1e300, 1e300), columns),
      cmap="RdBu_r",
      vmin=-limit,
      vmax=limit,
      interpolation="nearest",
    )
    if not np.isfinite(tiles).all():
      lost = np.where(np.isfinite(tiles), np.nan, 1.0)
      ax.imshow(
        mosaic(lost, columns),
        cmap="gray_r",
        vmin=0,
        vmax=1,
        interpolation="nearest",
      )
    # Units are found by adding the numbers at the tile's row and column.
    every = max(1, columns // 16)
    ax.set_xticks(
      [29 * c + 14.5 for c in range(0, columns, every)],
      [f"+{c}" for c in range(0, columns, every)],
    )
    ax.set_yticks(
      [29 * r + 14.5 for r in range(0, rows, every)],
      [str(r * columns) for r in range(0, rows, every)],
    )
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("hidden unit: number at its row + number at its column")
    ax.set_title(title or f"Weights into the {hidden} units of the first layer")
    bar = figure.colorbar(
      image, ax=ax, extend="both" if largest > limit else "neither", aspect=30
    )
    bar.set_label(f"weight (1 / pixel intensity); largest size {largest:.3g}")
  return figure


def mistakes(
  images: Integer[np.ndarray, "N ..."],
  labels: Integer[np.ndarray, " N"],
  predictions: Integer[np.ndarray, " N"],
  confidences: Float[np.ndarray, " N"],
  *,
  count: int = 25,
) -> plots.Figure:
  """The most confident mistakes among N examples.

  Args:
    images: Of all examples, [N, 784] or [N, 28, 28], 0 to 255.
    confidences: The probability given to the predicted class, in [0, 1].
    count: The most that are shown.
  """
  wrong = np.flatnonzero(labels != predictions)
  # Stable, so that ties keep the data set's order; NaN goes last.
  order = np.argsort(-confidences[wrong].astype(np.float64), kind="stable")
  shown = wrong[order][:count]
  columns = max(1, min(5, len(shown)))
  rows = max(1, -(-len(shown) // columns))
  size = max(6.4, 1.7 * columns), 1.85 * rows + 0.6
  figure, axes = plots.panels(1, 1, size)
  ax = axes[0, 0]  # one for all tiles: each more costs 50 ms
  total = f"{len(wrong):,} mistakes among {len(labels):,} examples"
  if len(labels):
    total += f" ({100 * len(wrong) / len(labels):.2f} %)"
  with plots.style():
    ax.axis("off")
    if not len(shown):
      figure.suptitle("Mistakes")
      ax.text(0.5, 0.5, total, ha="center", va="center", fontsize=13)
      return figure
    figure.suptitle(f"The {len(shown)} most confident of {total}")
    above, left = gaps = 10, 7  # room for two lines of text
    ax.imshow(
      mosaic(images[shown].reshape(-1, 28, 28), columns, gaps),
      cmap="gray_r",
      vmin=0,
      vmax=255,
      interpolation="nearest",
    )
    for k, i in enumerate(shown):
      ax.text(
        (28 + left) * (k % columns) + left + 13.5,
        (28 + above) * (k // columns) + above - 1.5,
        f"true {labels[i]}, predicted {predictions[i]}\n"
        f"p = {confidences[i]:.4f}, no. {i}",
        ha="center",
        fontsize=10,
        in_layout=False,  # inside the picture: need not be measured
      )
  return figure


def confusion(
  matrix: Integer[np.ndarray, "C C"], *, title: str | None = None
) -> plots.Figure:
  """Counts of true class (rows) against predicted class (columns).

  The shade is that of the mistakes alone, since the diagonal would outshine
  them; the diagonal is in bold, and its share of the row stands at the right.
  """
  classes = len(matrix)
  off = matrix * (1 - np.eye(classes, dtype=matrix.dtype))
  top = max(1, int(off.max(initial=0)))
  figure, axes = plots.panels(1, 1, (8.2, 6.8))
  ax = axes[0, 0]
  totals = matrix.sum(axis=1)
  with plots.style():
    image = ax.imshow(off, cmap="Blues", vmin=0, vmax=top)
    bar = figure.colorbar(image, ax=ax, shrink=0.7, pad=0.12)
    bar.set_label("mistakes (examples)")
    plots.integer_ticks(bar.ax.yaxis)
    for i, j in np.ndindex(matrix.shape):
      dark = off[i, j] > 0.55 * top
      ax.text(
        j,
        i,
        f"{matrix[i, j]}" if matrix[i, j] else "·",
        ha="center",
        va="center",
        fontsize=10,
        color="white" if dark else "black",
        fontweight="bold" if i == j else "normal",
        in_layout=False,
      )
    for i in range(classes):
      right = f"{100 * matrix[i, i] / totals[i]:.1f} %" if totals[i] else "none"
      ax.text(classes - 0.35, i, right, va="center", fontsize=10)
    ax.text(classes - 0.35, -0.75, "right", fontsize=10)
    ax.set(xticks=range(classes), yticks=range(classes))
    ax.grid(False)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(
      title or f"{np.trace(matrix):,.0f} of {matrix.sum():,.0f} right"
    )
  return figure
