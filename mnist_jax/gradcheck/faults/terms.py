"""What can go wrong with each term of the chapter's backward.

Rows for the catalogue of `gradient_faults`, by the term of section 12.2 they
spoil: (suffix of the name, what is computed instead, the change, the cause
that a diagnosis should name). In a text {} is the right term and m the number
of examples; a cause is a regular expression, "" or MODELLED.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mnist_jax.gradcheck.faults.backward import Change, Point
from mnist_jax.model import mlp

_SATURATED = 4.0  # |z| from where on clipped derivatives are lost
_ANY_FACTOR = r"(given =|L2 term is) [-\d.e+]+ (x numeric|times)"
MODELLED = (
  "modelled"  # in place of a cause: only who knows the network can tell
)

Row = tuple[str, str, Change, str]  # suffix, text, change, cause


def scaled(factor: float) -> Change:
  """The change that multiplies a term, of any shape, by the factor."""
  return lambda value, at, i, *_: factor * value


def short(value: Array, *_: Any) -> Array:
  """The change that rounds a term, of any shape, to float32."""
  return value.astype(jnp.float32).astype(value.dtype)


def _strongest(value: Array, axis: int) -> Array:
  """The index along an axis at which the tensor is largest."""
  others = tuple(a for a in range(value.ndim) if a != axis)
  return jnp.argmax(jnp.abs(value).sum(axis=others))


def _without(axis: int) -> Change:
  """Zero at one index of an axis, where it shows most."""

  def change(value: Array, *_: Any) -> Array:
    kept = jnp.arange(value.shape[axis]) != _strongest(value, axis)
    return value * (kept if axis == value.ndim - 1 else kept[:, None])

  return change


def _entry(value: Array, *_: Any) -> Array:
  largest = jnp.argmax(jnp.abs(value).ravel())
  factor = jnp.where(jnp.arange(value.size) == largest, 1.01, 1.0)
  return value * factor.astype(value.dtype).reshape(value.shape)


# What can go wrong with any finished term.
ANY_TERM: tuple[Row, ...] = (
  ("dropped", "0", scaled(0.0), "zero everywhere|L2 term is missing"),
  ("sign", "-{}", scaled(-1.0), "wrong sign"),
  ("doubled", "2 {}", scaled(2.0), "doubled"),
  ("halved", "{} / 2", scaled(0.5), "halved"),
  (
    "summed",
    "m {}: the sum over the examples, not the mean",
    lambda v, at, i, *_: v * at.examples,
    "1/B missing",
  ),
  (
    "mean_twice",
    "{} / m: 1/m is in dZ already",
    lambda v, at, i, *_: v / at.examples,
    "1/B applied twice",
  ),
  ("float32", "{} rounded to float32", short, "float32"),
  ("entry", "{} with one entry 1 % too large", _entry, "only (entry|index)"),
  (
    "shifted",
    "{} with its rows moved on by one",
    lambda v, *_: jnp.roll(v, 1, 0),
    "shifted by 1 along axis 0|reversed|stands there",
  ),
)
_DW: tuple[Row, ...] = (
  (
    "transposed",
    "dZ^T A read in the shape of W",
    lambda v, *_: v.T.reshape(v.shape),
    "transposed",
  ),
  (
    "flipped",
    "{} with its columns in reverse",
    lambda v, *_: v[:, ::-1],
    "reversed along axis 1",
  ),
  ("row", "{} without one input's row", _without(0), "of axis 0"),
  ("column", "{} without one unit's column", _without(1), "of axis 1"),
  (
    "one_example",
    "A^T dZ of the first example alone",
    lambda v, at, i, dz: at.residuals.inputs[i][:1].T @ dz[:1],
    "",
  ),
  ("clipped", "{} clipped", lambda v, *_: _clipped(v), ""),
)


def _clipped(value: Array) -> Array:
  limit = 0.3 * jnp.abs(value).max()
  return jnp.clip(value, -limit, limit)


DB: tuple[Row, ...] = (
  (
    "one_example",
    "dZ of the first example alone: the text's dB = dZ",
    lambda v, at, i, dz: dz[0],
    "",
  ),
)


def dw(k: int) -> Iterator[Row]:
  """Of dW of layer k."""
  yield from _DW
  if k == 1:
    yield (
      "pixels",
      "X^T dZ1 with pixels of 0 to 255",
      scaled(255.0),
      _ANY_FACTOR,
    )
  else:
    yield (
      "of_z",
      f"Z{k - 1}^T dZ{k}: Z in place of A",
      lambda v, at, i, dz: at.z(i - 1).T @ dz,
      MODELLED,
    )
    yield (
      "before_dropout",
      f"A{k - 1}^T dZ{k} with A{k - 1} before dropout",
      lambda v, at, i, dz: at.residuals.outputs[i - 1].T @ dz,
      MODELLED,
    )


def da(k: int) -> Iterator[Row]:
  """Of dA of the layer before, through W of layer k."""
  yield (
    "untransposed",
    f"dZ{k} W{k} with W read in the shape of W^T",
    lambda v, at, i, dz: dz @ at.params[i].w.reshape(dz.shape[1], -1),
    MODELLED,
  )
  yield (
    "unweighted",
    f"dZ{k} 1: W{k} left out",
    lambda v, at, i, dz: jnp.broadcast_to(
      dz.sum(axis=1, keepdims=True), v.shape
    ),
    MODELLED,
  )
  yield (
    "updated_weights",
    f"dZ{k} (W{k} - 0.2 dW{k})^T: W{k} after its update",
    lambda v, at, i, dz: (
      dz @ (at.params[i].w - 0.2 * at.residuals.inputs[i].T @ dz).T
    ),
    "",
  )
  yield "sign", f"-dZ{k} W{k}^T", scaled(-1.0), "wrong sign"
  yield "doubled", f"2 dZ{k} W{k}^T", scaled(2.0), "doubled"
  yield "unit", f"dZ{k} W{k}^T without one unit", _without(1), "only index"
  yield (
    "example",
    f"dZ{k} W{k}^T without one example",
    _without(0),
    "",
  )


def _inner(flip: Callable[[str, Array], Array]) -> Change:
  """A change of the derivative that depends on the activation's name."""
  return lambda v, at, i: flip(
    at.activations[i], at.residuals.outputs[i]
  ).astype(v.dtype)


