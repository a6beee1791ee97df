"""B4: have 16 and 32 samples about the same gradient variance?

  python -m experiments.gradient_noise --preset=full

B4 (12.4, 16个样本的方差和32个样本的方差应该差不多，那它们产生的梯度的方差也
应该相似): a single sample is noisy; samples are independent, so 16 and 32 have
about the same variance, and so have their gradients.
Two variances: that among m samples, which is the same at any m, and that of
their mean, the gradient of the batch, which is 1/m of it. The first half of the
sentence is of the one, the second half of the other.
Metric: E|g - G|^2, the total variance of the mini-batch gradient g about the
gradient G over all training examples; the unbiased variance among the samples
of a batch, of their own gradients and of their pixels.
Runs: the chapter's network, rate 0.2, batch 128; measured at the start and
after each of --epochs. Grid: batches 1 to 1024, drawn without replacement,
max(--draws, 2048 / batch) of each, fewer where --num_train is small.
Parts, margins as given here:
  primary     all: at each epoch the gradient's variance at 16 and at 32 differs
              by less than 10 %: log of the ratio, margin log 1.1
  secondary   the same of the variance among the samples' gradients (the log
              ratio's mean over the epochs) and among their pixels; a single
              sample's variance is above |G|^2 (log of the ratio, any size)
  diagnostic  slope: variance ~ batch^-1, margin 0.05 (the factor (N - B) /
              (N - 1) of drawing without replacement adds 0.003)
Beside them, in summary.csv and the figures: the simple noise scale tr(Sigma)
/ |G|^2 (McCandlish et al. 2018), exact, and from |g|^2 of --pairs batches of
32 and of 1024, with Fieller's interval: in how many seeds it holds the exact
value, and in how many it is undefined, as that of |G|^2 holds 0.
Test: Student's t over seeds, Holm over the secondaries, 95 % bootstrap
intervals. Cost on two cores: full (30 seeds) an estimated 8 minutes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from experiments._shared import progress, study
from experiments._shared.metric import interval_columns
from mnist_jax import data, plotting, stats, training
from mnist_jax.analysis import gradient_noise, two_batch
from mnist_jax.model import mlp
from mnist_jax.runtime.errors import InputError
from mnist_jax.stats import slopes
from mnist_jax.sweep import figures, tables

CONFIG = training.TrainConfig()
RATE = 0.2
BATCH_SIZES = tuple(2**k for k in range(11))
COMPARED = (16, 32)
PAIR = (32, 1024)
EXAMPLES = 2048  # drawn for a small batch size, however few each batch has
SAME_MARGIN, SLOPE_MARGIN = math.log(1.1), 0.05
_DRAWS, _PAIRS, _SAMPLES = range(3)  # what a generator is for

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


@jax.jit
def _among(
  params: mlp.Params, split: data.Split, indices: Int[Array, "R B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Mean over batches of the unbiased total variance among their samples.

  That of the samples' gradients, and of their pixels.
  """
  loss_fn = gradient_noise.network_loss(CONFIG.activations)

  def one(row: Int[Array, " B"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    batch = data.Split(*(x[row][:, None] for x in split))
    grads = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))(params, batch)
    pixels = data.to_float(batch.images)
    leaves = jax.tree.leaves(grads)
    gradients = jnp.asarray(sum(x.var(axis=0, ddof=1).sum() for x in leaves))
    return gradients, pixels.var(axis=0, ddof=1).sum()

  gradients, pixels = jax.lax.map(one, indices)
  return gradients.mean(), pixels.mean()


def _samples(
  params: mlp.Params, split: data.Split, rng: np.random.Generator
) -> list[dict[str, float]]:
  """The variance among the samples of a batch, at the sizes compared."""
  rows = []
  for size in COMPARED:
    batches = gradient_noise.draw_batches(
      rng, len(split.labels), size, EXAMPLES // size
    )
    gradients, pixels = _among(params, split, jnp.asarray(batches))
    row = {"gradients": float(gradients), "pixels": float(pixels)}
    rows.append({"batch_size": size} | row)
  return rows


def measure(lab: study.Lab, values: study.Values) -> dict[str, pd.DataFrame]:
  count = len(lab.dataset.train.labels)
  if count <= BATCH_SIZES[-1]:
    raise InputError(
      f"{count} training examples, expected more than {BATCH_SIZES[-1]}, the "
      "largest batch"
    )
  split = jax.device_put(lab.dataset.train)
  variances, scales, samples = [], [], []
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
      rng = np.random.default_rng([seed, epoch, _SAMPLES])
      samples += [at | row for row in _samples(params, split, rng)]
  return {
    "table": pd.DataFrame(variances),
    "scales": pd.DataFrame(scales),
    "samples": pd.DataFrame(samples),
  }


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


