"""S2, H8: do saddle points, not local minima, hold descent up?

  python -m experiments.saddle --preset=full

S2 (12.4, 问题并非源于局部最小值，而是来自鞍点，因为梯度在所有维度上接近于零):
the trouble is not local minima but saddle points, where the gradient is near 0
in all directions and SGD hardly gets away.
H8 (no sentence of the chapter): what the network does near its own saddle. At
weights of 0 units are equal and only the last bias has a gradient; the plateau
is the network that gives each digit its frequency, a loss of 2.30.
Runs: the chapter's network, batch 128, rate 0.2, from Xavier or from weights
that are normal noise of an sd in --sds (biases 0). Left is a run at the first
look with a development loss below 2.0 (looks 10 % of the updates apart, up to
--epochs epochs; 10 seeds at 1e-4 and below). Ends: --book_runs from Xavier and
--runs from sd 0.01, --epochs epochs. Hessian: on --examples training examples,
weights at their start and the last bias at the log frequencies, sd 1e-4, 1e-3,
0.01: both ends by Lanczos over all parameters, and the number of negative
eigenvalues from the full spectrum of the block without the first layer (1,210
parameters), at most that of all (the index).
S2, primary, all:
  no bad minimum  more than 0.9 of the book's runs end within 1 point of their
                  median development accuracy (test beside)
  waits           from sd 0.01 more than twice the updates to leave that Xavier
                  takes: log ratio, margin log 2
Illustrations, a surface with one saddle (experiments/saddle/toy.py).
H8, primary, all:
  longer          updates to leave ~ sd^p, p below 0, any size; sd 1e-3 to 0.1
  saddle          at sd 1e-3 in more than 0.8 of seeds the lowest eigenvalue is
                  below 0 by more than ten residuals
  one end         more than 0.9 of --runs end within 1 point of the median
                  development accuracy of the book's runs (test beside)
Secondary: p is -1, margin 0.15 (as of a saddle whose curvature is ~ sd; of one
with a fixed curvature the updates would go by log sd). Diagnostic: the lowest
eigenvalue ~ sd^1, margin 0.15; one loss: in more than 0.9 of --runs the final
development loss is within 10 % of their median.
Test: Student's t, exact binomial for fractions; 95 % intervals. The sds were
laid out on seed 1000. Cost on two cores: full an estimated 12 minutes.
"""

import functools
import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from experiments._shared import study
from experiments._shared.metric import interval_columns
from experiments.saddle import network, toy
from mnist_jax import plotting, stats
from mnist_jax.sweep import figures

POINT = 0.01  # of accuracy, by which a bad end is below the median
NEAR = f"{network.NEAR_ZERO:g}"