_FIRST_FACTOR = {
  "sigmoid": ("A", lambda a: a),
  "tanh": ("1 - A", lambda a: 1 - a),
  "relu": ("A", lambda a: a),
}
_INNER_SIGN = {
  "sigmoid": ("A (1 + A)", lambda a: a * (1 + a)),
  "tanh": ("1 + A A", lambda a: 1 + a * a),
  "relu": ("[A <= 0]", lambda a: a <= 0),
}


def derivative(name: str) -> Iterator[Row]:
  """The mistakes in an activation's derivative [B, H], of section 12.2.

  Args:
    name: a key of `mlp.DERIVATIVES`.
  """
  modelled = MODELLED
  yield "missing", "1", lambda v, *_: jnp.ones_like(v), modelled
  for other in mlp.DERIVATIVES:
    if other != name:
      yield (
        f"of_{other}",
        f"{other}' in place of {name}'",
        lambda v, at, i, other=other: mlp.DERIVATIVES[other](
          at.residuals.outputs[i]
        ).astype(v.dtype),
        modelled,
      )
  yield "twice", f"{name}' applied twice", lambda v, *_: v * v, modelled
  yield (
    "at_z",
    f"{name}' with Z put where A belongs",
    lambda v, at, i: mlp.DERIVATIVES[name](at.z(i)).astype(v.dtype),
    modelled,
  )
  yield (
    "after_dropout",
    f"{name}' of A after dropout",
    lambda v, at, i: mlp.DERIVATIVES[name](at.residuals.inputs[i + 1]),
    modelled,
  )
  text, first = _FIRST_FACTOR[name]
  yield "factor_lost", text, _inner(lambda _, a: first(a)), modelled
  text, inner = _INNER_SIGN[name]
  yield "inner_sign", text, _inner(lambda _, a: inner(a)), modelled
  yield "sign", f"-{name}'", scaled(-1.0), "wrong sign"
  yield "doubled", f"2 {name}'", scaled(2.0), "doubled"
  yield (
    "saturated",
    f"{name}', but 0 where |Z| > {_SATURATED:g}",
    lambda v, at, i: v * (jnp.abs(at.z(i)) <= _SATURATED),
    modelled,
  )
  yield "float32", f"{name}' in float32", short, "float32"


MASK: tuple[Row, ...] = (
  ("missing", "dA without the mask", lambda v, at, i, da: da, MODELLED),
  (
    "unscaled",
    "dA times 0 or 1, without 1 / keep",
    lambda v, at, i, da: (
      v if at.residuals.masks is None else da * (at.residuals.masks[i] > 0)
    ),
    MODELLED,
  ),
  (
    "twice",
    "dA times the mask, twice",
    lambda v, at, i, da: (
      v if at.residuals.masks is None else v * at.residuals.masks[i]
    ),
    MODELLED,
  ),
  (
    "shifted",
    "dA times the mask of the next example",
    lambda v, at, i, da: (
      v
      if at.residuals.masks is None
      else da * jnp.roll(at.residuals.masks[i], 1, 0)
    ),
    MODELLED,
  ),
)


