"""What the gradient check says of right gradients and of planted mistakes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.foreign import layers
from mnist_jax import gradcheck

EXCESS = 0.05
# A tensor whose gradient is smaller than this part of the largest may be zero
# but for rounding, as that of a bias before a normalisation.
SMALLEST = 1e-3
RIGHT, UNDECIDED, REFUSED, WRONG = "right", "undecided", "refused", "WRONG"
COLUMNS = (
  *("library", "layer", "precision", "gradient", "expected", "said"),
  *("judgement", "seconds", "reason"),
)


def loss_of(network: layers.Network) -> Callable[[Any, Any, Any], Any]:
  """The mean squared error, as one writes it down."""

  def loss_fn(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((network.apply(params, x) - y) ** 2)

  return loss_fn


def planted(grads: Any) -> dict[str, tuple[int, Any]]:
  """By name of the mistake, which tensor has it, and the gradient with it."""
  leaves, tree = jax.tree.flatten(grads)
  sizes = [float(jnp.abs(leaf.astype(jnp.float32)).max()) for leaf in leaves]
  largest = int(np.argmax(sizes))
  seen = [i for i, size in enumerate(sizes) if size > SMALLEST * max(sizes)]
  smallest = min(seen, key=lambda i: sizes[i])

  def changed(at: int, factor: float) -> tuple[int, Any]:
    new = [
      (leaf * factor).astype(leaf.dtype) if i == at else leaf
      for i, leaf in enumerate(leaves)
    ]
    return at, jax.tree.unflatten(tree, new)

  return {
    f"{100 * EXCESS:g} % too much": changed(largest, 1 + EXCESS),
    "left out": changed(smallest, 0.0),
  }


def judged(said: str, expected: str) -> str:
  """RIGHT; UNDECIDED, where the check says that it cannot see; or WRONG."""
  if said == expected:
    return RIGHT
  if said in ("rounding-limited", "kink"):
    return UNDECIDED
  return WRONG


def verdict(*args: Any, **keywords: Any) -> tuple[str, str]:
  """What a check says, with the tensors it names, and why."""
  try:
    report = gradcheck.check(*args, **keywords)
  except gradcheck.GradcheckError as error:
    return REFUSED, str(error)
  except Exception as error:  # a traceback is an answer too, and no good one
    return "a traceback", f"{type(error).__name__}: {error}"
  named = " ".join(report.wrong_tensors)
  return f"{report.verdict} {named}".strip(), report.reason


def rows(
  library: str, kind: str, precision: str, network: layers.Network
) -> list[dict[str, Any]]:
  """A row for the right gradient, given in two ways, and for each mistake."""
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.normal(keys[0], layers.SHAPES[kind])
  shape = jax.eval_shape(network.apply, network.params, x).shape
  y = jax.random.normal(keys[1], shape)
  loss_fn = loss_of(network)
  grads = jax.jit(jax.grad(loss_fn))(network.params, x, y)
  paths = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(network.params)
  ]
  given = {
    "jax.grad": ("correct", jax.grad(loss_fn)),
    "values of jax.grad": ("correct", grads),
  }
  for name, (at, wrong) in planted(grads).items():
    given[name] = (f"wrong {paths[at]}", wrong)
  found = []
  for name, (expected, gradient) in given.items():
    begun = time.perf_counter()
    said, reason = verdict(loss_fn, network.params, gradient, args=(x, y))
    answer = REFUSED if said == REFUSED else judged(said, expected)
    seconds = round(time.perf_counter() - begun, 2)
    values = (library, kind, precision, name, expected, said, answer)
    reason = " ".join(reason.split())[:500]
    found.append(dict(zip(COLUMNS, (*values, seconds, reason), strict=True)))
  return found
