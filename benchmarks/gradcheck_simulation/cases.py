"""What the simulation checks: losses at drawn points, and mistakes.

Everything drawn reaches the compiled programs as data, so that one program
serves all checks of a family, precision and shape.

Shapes: N terms of a loss, K, D, H, C sizes of layers.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax import runtime

Tree = Any
Rng = np.random.Generator

SEED = 13
RIGHT = "right"  # the kind of a gradient without a mistake
SIZES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Kind and size. "entry": one entry off by that part of the root mean square of
# its tensor's gradient; "tensor", "all": one tensor, or every entry, scaled by
# 1 + size or 1 - size; "dropped": one tensor 0; "sign": one tensor reversed.
MISTAKES = (
  *((kind, size) for kind in ("entry", "tensor", "all") for size in SIZES),
  ("dropped", 1.0),
  ("sign", 2.0),
)
_CYCLE = (*MISTAKES, *[(RIGHT, 0.0)] * 17)  # 17 of 40 are right
_SMALLEST, _LARGEST = -12, 9  # log10 of an entry's size


class Precision(NamedTuple):
  """In what a loss is computed.

  Attributes:
    stored: The dtype of parameters, data and gradient values.
    computed: The dtype into which the loss casts them; None for none.
    offset: log10 of the largest constant in the loss, in units of the rest.
    fastest: log10 of how many bends lie within a parameter's size.
    nearest: log10 of the nearest kink's distance.
    values_only: Whether the gradient is always handed over as numbers.
  """

  stored: Any
  computed: Any
  offset: float
  fastest: float
  nearest: float
  values_only: bool = False

  def scope(self) -> contextlib.AbstractContextManager[None]:
    """Where arrays keep the stored dtype."""
    if self.stored == np.float64:
      return runtime.float64()
    return contextlib.nullcontext()


PRECISIONS = {
  "float64": Precision(np.float64, None, 10, 4, -9),
  # Computed by jax.grad in float32, of a loss that computes in float64 when
  # it is handed float64 parameters.
  "float32 values": Precision(np.float32, None, 4, 2, -3.5, True),
  "float32 loss": Precision(np.float32, jnp.float32, 4, 2, -3.5),
  "bfloat16 loss": Precision(np.float32, jnp.bfloat16, 4, 0.5, -0.7),
}


def _power(rng: Rng, low: float, high: float) -> float:
  return float(10 ** rng.uniform(low, high))


def _draw_least_squares(rng: Rng, shape: Any, precision: Precision) -> Any:
  n, k = shape
  x = rng.normal(size=(n, k))
  point = {"b": rng.normal(), "w": rng.normal(size=k)}
  residuals = _power(rng, -3, 4) * rng.normal(size=n)
  return point, {"x": x, "y": x @ point["w"] + point["b"] + residuals}


def _least_squares(q: Tree, data: Tree) -> Any:
  return (data["x"] @ q["w"] + q["b"] - data["y"]) ** 2


def _draw_network(rng: Rng, shape: Any, precision: Precision) -> Any:
  n, d, h = shape
  point = {
    "b1": rng.normal(size=h),
    "w1": rng.normal(size=(d, h)) * _power(rng, -1, 0.5),
    "w2": rng.normal(size=h),
  }
  return point, {"x": rng.normal(size=(n, d)), "y": rng.normal(size=n)}


def _network(q: Tree, data: Tree) -> Any:
  hidden = jnp.tanh(data["x"] @ q["w1"] + q["b1"])
  return (hidden @ q["w2"] - data["y"]) ** 2


def _draw_softmax(rng: Rng, shape: Any, precision: Precision) -> Any:
  n, d, c = shape
  point = {"b": rng.normal(size=c), "w": rng.normal(size=(d, c))}
  labels = np.eye(c)[rng.integers(0, c, n)]
  return point, {"x": rng.normal(size=(n, d)), "y": labels}


def _softmax(q: Tree, data: Tree) -> Any:
  logs = jax.nn.log_softmax(data["x"] @ q["w"] + q["b"])
  return -jnp.sum(data["y"] * logs, axis=1)


def _draw_waves(rng: Rng, shape: Any, precision: Precision) -> Any:
  (k,) = shape
  point = {"amplitude": rng.normal(size=k), "phase": rng.normal(size=k)}
  rate = np.full(k, _power(rng, 0, precision.fastest))
  return point, {"rate": rate, "shift": rng.uniform(0, 2 * np.pi, k)}


def _waves(q: Tree, data: Tree) -> Any:
  return q["amplitude"] * jnp.sin(data["rate"] * q["phase"] + data["shift"])


def _draw_kinks(rng: Rng, shape: Any, precision: Precision) -> Any:
  n, k = shape
  point, x = {"w": rng.normal(size=k)}, rng.normal(size=(n, k)) / k**0.5
  beside = rng.normal(size=n)
  near = rng.random(n) < 0.3
  beside[near] = np.sign(beside[near]) * _power(rng, precision.nearest, 0)
  return point, {"x": x, "y": rng.normal(size=n), "at": x @ point["w"] - beside}


def _kinks(q: Tree, data: Tree) -> Any:
  units = jax.nn.relu(data["x"] @ q["w"] - data["at"])
  return data["y"] * units + jnp.mean(q["w"] ** 2)


def _draw_valley(rng: Rng, shape: Any, precision: Precision) -> Any:
  (k,) = shape
  return {"w": 1 + _power(rng, -3, 0) * rng.normal(size=k)}, {}


def _valley(q: Tree, data: Tree) -> Any:
  x, y = q["w"][:-1], q["w"][1:]  # Rosenbrock's, in a chain
  return 100 * (y - x**2) ** 2 + (1 - x) ** 2


class Family(NamedTuple):
  """Losses of one form, the mean of `terms(q, data)`, at q of order 1."""

  terms: Callable[[Tree, Tree], Any]
  draw: Callable[[Rng, Any, Precision], tuple[Tree, Tree]]  # q and data
  shapes: tuple[tuple[int, ...], ...]


FAMILIES = {
  "least squares": Family(
    _least_squares, _draw_least_squares, ((12, 5), (40, 24))
  ),
  "tanh network": Family(_network, _draw_network, ((6, 3, 2), (12, 6, 6))),
  "softmax": Family(_softmax, _draw_softmax, ((8, 3, 2), (16, 6, 6))),
  "waves": Family(_waves, _draw_waves, ((4,), (24,))),
  "kinks": Family(_kinks, _draw_kinks, ((8, 5), (24, 30))),
  "valley": Family(_valley, _draw_valley, ((6,), (40,))),
}


class Programs(NamedTuple):
  """Jitted functions of one family in one precision, of any shape.

  Attributes:
    loss: (params, data, mistake) -> the loss; the mistake is not read.
    right, given: the same -> its gradient by `jax.grad`, and with the mistake.
    with_given: (params, gradient, data, mistake) -> the loss, whose derivative
      in params is that gradient.
    at_many: the loss at params with a leading axis.
  """

  loss: Callable[..., Any]
  right: Callable[..., Any]
  given: Callable[..., Any]
  with_given: Callable[..., Any]
  at_many: Callable[..., Any]


@functools.cache
def programs(family: str, precision: str) -> Programs:
  """Made once in a process, so that each is compiled once for a shape."""
  terms, computed = FAMILIES[family].terms, PRECISIONS[precision].computed

  def low(x: Any) -> Any:
    return x if computed is None else x.astype(computed)

  @jax.jit
  def loss(params: Tree, data: Tree, mistake: Tree) -> Any:
    q = jax.tree.map(lambda p, s: low(p) / low(s), params, data["sizes"])
    each = terms(q, jax.tree.map(low, data["inputs"]))
    mean = jnp.mean(each.astype(jnp.promote_types(each.dtype, jnp.float32)))
    return data["unit"] * mean + data["offset"] - data["back"]

  @jax.jit
  def given(params: Tree, data: Tree, mistake: Tree) -> Tree:
    return jax.tree.map(
      lambda g, factor, extra: g * factor + extra * _size(g),
      jax.grad(loss)(params, data, mistake),
      mistake["factor"],
      mistake["extra"],
    )

  @jax.custom_vjp
  def with_given(params: Tree, grads: Tree, data: Tree, mistake: Tree) -> Any:
    return loss(params, data, mistake)

  def forward(params: Tree, grads: Tree, data: Tree, mistake: Tree) -> Any:
    return loss(params, data, mistake), grads

  def backward(grads: Tree, cotangent: Any) -> Any:
    return jax.tree.map(lambda g: cotangent * g, grads), None, None, None

  with_given.defvjp(forward, backward)
  return Programs(
    loss,
    jax.jit(jax.grad(loss)),
    given,
    jax.jit(with_given),
    jax.jit(jax.vmap(loss, in_axes=(0, None, None))),
  )


def _size(gradient: Any) -> Any:
  """Its root mean square; no square leaves the range of float32."""
  largest = jnp.maximum(jnp.max(jnp.abs(gradient)), 1e-37)
  return largest * jnp.sqrt(jnp.mean((gradient / largest) ** 2))


class Case(NamedTuple):
  """One check; its trees are of NumPy arrays in the precision's dtype."""

  family: str
  precision: str
  params: Tree
  data: Tree
  mistake: Tree
  told: dict[str, Any]  # its kind, size and what was drawn


