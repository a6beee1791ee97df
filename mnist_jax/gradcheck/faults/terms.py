"""What can go wrong with each term of the chapter's backward.

Rows for the catalogue, by the term of section 12.2 that they spoil. In a text
{} is the right term and m the number of examples.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mnist_jax.gradcheck.faults.backward import Change, Point
from mnist_jax.model import mlp

_SATURATED = 4.0  # |z| from where on clipped derivatives are lost
_ANY_FACTOR = r"(given =|L2 term is) [-\d.e+]+ (x numeric|times)"
MODELLED = "modelled"


class Row(NamedTuple):
  """One thing that can go wrong with a term.

  Attributes:
    suffix: The end of the fault's name.
    text: What is computed instead.
    change: What changes the right term into that.
    cause: A regular expression of the cause that a diagnosis should name, or
      "" where none can be told. By default only who knows the network can.
  """

  suffix: str
  text: str
  change: Change
  cause: str = MODELLED


def scaled(factor: float) -> Change:
  """The change that multiplies a term, of any shape, by the factor."""
  return lambda value, at, i, *_: factor * value


def short(value: Array, *_: Any) -> Array:
  """The change that rounds a term, of any shape, to float32."""
  return value.astype(jnp.float32).astype(value.dtype)


def _summed(value: Array, at: Point, *_: Any) -> Array:
  return value * at.examples


def _mean_again(value: Array, at: Point, *_: Any) -> Array:
  return value / at.examples


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


def _clipped(value: Array, *_: Any) -> Array:
  limit = 0.3 * jnp.abs(value).max()
  return jnp.clip(value, -limit, limit)


def _sign_and_size(right: str) -> tuple[Row, Row]:
  """What can go wrong with any term, given its text."""
  return (
    Row("sign", f"-{right}", scaled(-1.0), "wrong sign"),
    Row("doubled", f"2 {right}", scaled(2.0), "doubled"),
  )


# What can go wrong with any finished term.
ANY_TERM: tuple[Row, ...] = (
  Row("dropped", "0", scaled(0.0), "zero everywhere|L2 term is missing"),
  *_sign_and_size("{}"),
  Row("halved", "{} / 2", scaled(0.5), "halved"),
  Row(
    "summed",
    "m {}: the sum over the examples, not the mean",
    _summed,
    "1/B missing",
  ),
  Row(
    "mean_twice",
    "{} / m: 1/m is in dZ already",
    _mean_again,
    "1/B applied twice",
  ),
  Row("float32", "{} rounded to float32", short, "float32"),
  Row("entry", "{} with one entry 1 % too large", _entry, "only (entry|index)"),
  Row(
    "shifted",
    "{} with its rows moved on by one",
    lambda v, *_: jnp.roll(v, 1, 0),
    "shifted by 1 along axis 0|reversed|stands there",
  ),
)
_DW: tuple[Row, ...] = (
  Row(
    "transposed",
    "dZ^T A read in the shape of W",
    lambda v, *_: v.T.reshape(v.shape),
    "transposed",
  ),
  Row(
    "flipped",
    "{} with its columns in reverse",
    lambda v, *_: v[:, ::-1],
    "reversed along axis 1",
  ),
  Row("row", "{} without one input's row", _without(0), "of axis 0"),
  Row("column", "{} without one unit's column", _without(1), "of axis 1"),
  Row(
    "one_example",
    "A^T dZ of the first example alone",
    lambda v, at, i, dz: at.residuals.inputs[i][:1].T @ dz[:1],
    "",
  ),
  Row("clipped", "{} clipped", _clipped, ""),
)
DB: tuple[Row, ...] = (
  Row(
    "one_example",
    "dZ of the first example alone: the text's dB = dZ",
    lambda v, at, i, dz: dz[0],
    "",
  ),
)


def dw(k: int) -> Iterator[Row]:
  """The mistakes in dW [F, J] of the layer that the chapter numbers k."""
  yield from _DW
  if k == 1:
    text = "X^T dZ1 with pixels of 0 to 255"
    yield Row("pixels", text, scaled(255.0), _ANY_FACTOR)
  else:
    yield Row(
      "of_z",
      f"Z{k - 1}^T dZ{k}: Z in place of A",
      lambda v, at, i, dz: at.z(i - 1).T @ dz,
      MODELLED,
    )
    yield Row(
      "before_dropout",
      f"A{k - 1}^T dZ{k} with A{k - 1} before dropout",
      lambda v, at, i, dz: at.residuals.outputs[i - 1].T @ dz,
      MODELLED,
    )


def da(k: int) -> Iterator[Row]:
  """The mistakes in dA [B, F] of the layer before, through W of layer k."""
  right = f"dZ{k} W{k}^T"
  yield Row(
    "untransposed",
    f"dZ{k} W{k} with W read in the shape of W^T",
    lambda v, at, i, dz: dz @ at.params[i].w.reshape(dz.shape[1], -1),
  )
  yield Row(
    "unweighted",
    f"dZ{k} 1: W{k} left out",
    lambda v, at, i, dz: jnp.broadcast_to(
      dz.sum(axis=1, keepdims=True), v.shape
    ),
  )
  yield Row(
    "updated_weights",
    f"dZ{k} (W{k} - 0.2 dW{k})^T: W{k} after its update",
    lambda v, at, i, dz: (
      dz @ (at.params[i].w - 0.2 * at.residuals.inputs[i].T @ dz).T
    ),
    "",
  )
  yield from _sign_and_size(right)
  yield Row("unit", f"{right} without one unit", _without(1), "only index")
  yield Row("example", f"{right} without one example", _without(0), "")


# Derivatives in a, the activation's output, as they are often written down:
# without the last factor, and with one sign inside turned round.
_FACTOR_LOST: dict[str, tuple[str, Callable[[Array], Array]]] = {
  "sigmoid": ("A", lambda a: a),
  "tanh": ("1 - A", lambda a: 1 - a),
  "relu": ("A", lambda a: a),
}
_INNER_SIGN: dict[str, tuple[str, Callable[[Array], Array]]] = {
  "sigmoid": ("A (1 + A)", lambda a: a * (1 + a)),
  "tanh": ("1 + A A", lambda a: 1 + a * a),
  "relu": ("[A <= 0]", lambda a: a <= 0),
}


def _of_output(function: Callable[[Array], Array]) -> Change:
  """A function of the hidden layer's output in place of the derivative."""
  return lambda v, at, i: function(at.residuals.outputs[i]).astype(v.dtype)


