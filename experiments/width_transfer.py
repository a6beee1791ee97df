"""H7: does the best rate of a narrow network suit a wide one?

  python -m experiments.width_transfer --preset=full

No sentence of the chapter: rates are tuned on a small network, and used on a
large one. With the chapter's weights (Xavier) and one rate for all, the best
rate should move with the width; in the maximal-update parametrisation (muP,
Yang et al. 2022, arXiv 2203.03466) it should stay. For SGD, with m
the width over the base width 64, all that differs from the base network is
  weights at first   sd of the first layer as it is there, of the middle one
                     / sqrt m, of the last one / m
  rates              of the first layer and the hidden biases x m, of the
                     middle weights x 1, of the last weights / m
Networks: hidden layers of n and n / 4 units for n of --widths, sigmoid and
tanh; at 64 both are the chapter's. Batch 128, --epochs epochs (few, for cost).
Best rate: of --rates, by factors of 2: the vertex of the parabola through the
mean log development loss; a lost run counts as guessing, ln 10, or its loss if
more. Seeds are resampled; where over 10 % of the resamples are best at an end
of the grid nothing is judged. The same seeds at all rates and widths.
Primary (all): the exponent of the best rate against the width
  standard  is below 0, margin 0.15 (a change by 1.37 over a factor of 8)
  muP       is 0, margin 0.15
Secondary: the loss of the widest at the rate that is best at 64, less that at
  its own best rate: by both, more than 0.005 nats with the standard one, no
  more with muP. Both rates are chosen on seeds from 1000; the interval
  resamples these and the judged seeds, and chooses anew.
Diagnostic: with muP the widest ends below 64, each at the rate best at 64.
Test: Student's t on the bootstrap's standard error, 95 % intervals; Holm over
the secondary parts. Test set beside the secondary ones.
Cost on two cores: full (30 seeds, 5 that tune) an estimated 12 minutes.
"""

import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments._shared import scaled_updates, study
from experiments._shared.metric import LOSS, interval_columns
from mnist_jax import plotting, stats
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import grid_minimum, verdicts
from mnist_jax.sweep import tables
from mnist_jax.training import loop

BASE = 64
RATIO = 4  # of the first hidden layer to the second
STANDARD, MUP = "standard", "muP"
KINDS = (STANDARD, MUP)
MARGIN = 0.15  # of an exponent
BATCH = 128

