"""H4: the curvature along training beside 2 / rate.

The runs train on N of the training examples, for the full batch to be one of
the batch sizes. S seeds, T updates, B batch, R batches drawn.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from experiments._shared import study
from mnist_jax import data, runtime, stats, training
from mnist_jax.analysis import curvature, gradient_noise
from mnist_jax.model import mlp
from mnist_jax.runtime import devices
from mnist_jax.sweep import tables
from mnist_jax.training import loop

SMALL_BATCHES = (16, 128)
RATES = (0.2, 0.5, 1.0, 2.0)
REACHED_FROM_BELOW = RATES[0]  # 2 / it is above the eigenvalue at the start
COMPARED = 1.0  # the rate at which small batches are judged
MARGIN = 0.2
SHARES = (0, 0.125, 0.25, 0.5, 1)  # of the updates, where to measure
LOST_AS = 10.0  # what a curvature that is not finite counts as, of 2 / rate
TOLERANCE = 1e-2  # of Lanczos: the value's error goes by its square
DRAWN = 2048  # examples in the batches drawn at each point


def config_of(batch_size: int) -> training.TrainConfig:
  """The chapter's network; the short last batch is left out."""
  return training.TrainConfig(batch_size=batch_size, drop_last=True)


def plan(
  config: training.TrainConfig, seed: int, count: int, updates: int, rate: float
) -> loop.EpochPlan:
  """The first T updates of a run of that seed, over as many epochs as needed.

  Args:
    count: N, at least the batch size.
  """
  each = data.updates_per_epoch(count, config.batch_size, config.drop_last)
  epochs = range(math.ceil(updates / each))
  rates = np.full(each * len(epochs), rate, np.float32)
  plans = [
    loop.plan_epoch(config, seed, epoch, count, rates, epoch * each)
    for epoch in epochs
  ]
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:updates], *plans)