OPTIONS = (
  study.Option("seeds", 2, 30, "of the updates to leave, and of the Hessian"),
  study.Option(
    "sds",
    (0.01, 0.1),
    (1e-8, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "of noise",
    rises=2,
  ),
  study.Option("book_runs", 2, 40, "whole runs from Xavier"),
  study.Option("runs", 2, 100, "whole runs from noise of sd 0.01"),
  study.Option("epochs", 2, 30, "of each run"),
  study.Option("examples", 300, 1000, "of the Hessian"),
  study.Option("toy_seeds", 4, 100, "of the surface"),
)


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  return {
    "escapes": network.escapes(lab, values),
    "ends": network.ends(lab, values),
    "spectra": network.spectra(lab, values),
    "toy": toy.measure(values.toy_seeds),
  }


def _steps(escapes: pd.DataFrame, arm: str) -> Float[np.ndarray, " S"]:
  """Updates to leave; of a run that did not, all it made."""
  own = escapes[escapes["arm"] == arm].sort_values("seed")
  return own["step"].to_numpy(np.float64)


def _held(escapes: pd.DataFrame, *arms: str) -> Bool[np.ndarray, " R"]:
  """Which runs did not leave."""
  own = escapes[escapes["arm"].isin(arms)]
  return ~own["reached"].to_numpy(bool)


def _free(values: study.Values) -> list[float]:
  return [sd for sd in values.sds if sd > network.HELD]


def _within(ends: pd.DataFrame, arm: str, column: str) -> stats.Effect:
  """The share of an arm's runs no more than POINT below the book's median."""
  middle = ends[ends["arm"] == "xavier"][column].median()
  good = ends[ends["arm"] == arm][column] >= middle - POINT
  return stats.proportion(int(good.sum()), len(good))


def _no_bad_end(ends: pd.DataFrame, arm: str, name: str) -> stats.Question:
  return stats.Question(
    name,
    f"more than 0.9 of the runs from {arm} end within 1 point of the median "
    "accuracy of the book's runs",
    _within(ends, arm, "dev_accuracy"),
    target=0.9,
    test_effect=_within(ends, arm, "test_accuracy"),
  )


def _s2_sentence(judged: stats.Judged, epochs: float) -> str:
  ends, waits = judged.found("no bad minimum"), judged.found("waits")
  return (
    f"{stats.share(ends)} of {ends.n} runs of the book end {epochs:g} epochs "
    f"within 1 point of their median accuracy; from weights of sd {NEAR} it "
    f"takes {stats.factor(waits)} the updates that Xavier's weights take to a "
    f"loss of {network.LEFT_BELOW:g} nats (batch {network.BATCH}, rate "
    f"{network.RATE:g}, n = {waits.n})."
  )


def _s2(measured: study.Tables, values: study.Values) -> stats.Judged:
  escapes = measured["escapes"]
  waits = stats.Question(
    "waits",
    f"from sd {NEAR} a run takes more than twice the updates to leave that "
    "Xavier takes (log of the ratio)",
    stats.paired_log_ratio(
      _steps(escapes, NEAR), _steps(escapes, "xavier"), seed=0
    ),
    margin=math.log(2),
    censored=float(_held(escapes, NEAR, "xavier").mean()),
  )
  ends = _no_bad_end(measured["ends"], "xavier", "no bad minimum")
  return stats.judge(
    stats.Claim(
      "S2",
      [ends, waits, *toy.parts(measured["toy"])],
      functools.partial(_s2_sentence, epochs=values.epochs),
    )
  )


def _slope(escapes: pd.DataFrame, sds: list[float]) -> stats.Effect:
  steps = np.stack([_steps(escapes, f"{sd:g}") for sd in sds], axis=1)
  return stats.loglog_slope(np.array(sds), steps, seed=0)


def _h8_sentence(
  judged: stats.Judged, measured: study.Tables, values: study.Values
) -> str:
  escapes, sds = measured["escapes"], _free(values)
  first, last = (
    np.exp(np.log(_steps(escapes, f"{sd:g}")).mean())
    for sd in (sds[0], sds[-1])
  )
  held = _held(escapes, *(f"{s:g}" for s in values.sds if s <= network.HELD))
  own = measured["spectra"].query(f"sd == {network.PLATEAU}")
  end = judged.found("one end")
  return (
    f"From noise of sd {sds[-1]:g} a run leaves the plateau after {last:.0f} "
    f"updates and from sd {sds[0]:g} after {first:.0f}, as sd to the power "
    f"{stats.amount(judged.found('longer'))} (n = {judged['longer'].n}); "
    f"{int(held.sum())} of {len(held)} at sd {network.HELD:g} or less are "
    f"still on it after {values.epochs:g} epochs; there the Hessian has "
    f"eigenvalues from {own['lowest'].mean():.2g} to "
    f"{own['largest'].mean():.2g}, at least {own['negative'].min()} of them "
    f"negative; {stats.share(end)} of {end.n} runs from sd {NEAR} end within "
    "1 point of the book's."
  )


def _h8(measured: study.Tables, values: study.Values) -> stats.Judged:
  escapes, spectra, ends = (
    measured[name] for name in ("escapes", "spectra", "ends")
  )
  sds = _free(values)
  slope = _slope(escapes, sds)
  ask = functools.partial(
    stats.Question,
    censored=float(_held(escapes, *(f"{sd:g}" for sd in sds)).mean()),
  )
  own = spectra[spectra["sd"] == network.PLATEAU]
  below = own["lowest"] < -10 * own["residual"]
  lowest = -spectra.pivot(index="seed", columns="sd", values="lowest")
  losses = ends[ends["arm"] == "near 0"]["dev_loss"]
  alike = (losses / losses.median()).between(0.9, 1.1)
  parts = [
    ask("longer", "updates to leave ~ sd^p, p below 0", slope, "less"),
    stats.Question(
      "saddle",
      f"at sd {network.PLATEAU:g} the Hessian on the plateau has a negative "
      "eigenvalue",
      stats.proportion(int(below.sum()), len(below)),
      target=0.8,
    ),
    _no_bad_end(ends, "near 0", "one end"),
    ask(
      "as 1 / sd",
      "updates to leave ~ sd^-1",
      slope,
      "same",
      target=-1.0,
      margin=0.15,
      role="secondary",
    ),
    stats.Question(
      "curvature by sd",
      "the lowest eigenvalue on the plateau ~ sd",
      stats.loglog_slope(
        np.array(network.MEASURED), lowest.to_numpy().clip(1e-12), seed=0
      ),
      "same",
      target=1.0,
      margin=0.15,
      role="diagnostic",
    ),
    stats.Question(
      "one loss",
      "more than 0.9 of the runs end within 10 % of their median loss",
      stats.proportion(int(alike.sum()), len(alike)),
      target=0.9,
      role="diagnostic",
    ),
  ]
  sentence = functools.partial(_h8_sentence, measured=measured, values=values)
  return stats.judge(stats.Claim("H8", parts, sentence))


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  return [_s2(measured, values), _h8(measured, values)]


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """Updates to leave, the Hessian, the ends, and the steps on the surface."""
  rows: list[dict[str, Any]] = []
  for arm, own in measured["escapes"].groupby("arm", sort=False):
    place = {"what": "updates to leave", "arm": arm, "seeds": len(own)}
    place["held"] = int((~own["reached"].astype(bool)).sum())
    middle = stats.geometric_mean(own["step"].to_numpy())
    rows.append(place | interval_columns("value", middle))
  for sd, own in measured["spectra"].groupby("sd"):
    for name in ("lowest", "largest", "gradient", "negative"):
      place = {"what": f"{name} of the Hessian", "sd": sd, "seeds": len(own)}
      if name == "gradient":
        place["what"] = "length of the gradient"
      mean = stats.mean_interval(own[name].to_numpy(np.float64), seed=0)
      rows.append(place | interval_columns("value", mean))
  for arm, own in measured["ends"].groupby("arm", sort=False):
    for name in ("dev_loss", "dev_accuracy", "test_accuracy"):
      x = own[name].to_numpy()
      place = {"what": name, "arm": arm, "seeds": len(own)}
      place |= {"sd_of_runs": x.std(ddof=1), "least": x.min(), "most": x.max()}
      mean = stats.mean_interval(x, seed=0)
      rows.append(place | interval_columns("value", mean))
  surface = toy.summarise(measured["toy"]).assign(what="steps on the surface")
  return pd.concat([pd.DataFrame(rows), surface], ignore_index=True)


def _draw_escapes(
  ax: plotting.Axes, escapes: pd.DataFrame, values: study.Values
) -> None:
  sds = _free(values)
  steps = np.stack([_steps(escapes, f"{sd:g}") for sd in sds], axis=1)
  figures.draw_geometric(ax, np.array(sds), steps, "geometric mean, 95 %")
  figures.draw_seeds(ax, np.array(sds), steps, octaves=0.3)
  for sd in values.sds:
    count = int(_held(escapes, f"{sd:g}").sum())
    if count:
      last = _steps(escapes, f"{sd:g}").max()
      ax.plot(sd, last, "^", color="#B00020")
      ax.annotate(
        f"{count} held",
        (sd, last),
        xytext=(0, 6),
        textcoords="offset points",
      )
  book = stats.geometric_mean(_steps(escapes, "xavier"))[0]
  ax.axhline(book, color="black", linestyle=":", label="Xavier's weights")
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.set(xlabel="sd of the weights", ylabel="updates to leave the plateau")
  ax.legend(loc="lower left", fontsize=9)


def _draw_spectra(ax: plotting.Axes, spectra: pd.DataFrame) -> None:
  for i, (name, sign) in enumerate((("lowest", -1), ("largest", 1))):
    wide = spectra.pivot(index="seed", columns="sd", values=name)
    label = "largest" if sign > 0 else "lowest, its sign turned"
    sds = wide.columns.to_numpy(np.float64)
    plotting.bands(ax, sds, sign * wide.to_numpy(), label, index=i)
  counts = spectra.groupby("sd")["negative"].min()
  shown = ", ".join(f"{n} at {sd:g}" for sd, n in counts.items())
  ax.set_title(f"negative eigenvalues at least: {shown}", fontsize=9)
  plotting.log_axis(ax, "x", network.MEASURED)
  plotting.log_axis(ax, "y")
  ax.set(xlabel="sd of the weights", ylabel="eigenvalue on the plateau")
  ax.legend(fontsize=9)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (16, 4.8))
  left, middle, right = axes[0]
  _draw_escapes(left, measured["escapes"], values)
  _draw_spectra(middle, measured["spectra"])
  ends = measured["ends"]
  arms = {
    f"{name} (n = {len(own)})": own["dev_loss"].to_numpy()
    for name, own in ends.groupby("arm", sort=False)
  }
  figures.draw_arms(right, arms)
  figures.metric_axis(right, "dev_loss")
  right.set_xlabel(f"each point a run, after {values.epochs:g} epochs")
  figure.suptitle(
    f"The network near weights of 0, batch {network.BATCH}, rate "
    f"{network.RATE:g}, {values.seeds} seeds"
  )
  return {"network": figure, **toy.draw(measured["toy"], values.toy_seeds)}


STUDY = study.Study("saddle", OPTIONS, measure, judge, draw, summarise)