def derivative(name: str) -> Iterator[Row]:
  """The mistakes in an activation's derivative [B, H], of section 12.2.

  Args:
    name: The activation, a key of `mlp.DERIVATIVES`.
  """
  yield Row("missing", "1", lambda v, *_: jnp.ones_like(v))
  for other, prime in mlp.DERIVATIVES.items():
    if other != name:
      text = f"{other}' in place of {name}'"
      yield Row(f"of_{other}", text, _of_output(prime))
  yield Row("twice", f"{name}' applied twice", lambda v, *_: v * v)
  yield Row(
    "at_z",
    f"{name}' with Z put where A belongs",
    lambda v, at, i: mlp.DERIVATIVES[name](at.z(i)).astype(v.dtype),
  )
  yield Row(
    "after_dropout",
    f"{name}' of A after dropout",
    lambda v, at, i: mlp.DERIVATIVES[name](at.residuals.inputs[i + 1]),
  )
  for suffix, table in (
    ("factor_lost", _FACTOR_LOST),
    ("inner_sign", _INNER_SIGN),
  ):
    text, function = table[name]
    yield Row(suffix, text, _of_output(function))
  yield from _sign_and_size(f"{name}'")
  yield Row(
    "saturated",
    f"{name}', but 0 where |Z| > {_SATURATED:g}",
    lambda v, at, i: v * (jnp.abs(at.z(i)) <= _SATURATED),
  )
  yield Row("float32", f"{name}' in float32", short, "float32")


MASK: tuple[Row, ...] = (
  Row("missing", "dA without the mask", lambda v, at, i, da: da),
  Row(
    "unscaled",
    "dA times 0 or 1, without 1 / keep",
    lambda v, at, i, da: da * (at.mask(i) > 0),
  ),
  Row("twice", "dA times the mask, twice", lambda v, at, i, da: v * at.mask(i)),
  Row(
    "shifted",
    "dA times the mask of the next example",
    lambda v, at, i, da: da * jnp.roll(at.mask(i), 1, 0),
  ),
)


def _one_hot(at: Point, shift: int = 0) -> Array:
  classes = at.logits.shape[1]
  labels = (at.batch.labels + shift) % classes
  return jax.nn.one_hot(labels, classes, dtype=at.logits.dtype)


