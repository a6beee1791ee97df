"""Measures what section 12.3 says of its check: steps, depth, training.

Every distance is the chapter's, ||a - b|| / (||a|| + ||b||). Shapes: K steps,
depths or moments of training, B examples, D inputs.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mnist_jax import data, gradcheck
from mnist_jax.gradcheck._layout import flatten
from mnist_jax.gradcheck._numeric.differences import Losses
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.gradcheck.network import check, differences
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import gradient_checks, loop

PLAIN_STEP = 1e-5  # near the valley of the two-sided difference in float64
WIDTH = 16  # units of every hidden layer of the depth study
_L2, _RATE = 0.001, 0.2  # of the runs in training
_PER_TENSOR = 24  # coordinates of the step study
LATE_FAULT = "dz1_saturated"  # no mistake until pre-activations are large
NO_L2 = "l2_missing"


def draw_batch(split: data.Split, count: int, seed: int) -> objective.Batch:
  """`count` examples drawn by the seed, pixels in [0, 1].

  Raises:
    InputError: more examples than there are.
  """
  total = len(split.labels)
  if count > total:
    raise InputError(f"{count} examples asked for, {total} are there")
  chosen = np.random.default_rng(seed).choice(total, count, replace=False)
  return objective.Batch(
    data.to_float(np.asarray(split.images)[chosen]),
    jnp.asarray(np.asarray(split.labels)[chosen]),
    jnp.ones(count, jnp.float32),
  )


def _coordinates(
  exact: Float[np.ndarray, " P"], parts: Sequence[slice], seed: int
) -> Int[np.ndarray, " n"]:
  """Some coordinates of each tensor, none whose derivative is 0 for good."""
  rng = np.random.default_rng(seed)
  live = (part.start + np.flatnonzero(exact[part]) for part in parts)
  chosen = [rng.permutation(some)[:_PER_TENSOR] for some in live]
  return np.sort(np.concatenate(chosen))


def error_against_step(
  params: mlp.Params,
  activations: tuple[mlp.Activation, ...],
  batch: objective.Batch,
  steps: Float[np.ndarray, " K"],
  dtype: Any,
  seed: int,
) -> dict[str, Float[np.ndarray, " K"]]:
  """The distance of "one_sided" and "two_sided" differences from the gradient.

  Over up to 24 coordinates of every tensor. The exact gradient is that of
  `jax.grad` in float64, at the same float32 point.

  Args:
    params, batch: in float32, so that both precisions stand at one point.
    dtype: in which the losses are computed; their differences are taken in
      float64.
  """
  subject = check.Subject(params, activations, batch)
  autodiff = check.value_and_grad_of("autodiff", activations)
  layout, exact, _ = flatten(subject.gradient(autodiff), "gradient")
  positions = _coordinates(exact, layout.slices(), seed)
  wanted = exact[positions]
  theta = flatten(params, "params")[1].astype(dtype)
  wide = np.dtype(dtype) == np.float64
  with precision.float64() if wide else contextlib.nullcontext():
    losses = Losses(
      check.objective_of(activations),
      layout,
      theta,
      (differences.cast(batch, dtype), None, None),
    )
    lines = losses.lines(positions, tuple(float(step) for step in steps))
  return {
    method: np.array(
      [gradcheck.distance(row, wanted) for row in lines.differences(method)]
    )
    for method in ("one_sided", "two_sided")
  }


def distances_by_tensor(a: mlp.Params, b: mlp.Params) -> dict[str, float]:
  """The distance in each tensor by path, and in "all"."""
  paths = flatten(a, "gradient")[0].paths
  tensors = map(gradcheck.distance, jax.tree.leaves(a), jax.tree.leaves(b))
  found = dict(zip(paths, tensors, strict=True))
  return {"all": gradcheck.distance(a, b)} | found


def distance_at_depth(
  split: data.Split, depth: int, activation: str, batch_size: int, seed: int
) -> dict[str, float]:
  """One network of so many layers, Xavier weights, on a batch of the data.

  Returns:
    "numeric": of the hand-derived gradient from the two-sided difference with
    step 1e-5, both in float64; "float32": of the hand-derived gradient in
    float32 from that in float64.
  """
  sizes = (np.shape(split.images)[1], *[WIDTH] * (depth - 1), 10)
  names = (activation,) * (depth - 1)
  params = mlp.init(jax.random.key(seed), sizes)
  batch = draw_batch(split, batch_size, seed)
  subject = check.Subject(params, names, batch)
  seam = check.value_and_grad_of("hand", names)
  hand = subject.gradient(seam)
  short = check.gradient_of(seam)(params, batch, None, None)
  numeric = subject.numeric(PLAIN_STEP)
  return {
    "numeric": gradcheck.distance(hand, numeric),
    "float32": gradcheck.distance(hand, short),
  }


def _moment(
  names: tuple[mlp.Activation, ...],
  params: mlp.Params,
  batch: objective.Batch,
  l2: Float[Array, ""],
  epoch: int,
  with_faults: bool,
) -> dict[str, Any]:
  """What the check says of one state in training."""
  subject = check.Subject(params, names, batch, l2)
  hand = subject.gradient(check.value_and_grad_of("hand", names))
  numeric = subject.numeric(PLAIN_STEP)
  report = subject.check(hand)
  found: dict[str, Any] = {
    "epoch": epoch,
    "verdict": str(report.verdict),
    "plain": distances_by_tensor(hand, numeric),
    "best": report.distance,
    "step_1e-7": gradcheck.distance(hand, subject.numeric(1e-7)),
    "largest_weight": max(float(np.abs(p.w).max()) for p in subject.params),
  }
  for key, name in (("no_l2", NO_L2), ("late", LATE_FAULT)):
    fault = catalogue.find(name, names)
    faulty = subject.gradient(fault.value_and_grad(names))
    is_wrong = bool(catalogue.differing(hand, faulty))
    found[key] = {
      "distance": gradcheck.distance(faulty, numeric),
      "is_wrong": is_wrong,
    }
    if with_faults:
      found[key]["caught"] = (
        is_wrong and subject.check(faulty).verdict is gradcheck.Verdict.WRONG
      )
  return found


def distances_in_training(
  config: loop.TrainConfig,
  dataset: data.Dataset,
  batch: objective.Batch,
  epochs: Sequence[int],
  seed: int,
) -> Iterator[dict[str, Any]]:
  """Trains one run, and checks its gradient on a batch after each of `epochs`.

  Args:
    dataset: on the device.
    epochs: rising; 0 is before the first update.

  Yields:
    For each moment the verdict, the plain distances (step 1e-5) in total and
    by tensor, the check's own best distance, that with step 1e-7, and for
    the L2 term left out and for a fault that shows only with large weights
    the distance, whether it is a mistake here, and, at the first and the last
    moment, whether it was caught.
  """
  names, l2 = config.activations, jnp.float32(_L2)
  run = loop.params_at(config, _RATE, dataset.train, seed, epochs, l2=_L2)
  for epoch, params in run:
    ends = epoch in (epochs[0], epochs[-1])
    # One scope for all checks: what jax has traced in one is lost with it.
    with precision.float64():
      found = _moment(names, params, batch, l2, epoch, ends)
    yield found


def planted_distances(
  config: loop.TrainConfig,
  split: data.Split,
  batch_size: int,
  seed: int,
  most: int,
) -> dict[str, float]:
  """The distance of planted mistakes, `most` of the catalogue, by their name.

  Of the run's initial weights on a batch, from the two-sided difference with
  step 1e-5 in float64. What is no mistake there is left out.
  """
  names = config.activations
  params = loop.init_state(config, seed).params
  batch = draw_batch(split, batch_size, seed)
  subject = check.Subject(params, names, batch, jnp.float32(_L2))
  hand = subject.gradient(check.value_and_grad_of("hand", names))
  numeric = subject.numeric(PLAIN_STEP)
  distances = {}
  every = list(catalogue.catalogue(names).items())
  for name, fault in every[:: max(1, len(every) // most)]:
    with precision.float64():  # once each, so that compiling would cost more
      _, faulty = fault.value_and_grad(names)(subject.params, *subject.args)
    if catalogue.differing(hand, faulty):
      distances[name] = gradcheck.distance(faulty, numeric)
  return distances


def dropout_and_training_facts(
  config: loop.TrainConfig, dataset: data.Dataset, seed: int
) -> dict[str, bool]:
  """What G5 says of dropout and of checks in training, tried out.

  Returns:
    By sentence whether it is so: dropout refused without frozen masks, right
    under frozen ones, an epoch the same bit for bit with checks beside it.
  """
  names = config.activations
  state, hparams = loop.init_state(config, seed), loop.make_hparams(seed)
  batch = draw_batch(dataset.train, 16, seed)
  masks = mlp.dropout_masks(jax.random.key(seed), state.params, 16, 0.5)
  terms = check.check_network(
    state.params, names, batch, masks=masks, dropout_rate=0.5
  )
  part = jax.tree.map(lambda x: x[: 5 * config.batch_size], dataset.train)
  rates = np.full(5, 0.2, np.float32)
  plan = loop.plan_epoch(
    config, seed, 0, len(part.labels), rates, int(state.step)
  )
  refused = False
  try:
    check.check_network(state.params, names, batch, dropout_rate=0.5)
  except InputError:
    refused = True
  gradient_checks.check_epoch(config, state, part, plan, hparams, 4)
  checked, _ = loop.train_epoch(config, state, part, plan, hparams)
  state = loop.init_state(config, seed)
  alone, _ = loop.train_epoch(config, state, part, plan, hparams)
  same = jax.tree.map(
    lambda a, b: bool(np.array_equal(a, b)), checked.params, alone.params
  )
  return {
    "dropout without frozen masks is refused": refused,
    "right under frozen masks": (
      terms["dropout"].hand.verdict is gradcheck.Verdict.CORRECT
    ),
    "checks leave training bit for bit": all(jax.tree.leaves(same)),
  }
