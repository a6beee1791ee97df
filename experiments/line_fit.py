"""B9: the worked example, a line fitted to three and to five points, exactly.

  python -m experiments.line_fit

Claim (12.4): a line of slope w = 0.5 misses three points by 1, 0, 1, so J =
(1 / 2m) sum of squares = 0.333, and w - eta J = 0 gives eta = 1.5; with two
points more J = 0.25 and eta = 2, so the larger batch takes the larger rate.
Computed in fractions: nothing is rounded and nothing sampled.
Points: the text gives the misses alone. On a level line through 0 at x = -2,
0, 2 and -1, 1 a line y = 0.5 x misses by just these, and the best w is 0.
The slip: the slide squares 0.25 for the two added points. That gives J =
17/80 = 0.2125; halfway out the line misses by 0.5, and with 0.5 squared J is
the printed 0.25.
What eta means: the step w - eta J has the loss where descent has the gradient
dJ/dw = w mean(x^2) = 2 J / w. The rate that leads descent to w = 0 in one
step is 1 / mean(x^2), at w = 0.5 a quarter of the text's: 3/8 and 1/2. At the
text's rates descent diverges (its limit is 2 / mean(x^2)). Their ratio, 4/3,
is right all the same. It comes from where the added points lie, not from
their number: the same points twice leave both rates as they are, and points
farther out lower them.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments._shared import study
from mnist_jax import plotting, stats

SLOPE = Fraction(1, 2)
THREE = (-2, 0, 2)
FIVE = (-2, -1, 0, 1, 2)
PRINTED = tuple(map(Fraction, ("1", "1/4", "0", "1/4", "1")))
BATCHES = {
  "three points": THREE,
  "five points": FIVE,
  "the three points twice": THREE * 2,
  "two points farther out": (-4, *THREE, 4),
}


class Fit(NamedTuple):
  """What a batch of points (x, 0) says of the line y = w x.

  Attributes:
    loss: J = (1 / 2m) sum (w x)^2.
    gradient: dJ/dw = w mean(x^2).
    text_rate: w / J, from the text's w - eta J = 0.
    descent_rate: w / gradient = 1 / mean(x^2), from w - eta dJ/dw = 0.
    stable_below: 2 / mean(x^2); descent diverges above.
    text_step: where descent goes from w at the text's rate.
  """

  loss: Fraction
  gradient: Fraction
  text_rate: Fraction
  descent_rate: Fraction
  stable_below: Fraction
  text_step: Fraction


def loss(misses: tuple[Fraction, ...]) -> Fraction:
  """J = (1 / 2m) sum of squares (12.4)."""
  return sum((miss**2 for miss in misses), Fraction(0)) / (2 * len(misses))


def fit(xs: tuple[int, ...], w: Fraction = SLOPE) -> Fit:
  """The exact numbers of a batch; w and some x must not be 0."""
  value = loss(tuple(w * x for x in xs))
  curvature = Fraction(sum(x * x for x in xs), len(xs))
  return Fit(
    loss=value,
    gradient=w * curvature,
    text_rate=w / value,
    descent_rate=1 / curvature,
    stable_below=2 / curvature,
    text_step=w - w / value * w * curvature,
  )


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  return pd.DataFrame(
    [
      {"batch": name, "points": len(xs)}
      | {key: str(value) for key, value in fit(xs)._asdict().items()}
      for name, xs in BATCHES.items()
    ]
  )


def judge(table: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  three, five, again = (
    fit(BATCHES[name])
    for name in ("three points", "five points", "the three points twice")
  )
  slip = loss(PRINTED)
  more = (
    " with 0.5 squared, as the line misses there; the printed 0.25 squared "
    f"would give {slip} = {float(slip)}"
  )
  parts = []
  for name, found, shown, j, eta, note in (
    ("three points", three, "0.333", Fraction(1, 3), Fraction(3, 2), ""),
    ("five points", five, "0.25", Fraction(1, 4), Fraction(2), more),
  ):
    parts += [
      stats.derived(
        f"J, {name}",
        f"J = {shown}",
        found.loss == j,
        f"J = {found.loss}{note}",
      ),
      stats.derived(
        f"eta, {name}",
        f"w - eta J = 0 at eta = {float(eta):g}",
        found.text_rate == eta,
        "J stands where the gradient belongs: by the gradient the rate is "
        f"{found.descent_rate}, and at {found.text_rate} a step goes from "
        f"{SLOPE} to {found.text_step}",
      ),
    ]
  larger = stats.derived(
    "larger batch, larger rate",
    "the rate of the five points is the larger",
    five.text_rate > three.text_rate and five.descent_rate > three.descent_rate,
    f"by {five.text_rate / three.text_rate}, by the gradient too; but the "
    f"three points twice have {again.text_rate} again: it is where the new "
    "points lie, not how many they are",
  )

  def sentence(_: stats.Judged) -> str:
    return (
      f"Three points give J = {three.loss} and eta = "
      f"{float(three.text_rate):g}, five J = {five.loss} and eta = "
      f"{float(five.text_rate):g}, exactly; by the gradient, which belongs "
      f"where the text has J, the rates are {three.descent_rate} and "
      f"{five.descent_rate}, and the three points twice have the first again."
    )

  return [stats.judge(stats.Claim("B9", [*parts, larger], sentence))]


def summarise(table: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """The table's fractions as they are, which the decimals would round."""
  return table


def _draw_batch(ax: plotting.Axes, name: str) -> None:
  xs, batch, slope = BATCHES[name], fit(BATCHES[name]), float(SLOPE)
  reach = np.array([-2.6, 2.6])
  ax.axhline(0, color="#888888", linewidth=1, label="best line, w = 0")
  ax.plot(
    reach, slope * reach, color="#B00020", label=f"line at work, w = {slope}"
  )
  for group, colour, label in (
    (THREE, plotting.COLOURS[0], "three points"),
    (sorted(set(xs) - set(THREE)), plotting.COLOURS[4], "two points more"),
  ):
    if group:
      ax.scatter(group, [0] * len(group), 81, colour, label=label, zorder=3)
  for x in filter(None, xs):
    ax.plot([x, x], [0, slope * x], "k:", linewidth=1.2)
    ax.annotate(
      f"{abs(slope * x):g}",
      (x, slope * x / 2),
      textcoords="offset points",
      xytext=(7, 0),
      va="center",
    )
  ax.set(
    title=f"m = {len(xs)}: J = {batch.loss}, w / J = "
    f"{float(batch.text_rate):g}\n"
    f"by the gradient: 1 / mean(x²) = {float(batch.descent_rate):g}",
    xlabel="x",
    ylabel="y",
    ylim=(-1.6, 1.6),
  )
  ax.legend(loc="upper left")


def draw(table: pd.DataFrame, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 2, (11, 4.6))
  for ax, name in zip(axes[0], ("three points", "five points"), strict=True):
    _draw_batch(ax, name)
  figure.suptitle(
    "The line y = 0.5 x and what it misses, for batches of three and five"
  )
  return {"line_fit": figure}


STUDY = study.Study(
  "line_fit", (), measure, judge, draw, summarise, reads_data=False
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