def _among_ratio(samples: pd.DataFrame, what: str) -> stats.Effect:
  """Mean over epochs of the log ratio of the variances at 16 and at 32."""
  logs = samples.assign(log=np.log(samples[what]))
  means = logs.pivot_table(index="seed", columns="batch_size", values="log")
  first, second = (means[size].to_numpy() for size in COMPARED)
  return stats.paired_difference(first, second, seed=0)


def _at_epoch(
  table: pd.DataFrame, scales: pd.DataFrame, epoch: int
) -> list[stats.Question]:
  when = "at the start" if epoch == 0 else f"after epoch {epoch}"
  trace, norm = (scales[c].to_numpy() for c in ("trace", "square_norm"))
  few, many = COMPARED
  return [
    stats.Question(
      f"{few} and {many}, {when}",
      f"{when} the gradient's variances at {few} and {many} are the same (log "
      "of the ratio)",
      _log_ratio(table, epoch),
      "same",
      margin=SAME_MARGIN,
    ),
    stats.Question(
      f"single sample, {when}",
      f"{when} a single sample's variance is above |G|^2 (log of the ratio)",
      stats.paired_log_ratio(trace, norm, seed=0),
      role="secondary",
    ),
    stats.Question(
      f"slope, {when}",
      f"{when} variance ~ batch^-1, as independence implies",
      _slope(table, epoch),
      "same",
      target=-1.0,
      margin=SLOPE_MARGIN,
      role="diagnostic",
    ),
  ]


AMONG = {  # a column of what is measured among the samples, and its restriction
  "pixels": "of the variance among the samples themselves",
  "gradients": "of the variance among the samples' gradients, not of their "
  "mean",
}


def _sentence(judged: stats.Judged) -> str:
  few, many = COMPARED
  ratios = {
    part.name.split(", ")[1]: stats.factor(part.effect)
    for part in judged.parts
    if part.role == "primary" and part.effect
  }
  among, pixels = (
    stats.factor(judged.found(f"among the samples' {what}"))
    for what in ("gradients", "pixels")
  )
  names = list(ratios)
  ends = dict.fromkeys((names[0], names[-1]))
  shown = " and ".join(f"{ratios[when]} {when}" for when in ends)
  return (
    f"The variance of the gradient of {few} samples over that of {many} is "
    f"{shown} (rate {RATE:g}, batch {CONFIG.batch_size}, n = {judged.n}), "
    f"while the variance among {few} samples over that among {many} is {among} "
    f"for their gradients and {pixels} for their pixels."
  )


def judge(measured: study.Tables, values: study.Values) -> list[stats.Judged]:
  table, parts = measured["table"], []
  for epoch, scales in measured["scales"].groupby("epoch"):
    parts += _at_epoch(table, scales, epoch)
  for what, restriction in AMONG.items():
    part = stats.Question(
      f"among the samples' {what}",
      f"the variances among {COMPARED[0]} and among {COMPARED[1]} samples' "
      f"{what} are the same (log of the ratio)",
      _among_ratio(measured["samples"], what),
      "same",
      margin=SAME_MARGIN,
      role="secondary",
      restriction=restriction,
    )
    parts.append(part)
  return [stats.judge(stats.Claim("B4", parts, _sentence))]


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
  among = {
    f"among_{what}_16_32": math.exp(
      _among_ratio(measured["samples"], what).estimate
    )
    for what in AMONG
  }
  return pd.DataFrame(rows).assign(**among)


def _draw_variance(
  ax: plotting.Axes, table: pd.DataFrame, samples: pd.DataFrame
) -> None:
  for i, (epoch, own) in enumerate(table.groupby("epoch")):
    curves = _by_batch(table, epoch)
    label = f"epoch {epoch}: slope {_slope(table, epoch).estimate:.3f}"
    plotting.bands(ax, curves.points, curves.values[0], label, index=i)
    exact = own.groupby("batch_size")["exact"].mean()
    (line,) = ax.plot(exact.index, exact, "k", linewidth=0.8, zorder=3)
  line.set_label("exact, from tr(Σ)")
  among = tables.curves(samples, "epoch", "gradients", point="batch_size")
  for i, _ in enumerate(among.arms):
    figures.draw_geometric(
      ax, among.points, among.values[i], "among the samples", index=i
    )
    label = "_nolegend_" if i else "among 16 and 32 samples, by epoch"
    ax.lines[-1].set_label(label)
  plotting.log_axis(ax, "x", [1, 4, 16, 32, 128, 1024])
  plotting.log_axis(ax, "y")
  for size in COMPARED:
    ax.axvline(size, color="black", linestyle=":", linewidth=1)
  ax.set_xlabel("batch size B (dotted: 16 and 32)")
  ax.set_ylabel("variance of the gradient, E|g − G|², and among samples")
  ax.legend(loc="lower left", fontsize=9)


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
  _draw_variance(axes[0, 0], measured["table"], measured["samples"])
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