def draw(family: str, precision: str, shape: int, number: int) -> Case:
  """The check of a number, 0 and up; of 40 in turn 17 have no mistake.

  Args:
    shape: The index of the family's shape.
  """
  where = [list(FAMILIES).index(family), list(PRECISIONS).index(precision)]
  rng = np.random.default_rng([SEED, *where, shape, number])
  order = np.random.default_rng([SEED, *where, shape]).permutation(len(_CYCLE))
  kind, size = _CYCLE[order[number % len(_CYCLE)]]
  its = PRECISIONS[precision]
  made = FAMILIES[family]
  q, inputs = made.draw(rng, made.shapes[shape], its)
  mode = str(rng.choice(["one", "tree", "leaf", "entry"]))
  sizes = _sizes(rng, q, mode)
  unit = _power(rng, -9, 9) if rng.random() < 0.5 else 1.0
  noise = str(rng.choice(["none", "none", "constant", "cancelled"]))
  ratio = 0.0 if noise == "none" else _power(rng, 1, its.offset)
  handed = str(rng.choice(["values", "function"]))
  mistake = _mistake(rng, q, kind, size)

  def stored(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: np.asarray(x, its.stored), tree)

  params = stored(jax.tree.map(np.multiply, q, sizes))
  data = stored(
    {"inputs": inputs, "sizes": sizes, "unit": unit, "offset": 0, "back": 0}
  )
  mistake = stored(mistake)
  with its.scope():
    value = programs(family, precision).loss(params, data, mistake)
  offset = stored(ratio * abs(float(value)))
  data["offset"] = offset
  data["back"] = offset if noise == "cancelled" else stored(0)
  told = {
    "family": family,
    "precision": precision,
    "shape": shape,
    "number": number,
    "kind": kind,
    "size": size,
    "noise": noise,
    "noise_ratio": ratio,
    "sizes": mode,
    "unit": unit,
    "handed": "values" if its.values_only else handed,
  }
  return Case(family, precision, params, data, mistake, told)


