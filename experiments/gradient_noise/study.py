"""B4: have 16 and 32 samples about the same gradient variance?

  python -m experiments.gradient_noise --preset=full

Claim (12.4): a single sample is noisy; since samples are independent, 16 and
32 have about the same variance, and so have their gradients. (The variance of
a mean of m independent samples is 1/m of one's, not the same.)
Question: how does E|g - G|^2, the total variance of the mini-batch gradient g
about the gradient G over all training examples, depend on the batch size?
Runs: the chapter's network, rate 0.2, batch 128; measured at the start and
after each of --epochs. Grid: batches 1 to 1024, drawn without replacement,
max(--draws, 2048 / batch) of each, fewer where --num_train is small.
Parts, at each epoch, margins as given here:
  single sample   its variance is above |G|^2: log of the ratio, from all
                  per-example gradients, nothing drawn
  16 and 32       the same variance: log of the ratio, margin log 1.1
  slope           variance ~ batch^-1, margin 0.05 (the factor (N - B) /
                  (N - 1) of drawing without replacement adds 0.003)
Beside them, in summary.csv and the figures: the simple noise scale tr(Sigma)
/ |G|^2 (McCandlish et al. 2018), exact, and from |g|^2 of --pairs batches of
32 and of 1024, with Fieller's interval: in how many seeds it holds the exact
value, and in how many it is undefined, as that of |G|^2 holds 0.
Test: Student's t over seeds, Holm, 95 % bootstrap intervals.
Cost on two cores: full (30 seeds, 20 epochs) about 5 minutes.
"""

import math
from typing import Any

import jax
import numpy as np
import pandas as pd

from experiments._shared import progress, study
from experiments.gradient_noise import figures
from mnist_jax import data, plotting, stats, training
from mnist_jax.analysis import gradient_noise, two_batch
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes, verdicts
from mnist_jax.sweep import tables

CONFIG = training.TrainConfig()
RATE = 0.2
BATCH_SIZES = tuple(2**k for k in range(11))
COMPARED = (16, 32)
PAIR = (32, 1024)
EXAMPLES = 2048  # drawn for a small batch size, however few each batch has
SAME_MARGIN, SLOPE_MARGIN = math.log(1.1), 0.05
_DRAWS, _PAIRS = range(2)  # what a generator is for

OPTIONS = (
  study.Option("seeds", 2, 30, "runs"),
  study.Option("epochs", (0, 1), (0, 1, 5, 20), "when to measure"),
  study.Option("draws", 8, 32, "fewest batches of each size"),
  study.Option("pairs", 16, 64, "batches of the two-batch estimate"),
)


def check(values: study.Values) -> None:
  if list(values.epochs) != sorted(set(values.epochs)) or values.epochs[0] < 0:
    raise InputError(
      f"--epochs={','.join(map(str, values.epochs))}: expected whole numbers "
      "from 0 on that rise"
    )
  if values.pairs < 2:
    raise InputError(f"--pairs={values.pairs}: expected at least 2")


