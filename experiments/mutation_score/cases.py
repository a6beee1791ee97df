"""How many planted mistakes the check finds, and how often it cries wolf.

Cases are networks drawn from seeds: for every fault of the catalogue, and for
correct gradients of random networks. A case becomes one flat record.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.mutation_score import check_grads
from mnist_jax import gradcheck
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.gradcheck.network import check
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import precision
from mnist_jax.training import loop

Record = dict[str, Any]
_UPDATES, _RATE = 100, 0.5  # of a trained network


class Network(NamedTuple):
  """What is compiled once."""

  sizes: tuple[int, ...]
  activations: tuple[mlp.Activation, ...]
  batch_size: int
  dropout_rate: float
  padding: int = 2  # examples of weight 0

  def __str__(self) -> str:
    sizes = "-".join(map(str, self.sizes))
    return f"{sizes} {','.join(self.activations)}".strip()


CHAPTER = Network((784, 64, 16, 10), ("sigmoid", "tanh"), 32, 0.2)
SMALL = (
  Network((12, 7, 7, 5), ("sigmoid", "tanh"), 8, 0.3),
  Network((9, 8, 6, 4), ("relu", "relu"), 8, 0.3),
  Network((10, 6, 5), ("tanh",), 7, 0.3),
  Network((8, 6, 5, 6, 4), ("relu", "tanh", "sigmoid"), 8, 0.3),
  Network((20, 3), (), 6, 0.0),
)


def random_network(rng: np.random.Generator) -> Network:
  """One to six layers of 1 to 10 units, a batch of 1 to 16."""
  depth = int(rng.integers(0, 6))
  hidden = rng.integers(1, 11, depth)
  return Network(
    (int(rng.integers(1, 13)), *map(int, hidden), int(rng.integers(2, 7))),
    tuple(str(a) for a in rng.choice(list(mlp.ACTIVATIONS), depth)),
    int(rng.integers(1, 17)),
    float(rng.choice([0.0, 0.3])) if depth else 0.0,
    int(rng.integers(0, 3)),
  )


@functools.partial(jax.jit, static_argnames="activations")
def _trained(
  params: mlp.Params,
  activations: tuple[mlp.Activation, ...],
  batch: objective.Batch,
) -> mlp.Params:
  value_and_grad = jax.value_and_grad(objective.make_objective(activations))

  def step(
    params: mlp.Params, rate: Float[Array, ""]
  ) -> tuple[mlp.Params, Float[Array, ""]]:
    loss, grads = value_and_grad(params, batch, None, None)
    return jax.tree.map(lambda w, g: w - rate * g, params, grads), loss

  return loop.scan_steps(step, params, jnp.full(_UPDATES, _RATE))[0]


def draw(
  network: Network,
  seed: int,
  *,
  images: Float[np.ndarray, "N D"] | None = None,
  labels: Int[np.ndarray, " N"] | None = None,
  l2: float | None = 0.01,
  initializer: str = "xavier",
  moved: float = 0.1,
  trained: bool = False,
) -> check.Subject:
  """A network at a point, a function of its arguments.

  Args:
    images, labels: to draw the batch from; by default random images with a
      third of the pixels 0, and random labels.
    moved: sd of what is added to the initial weights and biases; 0 leaves
      biases at 0.
    trained: after 100 updates on the batch.
  """
  rng = np.random.default_rng(seed)
  count = network.batch_size + network.padding
  if images is None or labels is None:
    images = rng.random((count, network.sizes[0]))
    images *= rng.random(images.shape) > 1 / 3
    labels = rng.integers(0, network.sizes[-1], count)
  chosen = rng.choice(len(labels), count, replace=False)
  with precision.float64():
    batch = objective.Batch(
      jnp.asarray(images[chosen], jnp.float64),
      jnp.asarray(labels[chosen], jnp.int32),
      jnp.asarray(np.arange(count) < network.batch_size, jnp.float64),
    )
    params = mlp.init(
      jax.random.key(seed), network.sizes, initializer, jnp.float64
    )
    params = jax.tree.map(
      lambda w: w + moved * rng.standard_normal(w.shape), params
    )
    if trained:
      params = _trained(params, network.activations, batch)
    masks = None
    if network.dropout_rate:
      key = jax.random.key(seed + 1)
      masks = mlp.dropout_masks(key, params, count, network.dropout_rate)
  return check.Subject(params, network.activations, batch, l2, masks)


def fault_records(network: Network, seed: int, **how: Any) -> list[Record]:
  """A record for every fault that is one at this network, drawn so.

  Returns:
    "fault"; "differs", the tensors truly wrong; "verdict", "distance" and
    "found" of the check; "caught"; "placed", just those tensors found;
    "named", the right cause (`Fault.named_in`); "named_alone", without the
    list of known mistakes; "modelled", "nameless" of the fault; and
    "check_grads", by setting whether that rejects it.
  """
  subject = draw(network, seed, **how)
  names = network.activations
  records, gradients = [], []
  # One scope for all: what jax has traced in one is lost with it.
  with precision.float64():
    right = subject.gradient(check.value_and_grad_of("hand", names))
    known = {
      name: mistake(subject.params, *subject.args)
      for name, mistake in catalogue.known_mistakes(names).items()
    }
    for name, fault in catalogue.catalogue(names).items():
      _, faulty = fault.value_and_grad(names)(subject.params, *subject.args)
      differs = catalogue.differing(right, faulty)
      if not differs:
        continue
      report = subject.check(faulty, candidates=known)
      gradients.append(faulty)
      records.append(
        {
          "network": str(network),
          "seed": seed,
          "fault": name,
          "differs": list(differs),
          "verdict": str(report.verdict),
          "distance": report.distance,
          "found": list(report.wrong_tensors),
          "caught": report.verdict is gradcheck.Verdict.WRONG,
          "placed": set(report.wrong_tensors) == set(differs),
          "named": fault.named_in(report),
          "named_alone": fault.named_in(report, candidates=False),
          "modelled": fault.modelled,
          "nameless": not fault.cause,
        }
      )
  peer = check_grads.rejections(subject, gradients)
  return [
    record | {"check_grads": rejected}
    for record, rejected in zip(records, peer, strict=True)
  ]


def correct_record(network: Network, seed: int) -> Record:
  """One random correct network: its "verdict" and that of "check_grads".

  The seed also draws the L2 strength, the initial weights and
  whether the network was trained before.
  """
  rng = np.random.default_rng([seed, 1])
  how: Record = {
    "l2": None if rng.random() < 0.25 else float(10 ** rng.uniform(-4, -1)),
    "initializer": str(rng.choice(["xavier", "he", "normal"])),
    "moved": float(rng.choice([0.0, 0.1])),
    "trained": bool(rng.integers(2)),
  }
  subject = draw(network, seed, **how)
  seam = check.value_and_grad_of("hand", network.activations)
  with precision.float64():
    report = subject.check(check.gradient_of(seam))
    right = subject.gradient(seam)
  (rejected,) = check_grads.rejections(subject, [right])
  return {
    "network": str(network),
    "seed": seed,
    "batch_size": network.batch_size,
    "padding": network.padding,
    **how,
    "dropout": network.dropout_rate,
    "verdict": str(report.verdict),
    "reason": report.reason,
    "distance": report.distance,
    "check_grads": rejected,
  }


def correct_cases(
  count: int, per_network: int, first_seed: int
) -> Sequence[tuple[Network, int]]:
  """(network, seed) of so many correct cases, a network drawn for each few."""
  return [
    (
      random_network(np.random.default_rng([first_seed, i // per_network])),
      first_seed + i,
    )
    for i in range(count)
  ]


def fault_cases(
  chapter: int,
  small: int,
  first_seed: int,
  networks: Sequence[Network] = SMALL,
) -> Sequence[tuple[Network, int]]:
  """(network, seed), each seed once: the chapter's, and of each small one."""
  cases = [CHAPTER] * chapter + [n for n in networks for _ in range(small)]
  return [(n, first_seed + i) for i, n in enumerate(cases)]