def _one_hot(at: Point, shift: int = 0) -> Array:
  classes = at.logits.shape[1]
  labels = (at.batch.labels + shift) % classes
  return jax.nn.one_hot(labels, classes, dtype=at.logits.dtype)


def residual(k: int) -> Iterator[Row]:
  """The mistakes in A_k - Y [B, C], dZ of softmax with cross-entropy (12.2).

  Args:
    k: the number of the last layer, for the texts.
  """
  a, modelled = f"A{k}", MODELLED

  def softmax(at: Point, axis: int = 1) -> Array:
    return jax.nn.softmax(at.logits, axis=axis)

  yield "sign", f"Y - {a}", scaled(-1.0), "wrong sign"
  yield "doubled", f"2 ({a} - Y)", scaled(2.0), "doubled"
  yield (
    "log2",
    f"({a} - Y) / ln 2: of log2, where J has ln",
    scaled(float(1 / np.log(2))),
    _ANY_FACTOR,
  )
  yield (
    "of_logits",
    f"Z{k} - Y: softmax left out",
    lambda v, at, _: at.logits - _one_hot(at),
    modelled,
  )
  yield (
    "of_sigmoid",
    f"sigmoid(Z{k}) - Y",
    lambda v, at, _: jax.nn.sigmoid(at.logits) - _one_hot(at),
    modelled,
  )
  yield "without_y", a, lambda v, at, _: softmax(at), modelled
  yield (
    "of_entropy",
    f"-Y / {a}: softmax's own derivative left out",
    lambda v, at, _: -_one_hot(at) / softmax(at),
    modelled,
  )
  yield (
    "times_derivative",
    f"({a} - Y) {a} (1 - {a})",
    lambda v, at, _: v * softmax(at) * (1 - softmax(at)),
    modelled,
  )
  yield (
    "squared_error",
    "that of squared error",
    lambda v, at, _: (
      softmax(at) * (v - (v * softmax(at)).sum(axis=1, keepdims=True))
    ),
    modelled,
  )
  yield (
    "next_label",
    f"{a} - Y of labels that are one too large",
    lambda v, at, _: softmax(at) - _one_hot(at, 1),
    modelled,
  )
  yield (
    "wrong_axis",
    "softmax over the batch - Y",
    lambda v, at, _: softmax(at, 0) - _one_hot(at),
    modelled,
  )
  yield "class", f"{a} - Y without one class", _without(1), "only index"


SHARES: tuple[Row, ...] = (
  ("missing", "1, not 1/m", lambda v, at, _: v * at.examples, "1/B missing"),
  (
    "twice",
    "1/m^2",
    lambda v, at, _: v / at.examples,
    "1/B applied twice",
  ),
  (
    "of_classes",
    "1/C, not 1/m",
    lambda v, at, _: v * at.examples / at.logits.shape[1],
    _ANY_FACTOR,
  ),
  (
    "m_less_1",
    "1/(m - 1), not 1/m",
    lambda v, at, _: v * at.examples / jnp.maximum(at.examples - 1, 0.5),
    _ANY_FACTOR,
  ),
  (
    "padding",
    "1/B, and padding counted as examples",
    lambda v, at, _: jnp.full_like(v, 1 / v.size),
    "",
  ),
  (
    "one_less",
    "1/m, but one example left out",
    lambda v, at, _: v.at[0].set(0),
    "",
  ),
  (
    "one_twice",
    "1/m, but one example counted twice",
    lambda v, at, _: v.at[0].multiply(2),
    "",
  ),
)
L2: tuple[Row, ...] = (
  ("missing", "0", scaled(0.0), "the L2 term is missing"),
  ("doubled", "2 l2 W", scaled(2.0), "the L2 term is 2 times"),
  ("halved", "l2 W / 2", scaled(0.5), "the L2 term is 0.5 times"),
  ("sign", "-l2 W", scaled(-1.0), "the L2 term is -1 times"),
  (
    "mean",
    "l2 W / m",
    lambda v, at, *_: v / at.examples,
    "the L2 term is .*1/B applied twice",
  ),
  (
    "l1",
    "l2 sign(W)",
    lambda v, at, i, l2: l2 * jnp.sign(at.params[i].w),
    MODELLED,
  ),
)