def _variances(
  params: mlp.Params,
  split: data.Split,
  moments: gradient_noise.Moments,
  draws: int,
  where: tuple[int, int],
) -> list[dict[str, float]]:
  """Drawn and exact variance of the gradient at each batch size."""
  rng = np.random.default_rng([*where, _DRAWS])
  loss_fn = gradient_noise.network_loss(CONFIG.activations)
  count = len(split.labels)
  rows = []
  for size in BATCH_SIZES:
    number = max(draws, EXAMPLES // size)
    drawn = gradient_noise.draw_batches(rng, count, size, number)
    found = gradient_noise.square_distances(
      loss_fn, params, split, drawn, moments.mean
    )
    exact = float(moments.trace) * gradient_noise.variance_share(size, count)
    rows.append(
      {"batch_size": size, "variance": float(found.mean()), "exact": exact}
    )
  return rows


def _scale(
  params: mlp.Params,
  split: data.Split,
  moments: gradient_noise.Moments,
  pairs: int,
  where: tuple[int, int],
) -> dict[str, Any]:
  """The noise scale, exactly and from two batch sizes."""
  rng = np.random.default_rng([*where, _PAIRS])
  loss_fn = gradient_noise.network_loss(CONFIG.activations)
  count = len(split.labels)
  small, big = (
    np.asarray(
      gradient_noise.square_distances(
        loss_fn,
        params,
        split,
        gradient_noise.draw_batches(rng, count, size, pairs),
      )
    )
    for size in PAIR
  )
  found = two_batch.noise_scale(small, big, PAIR, count)
  row = {
    "trace": float(moments.trace),
    "square_norm": float(moments.square_norm),
    "noise_scale": float(moments.noise_scale),
    "estimate": math.nan,
    "low": math.nan,
    "high": math.nan,
    "undefined": found.reason,
  }
  if found.scale is not None:
    row["estimate"] = found.scale.estimate
    row["low"], row["high"] = found.scale.low, found.scale.high
  return row


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  count = len(lab.dataset.train.labels)
  if count <= BATCH_SIZES[-1]:
    raise InputError(
      f"{count} training examples, expected more than {BATCH_SIZES[-1]}, the "
      "largest batch"
    )
  split = jax.device_put(lab.dataset.train)
  variances, scales = [], []
  for seed in progress.each(range(values.seeds), "training"):
    run = training.params_at(CONFIG, RATE, split, seed, tuple(values.epochs))
    for epoch, params in run:
      at = {"seed": seed, "epoch": epoch}
      where = (seed, epoch)
      moments = gradient_noise.network_moments(
        CONFIG.activations, params, split
      )
      variances += [
        at | row
        for row in _variances(params, split, moments, values.draws, where)
      ]
      scales.append(at | _scale(params, split, moments, values.pairs, where))
  return {"table": pd.DataFrame(variances), "scales": pd.DataFrame(scales)}


def _by_batch(table: pd.DataFrame, epoch: int) -> tables.Curves:
  """[1, S, K] the drawn variance by batch size."""
  return tables.curves(
    table[table["epoch"] == epoch], "epoch", "variance", point="batch_size"
  )


def _log_ratio(table: pd.DataFrame, epoch: int) -> stats.Effect:
  curves = _by_batch(table, epoch)
  first, second = (curves.at(float(size))[0] for size in COMPARED)
  return stats.paired_log_ratio(first, second, seed=0)


def _slope(table: pd.DataFrame, epoch: int) -> stats.Effect:
  curves = _by_batch(table, epoch)
  return slopes.loglog_slope(curves.points, curves.values[0], seed=0)


def judge(measured: study.Tables, values: study.Values) -> list[verdicts.Part]:
  table, scales = measured["table"], measured["scales"]
  questions = []
  for epoch in values.epochs:
    when = "at the start" if epoch == 0 else f"after epoch {epoch}"
    ratio = _log_ratio(table, epoch)
    questions += [
      verdicts.Question(
        "B4",
        f"single sample, {when}",
        f"{when} a single sample's variance is above |G|^2 (log of the ratio)",
        stats.paired_log_ratio(
          figures.at(scales, epoch, "trace"),
          figures.at(scales, epoch, "square_norm"),
          seed=0,
        ),
        "greater",
      ),
      verdicts.Question(
        "B4",
        f"{COMPARED[0]} and {COMPARED[1]}, {when}",
        f"{when} the variances at {COMPARED[0]} and {COMPARED[1]} are the "
        "same (log of the ratio)",
        ratio,
        "same",
        margin=SAME_MARGIN,
        note=f"a ratio of {math.exp(ratio.estimate):.3g}",
      ),
      verdicts.Question(
        "B4",
        f"slope, {when}",
        f"{when} variance ~ batch^-1, as independence implies",
        _slope(table, epoch),
        "same",
        target=-1.0,
        margin=SLOPE_MARGIN,
      ),
    ]
  return verdicts.judge(questions)


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By epoch: slope, ratio, and both noise scales (geometric mean, median)."""
  table, scales = measured["table"], measured["scales"]
  rows = []
  for epoch in values.epochs:
    slope = _slope(table, epoch)
    exact = figures.mean_scale(scales, epoch)
    mean, low, high = stats.as_ratio(exact)
    holds, undefined = figures.agreement(scales, epoch)
    rows.append(
      {
        "epoch": epoch,
        "seeds": exact.n,
        "slope": slope.estimate,
        "slope_low": slope.low,
        "slope_high": slope.high,
        "ratio_16_32": math.exp(_log_ratio(table, epoch).estimate),
        "noise_scale": mean,
        "noise_scale_low": low,
        "noise_scale_high": high,
        "two_batch_median": scales[scales["epoch"] == epoch][
          "estimate"
        ].median(),
        "two_batch_holds_exact": holds,
        "two_batch_undefined": undefined,
      }
    )
  return pd.DataFrame(rows)


def _draw_variance(
  ax: plotting.Axes, table: pd.DataFrame, values: study.Values
) -> None:
  for i, epoch in enumerate(values.epochs):
    curves = _by_batch(table, epoch)
    slope = _slope(table, epoch)
    plotting.bands(
      ax,
      curves.points,
      curves.values[0],
      f"epoch {epoch}: slope {slope.estimate:.3f}",
      index=i,
    )
    exact = table[table["epoch"] == epoch].groupby("batch_size")["exact"].mean()
    ax.plot(
      exact.index,
      exact,
      color="black",
      linewidth=0.8,
      label="exact, from tr(Σ)" if i == len(values.epochs) - 1 else None,
      zorder=3,
    )
  plotting.log_axis(ax, "x", [1, 4, 16, 32, 128, 1024])
  plotting.log_axis(ax, "y")
  for size in COMPARED:
    ax.axvline(size, color="black", linestyle=":", linewidth=1)
  ax.set_xlabel("batch size B (dotted: 16 and 32)")
  ax.set_ylabel("variance of the gradient, E|g − G|²")
  ax.legend(fontsize=9)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (16.5, 5))
  _draw_variance(axes[0, 0], measured["table"], values)
  figures.draw_scales(axes[0, 1], measured["scales"])
  figures.draw_agreement(axes[0, 2], measured["scales"], PAIR)
  figure.suptitle(
    f"Gradient noise of the book's run, {values.seeds} seeds, mean and 95 % "
    "band"
  )
  return {"gradient_noise": figure}


STUDY = study.Study(
  "gradient_noise", OPTIONS, measure, judge, draw, summarise, check
)