def _sizes(rng: Rng, q: Tree, mode: str) -> Tree:
  """What the parameters are multiplied with, and the loss divides by.

  1 ("one"), the same in all leaves ("tree"), in all entries of a leaf
  ("leaf"), or another in each entry ("entry").
  """
  common = _power(rng, _SMALLEST, _LARGEST)

  def of(leaf: Any) -> Any:
    shape = np.shape(leaf)
    if mode == "entry":
      return 10 ** rng.uniform(_SMALLEST, _LARGEST, shape)
    own = _power(rng, _SMALLEST, _LARGEST)
    return np.full(shape, {"one": 1.0, "tree": common, "leaf": own}[mode])

  return jax.tree.map(of, q)


def _mistake(rng: Rng, q: Tree, kind: str, size: float) -> Tree:
  """Factors of the gradient, and what is added in units of a tensor's size."""
  leaves, treedef = jax.tree.flatten(q)
  factor = [np.ones(np.shape(leaf)) for leaf in leaves]
  extra = [np.zeros(np.shape(leaf)) for leaf in leaves]
  leaf = int(rng.integers(len(leaves)))
  signed = size * (1 if size == 1 else rng.choice([-1, 1]))
  if kind == "entry":
    extra[leaf].ravel()[rng.integers(extra[leaf].size)] = signed
  elif kind == "all":
    factor = [f * (1 + signed) for f in factor]
  elif kind != RIGHT:
    by = {"tensor": 1 + signed, "dropped": 0.0, "sign": -1.0}[kind]
    factor[leaf] = factor[leaf] * by
  return {
    "factor": jax.tree.unflatten(treedef, factor),
    "extra": jax.tree.unflatten(treedef, extra),
  }