OPTIONS = (
  study.Option("widths", (16, 64, 128), (32, 64, 128, 256), "n"),
  study.Option(
    "rates",
    (0.125, 0.5, 2.0, 8.0),
    (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "of the grid",
  ),
  study.Option("epochs", 1, 2, "of each run"),
  study.Option("seeds", 2, 30, "judged seeds"),
  study.Option("tuning_seeds", 1, 5, "seeds that choose a rate"),
)


def check(values: study.Values) -> None:
  widths = values.widths
  bad = [n for n in widths if n < RATIO or n % RATIO]
  if bad or BASE not in widths or len(widths) < 3:
    raise InputError(
      f"widths={','.join(map(str, widths))}: expected at least three multiples "
      f"of {RATIO}, {BASE} one of them"
    )
  if sorted(set(widths)) != list(widths):
    raise InputError(f"widths={','.join(map(str, widths))}: expected rising")
  rates = np.asarray(values.rates)
  if len(rates) < 3 or rates[0] <= 0 or (np.diff(rates) <= 0).any():
    raise InputError(
      f"rates={','.join(map(str, values.rates))}: expected at least three "
      "above 0, rising"
    )


def _config(width: int) -> loop.TrainConfig:
  return loop.TrainConfig(
    sizes=(784, width, width // RATIO, 10), batch_size=BATCH
  )


def rate_factors(width: int) -> mlp.Params:
  """Of muP, relative to the base width; its rows are weights and biases."""
  m = width / BASE
  layer: Any = mlp.Layer  # of factors, where one of parameters has arrays
  return layer(m, m), layer(1.0, m), layer(1 / m, 1.0)


def start_factors(width: int) -> tuple[float, ...]:
  """What takes each layer's Xavier weights to those of muP."""
  m = width / BASE
  own, base = (_config(n).sizes for n in (width, BASE))

  def fans(sizes: tuple[int, ...]) -> Float[np.ndarray, " 3"]:
    return np.sqrt(np.add(sizes[1:], sizes[:-1]))

  # Xavier's sd is sqrt(2 / fans), and muP's the base's by these powers of m.
  wanted = np.array([1.0, m**-0.5, 1 / m])
  return tuple((wanted * fans(own) / fans(base)).tolist())


def _records(
  lab: study.Lab, kind: str, width: int, values: study.Values
) -> list[dict[str, Any]]:
  """A record for each run of a kind and a width."""
  seeds = [*range(values.seeds), *study.tuning_seeds(values.tuning_seeds)]
  layer: Any = mlp.Layer
  factors: Any = (layer(None, None),) * 3
  starts: tuple[float, ...] = (1.0, 1.0, 1.0)
  if kind == MUP:
    count = len(values.rates)
    factors = tuple(
      layer(*(np.full(count, s) for s in own)) for own in rate_factors(width)
    )
    starts = start_factors(width)
  found = scaled_updates.train(
    _config(width),
    lab.dataset,
    seeds,
    np.array(values.rates),
    factors,
    values.epochs,
    values.epochs,
    functools.partial(_scaled, factors=starts),
  )
  return [
    {"kind": kind, "width": width, "rate": rate, "seed": seed}
    | {
      f"{split}_{metric}": float(found[f"{split}_{metric}"][-1, s, r])
      for split, metric in itertools.product(
        ("dev", "test"), ("loss", "accuracy")
      )
    }
    for r, rate in enumerate(values.rates)
    for s, seed in enumerate(seeds)
  ]


def _scaled(
  _: int, params: mlp.Params, factors: tuple[float, ...]
) -> mlp.Params:
  return tuple(
    layer._replace(w=s * layer.w)
    for layer, s in zip(params, factors, strict=True)
  )


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  cases = {
    f"{kind} {width} {vars(values)} {lab.data_digest}": functools.partial(
      _records, lab, kind, width, values
    )
    for width in values.widths
    for kind in KINDS
  }
  return pd.DataFrame(lab.collect(cases))


def _losses(
  table: pd.DataFrame, kind: str, width: int, *, tuned: bool, split: str = "dev"
) -> Float[np.ndarray, "S K"]:
  """By seed and rate; a lost run's as by guessing."""
  own = table[(table["kind"] == kind) & (table["width"] == width)]
  own = own[(own["seed"] >= study.TUNING_SEED) == tuned]
  found = own.pivot(index="seed", columns="rate", values=f"{split}_loss")
  values = found.to_numpy()
  finite = np.where(np.isfinite(values), values, np.inf)
  lost = finite >= tables.GUESSING
  worst = np.where(np.isfinite(finite), finite, tables.GUESSING)
  return np.where(lost, np.maximum(worst, tables.GUESSING), worst)


def best_rates(
  table: pd.DataFrame, values: study.Values
) -> dict[str, grid_minimum.MeanMinima]:
  """Of each kind, by width."""
  return {
    kind: stats.mean_minima(
      [np.array(values.rates)] * len(values.widths),
      [_losses(table, kind, n, tuned=False) for n in values.widths],
      seed=0,
    )
    for kind in KINDS
  }


def _exponent(
  best: grid_minimum.MeanMinima, values: study.Values
) -> stats.Effect:
  return stats.draws_slope(np.array(values.widths), best.at, best.draws, best.n)


def _cost(
  table: pd.DataFrame, kind: str, widest: int, split: str
) -> stats.Effect:
  """Of the widest's loss, at the rate of the base less at its own."""
  outcomes = _losses(table, kind, widest, tuned=False, split=split)
  narrow, own = (
    stats.TunedArm(_losses(table, kind, width, tuned=True), outcomes)
    for width in (BASE, widest)
  )
  return stats.tuned_difference(narrow, own, seed=0, median=None)


def _wider(table: pd.DataFrame, widest: int, split: str) -> stats.Effect:
  """By how much the widest ends below the base, at the base's best rate."""
  scores = _losses(table, MUP, BASE, tuned=True)
  base, wide = (
    stats.TunedArm(scores, _losses(table, MUP, n, tuned=False, split=split))
    for n in (BASE, widest)
  )
  return stats.tuned_difference(base, wide, seed=0, median=None)


def _sentence(judged: stats.Judged, values: study.Values) -> str:
  words = {
    kind: stats.amount(judged.found(f"{kind}: exponent")) for kind in KINDS
  }
  costs = {
    kind: LOSS.amount(judged.found(f"{kind}: cost, loss")) for kind in KINDS
  }
  widths = values.widths
  return (
    f"From {widths[0]} to {widths[-1]} hidden units the best rate goes like "
    f"the width to the power {words[STANDARD]} with one rate for all and "
    f"{words[MUP]} with muP (batch {BATCH}, epochs: {values.epochs}); the "
    f"rate best at {BASE} costs {widths[-1]} units {costs[STANDARD]} and "
    f"{costs[MUP]} of loss, n = {judged.n}."
  )


def judge(measured: pd.DataFrame, values: study.Values) -> list[stats.Judged]:
  best, widest = best_rates(measured, values), values.widths[-1]
  parts = []
  asked: dict[str, verdicts.Kind] = {STANDARD: "less", MUP: "same"}
  for kind, found in best.items():
    parts.append(
      stats.Question(
        f"{kind}: exponent",
        f"{kind}: exponent of the best rate against the width",
        _exponent(found, values),
        asked[kind],
        margin=MARGIN,
        censored=float(found.censored.max()),
        note="best rates: "
        + ", ".join(
          f"{rate:.2g} at {n}"
          for n, rate in zip(values.widths, found.at, strict=True)
        ),
      )
    )
  costly: dict[str, verdicts.Kind] = {STANDARD: "greater", MUP: "same"}
  for kind in KINDS:
    parts.append(
      LOSS.question(
        f"{kind}: cost",
        f"{kind}: what the rate best at {BASE} costs at {widest} units",
        _cost(measured, kind, widest, "dev"),
        costly[kind],
        on_test=_cost(measured, kind, widest, "test"),
        role="secondary",
      )
    )
  parts.append(
    LOSS.question(
      "muP: wider",
      f"muP: {widest} units end below {BASE}, at the rate best at {BASE}",
      _wider(measured, widest, "dev"),
      on_test=_wider(measured, widest, "test"),
      role="diagnostic",
    )
  )
  sentence = functools.partial(_sentence, values=values)
  return [stats.judge(stats.Claim("H7", parts, sentence))]


def summarise(measured: pd.DataFrame, values: study.Values) -> pd.DataFrame:
  """Best rates by kind and width, and what the runs come to at each rate."""
  rows = []
  for kind, best in best_rates(measured, values).items():
    for i, width in enumerate(values.widths):
      at = best.at[i]
      low, high = np.quantile(best.draws[:, i], (0.025, 0.975))
      own = measured[
        (measured["kind"] == kind)
        & (measured["width"] == width)
        & (measured["seed"] < study.TUNING_SEED)
      ]
      for rate, runs in own.groupby("rate"):
        loss = runs["dev_loss"]
        lost = ~np.isfinite(loss) | (loss >= tables.GUESSING)
        rows.append(
          {
            "kind": kind,
            "width": width,
            **interval_columns("best_rate", (at, low, high)),
            "censored": best.censored[i],
            "rate": rate,
            "seeds": len(runs),
            "lost": int(lost.sum()),
            "dev_loss": loss[~lost].mean(),
            "test_loss": runs["test_loss"][~lost].mean(),
            "dev_accuracy": runs["dev_accuracy"][~lost].mean(),
          }
        )
  return pd.DataFrame(rows)


def draw(measured: pd.DataFrame, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (16, 4.8))
  best = best_rates(measured, values)
  for ax, kind in zip(axes[0], KINDS, strict=False):
    for i, width in enumerate(values.widths):
      losses = _losses(measured, kind, width, tuned=False)
      kept = np.where(losses < tables.GUESSING, losses, np.nan)
      plotting.bands(
        ax, np.array(values.rates), kept, f"{width} units", index=i
      )
    plotting.log_axis(ax, "x")
    plotting.log_axis(ax, "y")
    ax.set(xlabel="learning rate", ylabel="development loss (nats)")
    ax.set_title(kind)
    ax.legend(fontsize=8)
  right = axes[0, 2]
  for i, (kind, found) in enumerate(best.items()):
    ends = np.quantile(found.draws, (0.025, 0.975), axis=0)
    power = _exponent(found, values).estimate
    plotting.error_bars(
      right,
      np.array(values.widths) * 1.03**i,
      found.at,
      *ends,
      index=i,
      label=f"{kind}: width^{power:.2f} (n = {found.n})",
      **plotting.series(i),
    )
  plotting.log_axis(right, "x", values.widths)
  plotting.log_axis(right, "y", values.rates)
  low, high = right.get_ylim()  # at least two of the rates, a factor 2 apart
  right.set_ylim(low / 1.5, 1.5 * high)
  right.set(xlabel="units of the first hidden layer", ylabel="best rate")
  right.legend(fontsize=8)
  figure.suptitle(
    f"Rates by width, batch {BATCH}, epochs: {values.epochs}, "
    f"{values.seeds} seeds, mean and 95 %; crosses: runs that are lost"
  )
  return {"width_transfer": figure}


STUDY = study.Study(
  "width_transfer", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
