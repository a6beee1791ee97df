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

import functools
import math
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from experiments._shared import progress, study
from experiments._shared.metric import interval_columns
from mnist_jax import data, plotting, stats, training
from mnist_jax.analysis import gradient_noise, two_batch
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes, verdicts
from mnist_jax.sweep import figures, tables

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


def _distances(
  params: mlp.Params,
  split: data.Split,
  rng: np.random.Generator,
  size: int,
  number: int,
  centre: mlp.Params | None = None,
) -> Float[Array, " R"]:
  """|g - centre|^2 of the gradient g of each of so many drawn batches."""
  return gradient_noise.square_distances(
    gradient_noise.network_loss(CONFIG.activations),
    params,
    split,
    gradient_noise.draw_batches(rng, len(split.labels), size, number),
    centre,
  )


def _variances(
  params: mlp.Params,
  split: data.Split,
  moments: gradient_noise.Moments,
  rng: np.random.Generator,
  draws: int,
) -> list[dict[str, float]]:
  """Drawn and exact variance of the gradient at each batch size."""
  rows = []
  for size in BATCH_SIZES:
    number = max(draws, EXAMPLES // size)
    found = _distances(params, split, rng, size, number, moments.mean)
    share = gradient_noise.variance_share(size, len(split.labels))
    exact = float(moments.trace) * share
    rows.append(
      {"batch_size": size, "variance": float(found.mean()), "exact": exact}
    )
  return rows


def _scale(
  params: mlp.Params,
  split: data.Split,
  moments: gradient_noise.Moments,
  rng: np.random.Generator,
  pairs: int,
) -> dict[str, Any]:
  """The noise scale, exactly and from two batch sizes, NaN if undefined."""
  small, big = (
    np.asarray(_distances(params, split, rng, size, pairs)) for size in PAIR
  )
  found = two_batch.noise_scale(small, big, PAIR, len(split.labels))
  return {
    **{
      name: float(getattr(moments, name))
      for name in ("trace", "square_norm", "noise_scale")
    },
    **{
      name: getattr(found.scale, name, math.nan)
      for name in ("estimate", "low", "high")
    },
    "undefined": found.reason,
  }


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
      moments = gradient_noise.network_moments(
        CONFIG.activations, params, split
      )
      what = (params, split, moments)
      rng = np.random.default_rng([seed, epoch, _DRAWS])
      variances += [at | row for row in _variances(*what, rng, values.draws)]
      rng = np.random.default_rng([seed, epoch, _PAIRS])
      scales.append(at | _scale(*what, rng, values.pairs))
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
  table, questions = measured["table"], []
  ask = functools.partial(verdicts.Question, "B4")
  for epoch, scales in measured["scales"].groupby("epoch"):
    when = "at the start" if epoch == 0 else f"after epoch {epoch}"
    trace, norm = (scales[c].to_numpy() for c in ("trace", "square_norm"))
    ratio = _log_ratio(table, epoch)
    questions += [
      ask(
        f"single sample, {when}",
        f"{when} a single sample's variance is above |G|^2 (log of the ratio)",
        stats.paired_log_ratio(trace, norm, seed=0),
      ),
      ask(
        f"{COMPARED[0]} and {COMPARED[1]}, {when}",
        f"{when} the variances at {COMPARED[0]} and {COMPARED[1]} are the "
        "same (log of the ratio)",
        ratio,
        "same",
        margin=SAME_MARGIN,
        note=f"a ratio of {math.exp(ratio.estimate):.3g}",
      ),
      ask(
        f"slope, {when}",
        f"{when} variance ~ batch^-1, as independence implies",
        _slope(table, epoch),
        "same",
        target=-1.0,
        margin=SLOPE_MARGIN,
      ),
    ]
  return verdicts.judge(questions)


def _agreement(scales: pd.DataFrame) -> tuple[int, int]:
  """In how many seeds the interval holds the exact value, and is undefined."""
  holds = scales["noise_scale"].between(scales["low"], scales["high"])
  return int(holds.sum()), int(scales["low"].isna().sum())


def summarise(measured: study.Tables, values: study.Values) -> pd.DataFrame:
  """By epoch: slope, ratio, and both noise scales (geometric mean, median)."""
  table = measured["table"]
  rows = []
  for epoch, scales in measured["scales"].groupby("epoch"):
    scale = stats.geometric_mean(scales["noise_scale"].to_numpy())
    holds, undefined = _agreement(scales)
    rows.append(
      {
        "epoch": epoch,
        "seeds": len(scales),
        **interval_columns("slope", _slope(table, epoch)),
        "ratio_16_32": math.exp(_log_ratio(table, epoch).estimate),
        **interval_columns("noise_scale", scale),
        "two_batch_median": scales["estimate"].median(),
        "two_batch_holds_exact": holds,
        "two_batch_undefined": undefined,
      }
    )
  return pd.DataFrame(rows)


def _draw_variance(ax: plotting.Axes, table: pd.DataFrame) -> None:
  for i, (epoch, own) in enumerate(table.groupby("epoch")):
    curves = _by_batch(table, epoch)
    label = f"epoch {epoch}: slope {_slope(table, epoch).estimate:.3f}"
    plotting.bands(ax, curves.points, curves.values[0], label, index=i)
    exact = own.groupby("batch_size")["exact"].mean()
    (line,) = ax.plot(exact.index, exact, "k", linewidth=0.8, zorder=3)
  line.set_label("exact, from tr(Σ)")
  plotting.log_axis(ax, "x", [1, 4, 16, 32, 128, 1024])
  plotting.log_axis(ax, "y")
  for size in COMPARED:
    ax.axvline(size, color="black", linestyle=":", linewidth=1)
  ax.set_xlabel("batch size B (dotted: 16 and 32)")
  ax.set_ylabel("variance of the gradient, E|g − G|²")
  ax.legend(fontsize=9)


def _draw_scales(ax: plotting.Axes, scales: pd.DataFrame) -> None:
  """The exact noise scale as training goes on."""
  exact = scales.pivot(index="seed", columns="epoch", values="noise_scale")
  x, y = np.arange(exact.shape[1]), exact.to_numpy()
  figures.draw_geometric(ax, x, y, "geometric mean, 95 % interval")
  figures.draw_seeds(ax, x, y)
  ax.set_xticks(x, exact.columns.astype(str))
  ax.set_xlabel("after epoch (not to scale)")
  ax.set_ylabel("noise scale tr(Σ) / |G|² (examples)")
  plotting.log_axis(ax, "y")
  ax.legend(loc="lower right")


def _draw_agreement(ax: plotting.Axes, scales: pd.DataFrame) -> None:
  """The two-batch estimate against the exact value, by seed."""
  for i, (epoch, own) in enumerate(scales.groupby("epoch")):
    holds, undefined = _agreement(own)
    known = own[np.isfinite(own["estimate"])]
    columns = ("noise_scale", "estimate", "low", "high")
    plotting.error_bars(
      ax,
      *(known[column].to_numpy() for column in columns),
      index=i,
      elinewidth=0.8,
      capsize=0,
      alpha=0.8,
      label=f"epoch {epoch}: {holds} of {len(own)} hold it, "
      f"{undefined} undefined",
    )
  ends = [scales["noise_scale"].min(), scales["noise_scale"].max()]
  ax.plot(ends, ends, color="black", linewidth=1, label="equal")
  ax.set_xlabel("exact noise scale (examples)")
  ax.set_ylabel(f"from batches of {PAIR[0]} and {PAIR[1]}, 95 % interval")
  plotting.log_axis(ax, "x")
  plotting.log_axis(ax, "y")
  ax.legend(loc="upper left", fontsize=9)


def draw(measured: study.Tables, values: study.Values) -> study.Figures:
  figure, axes = plotting.panels(1, 3, (16.5, 5))
  _draw_variance(axes[0, 0], measured["table"])
  _draw_scales(axes[0, 1], measured["scales"])
  _draw_agreement(axes[0, 2], measured["scales"])
  figure.suptitle(
    f"Gradient noise of the book's run, {values.seeds} seeds, mean and 95 % "
    "band"
  )
  return {"gradient_noise": figure}


STUDY = study.Study(
  "gradient_noise", OPTIONS, measure, judge, draw, summarise, check
)

if __name__ == "__main__":
  study.main(STUDY, __doc__)