def _softmax(at: Point, axis: int = 1) -> Array:
  return jax.nn.softmax(at.logits, axis=axis)


def residual(k: int) -> Iterator[Row]:
  """The mistakes in A_k - Y [B, C], dZ of softmax with cross-entropy (12.2).

  Args:
    k: The number of the last layer, for the texts.
  """
  a = f"A{k}"
  yield Row("sign", f"Y - {a}", scaled(-1.0), "wrong sign")
  yield Row("doubled", f"2 ({a} - Y)", scaled(2.0), "doubled")
  yield Row(
    "log2",
    f"({a} - Y) / ln 2: of log2, where J has ln",
    scaled(float(1 / np.log(2))),
    _ANY_FACTOR,
  )
  yield Row(
    "of_logits",
    f"Z{k} - Y: softmax left out",
    lambda v, at, _: at.logits - _one_hot(at),
  )
  yield Row(
    "of_sigmoid",
    f"sigmoid(Z{k}) - Y",
    lambda v, at, _: jax.nn.sigmoid(at.logits) - _one_hot(at),
  )
  yield Row("without_y", a, lambda v, at, _: _softmax(at))
  yield Row(
    "of_entropy",
    f"-Y / {a}: softmax's own derivative left out",
    lambda v, at, _: -_one_hot(at) / _softmax(at),
  )
  yield Row(
    "times_derivative",
    f"({a} - Y) {a} (1 - {a})",
    lambda v, at, _: v * _softmax(at) * (1 - _softmax(at)),
  )
  yield Row(
    "squared_error",
    "that of squared error",
    lambda v, at, _: (
      _softmax(at) * (v - (v * _softmax(at)).sum(axis=1, keepdims=True))
    ),
  )
  yield Row(
    "next_label",
    f"{a} - Y of labels that are one too large",
    lambda v, at, _: _softmax(at) - _one_hot(at, 1),
  )
  yield Row(
    "wrong_axis",
    "softmax over the batch - Y",
    lambda v, at, _: _softmax(at, 0) - _one_hot(at),
  )
  yield Row("class", f"{a} - Y without one class", _without(1), "only index")


SHARES: tuple[Row, ...] = (
  Row("missing", "1, not 1/m", _summed, "1/B missing"),
  Row("twice", "1/m^2", _mean_again, "1/B applied twice"),
  Row(
    "of_classes",
    "1/C, not 1/m",
    lambda v, at, _: v * at.examples / at.logits.shape[1],
    _ANY_FACTOR,
  ),
  Row(
    "m_less_1",
    "1/(m - 1), not 1/m",
    lambda v, at, _: v * at.examples / jnp.maximum(at.examples - 1, 0.5),
    _ANY_FACTOR,
  ),
  Row(
    "padding",
    "1/B, and padding counted as examples",
    lambda v, at, _: jnp.full_like(v, 1 / v.size),
    "",
  ),
  Row(
    "one_less",
    "1/m, but one example left out",
    lambda v, at, _: v.at[0].set(0),
    "",
  ),
  Row(
    "one_twice",
    "1/m, but one example counted twice",
    lambda v, at, _: v.at[0].multiply(2),
    "",
  ),
)
L2: tuple[Row, ...] = (
  Row("missing", "0", scaled(0.0), "the L2 term is missing"),
  Row("doubled", "2 l2 W", scaled(2.0), "the L2 term is 2 times"),
  Row("halved", "l2 W / 2", scaled(0.5), "the L2 term is 0.5 times"),
  Row("sign", "-l2 W", scaled(-1.0), "the L2 term is -1 times"),
  Row("mean", "l2 W / m", _mean_again, "the L2 term is .*1/B applied twice"),
  Row("l1", "l2 sign(W)", lambda v, at, i, l2: l2 * jnp.sign(at.params[i].w)),
)
L2_OF_ALL: tuple[Row, ...] = (L2[0]._replace(text="0 in all layers"),)
GRADIENT: tuple[Row, ...] = (
  Row("float32", "all rounded to float32", short, "float32"),
)


def l2_of_bias(k: int) -> Iterator[Row]:
  """An L2 term where there is none: in dB of layer k."""
  yield Row(
    "added",
    f"l2 B{k}",
    lambda v, at, i, l2: l2 * at.params[i].b,
    "x parameter, as from an L2 term",
  )