def drawn(seed: int, count: int, batch_size: int) -> Int[np.ndarray, "R B"]:
  """Batches to measure on: all examples once, or about DRAWN of them."""
  if batch_size == count:
    return np.arange(count, dtype=np.int32)[None]
  rng = np.random.default_rng([seed, batch_size])
  number = max(8, DRAWN // batch_size)
  return gradient_noise.draw_batches(rng, count, batch_size, number)


def _stacked(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _advance(
  config: training.TrainConfig,
  split: data.Split,
  run: tuple[training.TrainState, loop.EpochPlan],
) -> training.TrainState:
  state, rows = run
  hparams = training.make_hparams(0)  # nothing of it is read
  return loop.scan_epoch(config, state, split, rows, hparams)[0]


def _look(
  config: training.TrainConfig,
  split: data.Split,
  run: tuple[mlp.Params, Int[Array, "R B"], Array],
) -> dict[str, Float[Array, ""]]:
  params, batches, seed = run
  loss_fn = gradient_noise.network_loss(config.activations)
  top = curvature.sharpness(
    loss_fn, params, split, jax.random.key(seed), tolerance=TOLERANCE
  )
  along = curvature.batch_curvatures(loss_fn, params, split, batches)
  return {
    "loss": loss_fn(params, split),
    "sharpness": top.value,
    "residual": top.residual,
    "batch_sharpness": along.mean(),
  }


@functools.cache
def _programs(config: training.TrainConfig, count: int) -> tuple[Any, Any]:
  """Both as programs over S runs, one after another on each device."""
  mesh = runtime.mesh(count)
  rows, whole = PartitionSpec(devices.AXIS), PartitionSpec()

  def spread(function: Any) -> Any:
    def each(split: data.Split, runs: Any) -> Any:
      return jax.lax.map(functools.partial(function, config, split), runs)

    return jax.jit(
      jax.shard_map(
        each,
        mesh=mesh,
        in_specs=(whole, rows),
        out_specs=rows,
        check_vma=False,
      )
    )

  return spread(_advance), spread(_look)


def curvatures(
  split: data.Split,
  batch_size: int,
  rate: float,
  seeds: Sequence[int],
  points: Sequence[int],
) -> list[dict[str, float]]:
  """A record for each seed and point of training at one rate.

  Args:
    split: The N examples, all that is trained and measured on.
    points: Numbers of updates, rising, from 0 on.
  """
  config, count = config_of(batch_size), len(split.labels)
  advance, look = _programs(config, math.gcd(len(seeds), jax.device_count()))
  state = _stacked([training.init_state(config, seed) for seed in seeds])
  plans = [plan(config, seed, count, points[-1], rate) for seed in seeds]
  batches = np.stack([drawn(seed, count, batch_size) for seed in seeds])
  records = []
  for done, point in zip((0, *points), points, strict=False):
    if point > done:
      rows = slice(done, point)
      parts = [loop.EpochPlan(*(x[rows] for x in each)) for each in plans]
      state = advance(split, (state, _stacked(parts)))
    found = look(split, (state.params, batches, np.asarray(seeds)))
    place = {"batch_size": batch_size, "learning_rate": rate, "step": point}
    records += [
      {"seed": seed}
      | place
      | {name: float(values[i]) for name, values in found.items()}
      for i, seed in enumerate(seeds)
    ]
  return records


def measure(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """A row for each batch size, rate, seed and point."""
  split = data.take(lab.dataset, values.examples).train
  points = tuple(round(share * values.edge_updates) for share in SHARES)
  seeds = range(values.seeds)
  given = f"{points} {len(seeds)} {values.examples} {lab.data_digest}"
  cases = {
    f"{size} {rate} {given}": functools.partial(
      curvatures, split, size, rate, seeds, points
    )
    for size in (*SMALL_BATCHES, values.examples)
    for rate in RATES
  }
  return pd.DataFrame(lab.collect(cases, "curvature"))


def in_edges(
  table: pd.DataFrame, batch_size: int, rate: float, column: str
) -> tables.Curves:
  """[1, S, K] a curvature over 2 / rate, by the number of updates."""
  chosen = (table["batch_size"] == batch_size) & (
    table["learning_rate"] == rate
  )
  own = table[chosen]
  share = (own[column] * rate / 2).where(np.isfinite(own[column]), LOST_AS)
  return tables.curves(
    own.assign(share=share), "learning_rate", "share", point="step"
  )


def starts(table: pd.DataFrame) -> Float[np.ndarray, " S"]:
  """The largest eigenvalue of each seed before training."""
  first = table[table["step"] == 0].drop_duplicates("seed")
  return first.sort_values("seed")["sharpness"].to_numpy(np.float64)


def _ends(
  table: pd.DataFrame, size: int, rate: float, column: str
) -> stats.Effect:
  ends = in_edges(table, size, rate, column).values[0, :, -1]
  return stats.typical_interval(ends, seed=0)


def _sentence(judged: stats.Judged, examples: int, updates: int) -> str:
  full = {
    rate: judged.found(f"full batch, rate {rate:g}")
    for rate in RATES
    if rate != REACHED_FROM_BELOW
  }
  shares = ", ".join(
    f"{stats.amount(effect)} at rate {rate:g}" for rate, effect in full.items()
  )
  below = judged.found(f"full batch, rate {REACHED_FROM_BELOW:g}")
  small = judged.found(f"batch {SMALL_BATCHES[0]}, eigenvalue below")
  along = judged.found(f"batch {SMALL_BATCHES[0]}, batch sharpness")
  return (
    f"After {updates} full-batch updates on {examples:,} examples the largest "
    f"eigenvalue is, as a share of 2 / rate, {shares}, and "
    f"{stats.amount(below)} at rate {REACHED_FROM_BELOW:g}; at batch "
    f"{SMALL_BATCHES[0]} and rate {COMPARED:g} it is {stats.amount(small)} and "
    f"the batch sharpness {stats.amount(along)} (n = {small.n})."
  )


def claim(table: pd.DataFrame, values: study.Values) -> stats.Judged:
  """H4, judged at the last point."""
  parts = [
    stats.Question(
      f"full batch, rate {rate:g}",
      "by full batches the largest eigenvalue comes to 2 / rate (its share)",
      _ends(table, values.examples, rate, "sharpness"),
      "same",
      target=1.0,
      margin=MARGIN,
      role="secondary" if rate == REACHED_FROM_BELOW else "primary",
    )
    for rate in RATES
  ]
  for size in SMALL_BATCHES:
    parts += [
      stats.Question(
        f"batch {size}, batch sharpness",
        f"at batch {size}, rate {COMPARED:g}, the batch sharpness comes to "
        "2 / rate (its share)",
        _ends(table, size, COMPARED, "batch_sharpness"),
        "same",
        target=1.0,
        margin=MARGIN,
        role="secondary",
      ),
      stats.Question(
        f"batch {size}, eigenvalue below",
        f"at batch {size}, rate {COMPARED:g}, the largest eigenvalue is held "
        "below 2 / rate (its share)",
        _ends(table, size, COMPARED, "sharpness"),
        "less",
        target=1.0,
        margin=MARGIN,
        role="secondary",
      ),
    ]
  sentence = functools.partial(
    _sentence, examples=values.examples, updates=values.edge_updates
  )
  return stats.judge(stats.Claim("H4", parts, sentence))
