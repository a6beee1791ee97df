"""The chapter's network from weights near 0: waiting, curvature and end.

At weights of exactly 0 all gradients are 0 but that of the last bias, which
soon has the logs of the classes' frequencies: the plateau is the network that
gives each example these odds. P parameters, N examples.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from experiments._shared import progress, study
from mnist_jax import data, sweep, training
from mnist_jax.analysis import curvature, gradient_noise
from mnist_jax.model import losses, mlp
from mnist_jax.sweep import tables

BATCH, RATE = 128, 0.2  # the book's
LEFT_BELOW = 2.0  # nats; the plateau is at 2.30
FIRST_POINT, GROWTH = 10, 1.1  # the updates at which a run is looked at
HELD = 1e-4  # noise at and below it is given few seeds: none leaves in time
HELD_SEEDS = 10
MEASURED = (1e-4, 1e-3, 1e-2)  # sd of the noise where the Hessian is measured
PLATEAU = 1e-3  # of these the one that is judged
NEAR_ZERO = 1e-2  # of the runs whose ends are compared
COUNTED = 1e-5  # of the largest eigenvalue: nearer 0 is rounding


def noisy(sd: float, seeds: Sequence[int]) -> list[sweep.Settings]:
  """Runs whose weights are normal noise of that sd; biases are 0."""
  return sweep.product(
    batch_size=BATCH,
    learning_rate=RATE,
    initializer="normal",
    init_scale=sd,
    seed=seeds,
  )


def xavier(seeds: Sequence[int]) -> list[sweep.Settings]:
  """The book's runs."""
  return sweep.product(batch_size=BATCH, learning_rate=RATE, seed=seeds)


def points(updates: int) -> tuple[int, ...]:
  """Where a run is looked at, from FIRST_POINT on by GROWTH."""
  count = max(1, int(np.log(updates / FIRST_POINT) / np.log(GROWTH)) + 1)
  found = np.round(FIRST_POINT * GROWTH ** np.arange(count)).astype(int)
  return tuple(int(step) for step in np.unique(found) if step < updates)


def escapes(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """The last row of each run that ends when it has left: the plateau's time.

  A column `arm`: "xavier", or the sd of the noise as text.
  """
  each = data.updates_per_epoch(len(lab.dataset.train.labels), BATCH)
  updates = max(1, round(each * values.epochs))
  budget = sweep.Budget(
    updates=updates,
    evaluate_at=points(updates),
    target=sweep.Target("dev_loss", LEFT_BELOW),
  )
  arms = {"xavier": xavier(range(values.seeds))}
  for sd in values.sds:
    count = min(values.seeds, HELD_SEEDS) if sd <= HELD else values.seeds
    arms[f"{sd:g}"] = noisy(sd, range(count))
  found = lab.sweep(arms, budget, name="escapes")
  parts = [tables.last_rows(own) for _, own in found.groupby("arm", sort=False)]
  return pd.concat(parts, ignore_index=True)


def ends(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """The last rows of whole runs, of the arms "xavier" and "near 0"."""
  arms = {
    "xavier": xavier(range(values.book_runs)),
    "near 0": noisy(NEAR_ZERO, range(values.runs)),
  }
  budget = sweep.Budget(epochs=values.epochs, final_splits=("test",))
  return lab.sweep(arms, budget, name="ends").query("step > 0")


def on_plateau(split: data.Split, sd: float, seed: int) -> mlp.Params:
  """The weights a run begins with, the last bias at the classes' log odds.

  Raises:
    ValueError: A class has no example.
  """
  counts = np.bincount(np.asarray(split.labels), minlength=10)
  if not counts.all():
    raise ValueError("a class has no example, expected some of each")
  config = noisy(sd, [seed])[0].train_config()
  *hidden, last = training.init_state(config, seed).params
  odds = jnp.asarray(np.log(counts / counts.sum()), last.b.dtype)
  return (*hidden, last._replace(b=odds))


@jax.jit
def _extremes(
  params: mlp.Params, split: data.Split, key: Key[Array, ""]
) -> tuple[curvature.Eigenvalue, curvature.Eigenvalue, Float[Array, ""]]:
  """Both ends of the whole Hessian by Lanczos, the lower end's sign turned."""
  loss_fn = gradient_noise.network_loss(training.TrainConfig().activations)
  product = functools.partial(
    curvature.hessian_vector_product, loss_fn, params, examples=split
  )

  def turned(vector: Any) -> Any:
    return jax.tree.map(jnp.negative, product(vector))

  low, high = (
    curvature.largest_eigenvalue(matvec, params, key, tolerance=1e-2)
    for matvec in (turned, product)
  )
  square = gradient_noise.square_norm(jax.grad(loss_fn)(params, split))
  return low, high, jnp.sqrt(square)


@jax.jit
def block(params: mlp.Params, split: data.Split) -> Float[Array, "P P"]:
  """The Hessian in all parameters but those of the first layer."""
  first, *rest = params
  names = training.TrainConfig().activations
  images, labels = data.to_float(split.images), jnp.asarray(split.labels)
  hidden = mlp.ACTIVATIONS[names[0]](mlp.affine(first, images))
  flat, unravel = ravel_pytree(tuple(rest))

  def loss(theta: Float[Array, " P"]) -> Float[Array, ""]:
    logits = mlp.apply(unravel(theta), names[1:], hidden)
    return losses.softmax_cross_entropy(logits, labels).mean()

  def product(vector: Float[Array, " P"]) -> Float[Array, " P"]:
    return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

  return jax.lax.map(product, jnp.eye(flat.size), batch_size=64)


def spectrum(split: data.Split, sd: float, seed: int) -> dict[str, float]:
  """What the Hessian is like on the plateau; `negative` counts in `block`.

  A principal block has no more negative eigenvalues than the whole matrix
  (Cauchy's interlacing), so the count is a lower bound of the index.
  """
  params = on_plateau(split, sd, seed)
  low, high, slope = _extremes(params, split, jax.random.key(seed))
  values = np.linalg.eigvalsh(np.asarray(block(params, split), np.float64))
  return {
    "sd": sd,
    "seed": seed,
    "lowest": -float(low.value),
    "residual": float(low.residual),
    "largest": float(high.value),
    "gradient": float(slope),
    "negative": int((values < -COUNTED * values[-1]).sum()),
    "block": len(values),
  }


def spectra(lab: study.Lab, values: study.Values) -> pd.DataFrame:
  """A row for each sd and seed."""
  split = data.take(lab.dataset, values.examples).train
  on_device = data.Split(*map(jnp.asarray, split))
  seeds = progress.each(range(values.seeds), "curvature")
  return pd.DataFrame(
    [spectrum(on_device, sd, seed) for seed in seeds for sd in MEASURED]
  )
