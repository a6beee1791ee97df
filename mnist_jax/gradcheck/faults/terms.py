"""What can go wrong with each term of the chapter's backward.

Rows for the catalogue, by the term of section 12.2 that they spoil. In a text
{} is the right term, {k} the layer in the chapter's numbers, {j} the one before
and m the number of examples.
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
  """One thing that can go wrong with a term."""

  suffix: str  # the end of the fault's name
  text: str  # what is computed instead
  change: Change  # what changes the right term into that
  # A regular expression of the cause that a diagnosis should name; "" where
  # none can be told; by default only who knows the network can.
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


def _without(axis: int) -> Change:
  """Zero at one index of a matrix's axis, where it shows most."""

  def change(value: Array, *_: Any) -> Array:
    strongest = jnp.argmax(jnp.abs(value).sum(axis=1 - axis))
    kept = jnp.arange(value.shape[axis]) != strongest
    return value * jnp.expand_dims(kept, 1 - axis)

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
DW: tuple[Row, ...] = (
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
DW_FIRST: tuple[Row, ...] = (
  Row("pixels", "X^T dZ1 with pixels of 0 to 255", scaled(255.0), _ANY_FACTOR),
)
DW_LATER: tuple[Row, ...] = (
  Row(
    "of_z",
    "Z{j}^T dZ{k}: Z in place of A",
    lambda v, at, i, dz: at.z(i - 1).T @ dz,
  ),
  Row(
    "before_dropout",
    "A{j}^T dZ{k} with A{j} before dropout",
    lambda v, at, i, dz: at.residuals.outputs[i - 1].T @ dz,
  ),
)
DB: tuple[Row, ...] = (
  Row(
    "one_example",
    "dZ of the first example alone: the text's dB = dZ",
    lambda v, at, i, dz: dz[0],
    "",
  ),
)
DA: tuple[Row, ...] = (
  Row(
    "untransposed",
    "dZ{k} W{k} with W read in the shape of W^T",
    lambda v, at, i, dz: dz @ at.params[i].w.reshape(dz.shape[1], -1),
  ),
  Row(
    "unweighted",
    "dZ{k} 1: W{k} left out",
    lambda v, at, i, dz: jnp.broadcast_to(dz.sum(1, keepdims=True), v.shape),
  ),
  Row(
    "updated_weights",
    "dZ{k} (W{k} - 0.2 dW{k})^T: W{k} after its update",
    lambda v, at, i, dz: (
      dz @ (at.params[i].w - 0.2 * at.residuals.inputs[i].T @ dz).T
    ),
    "",
  ),
  *_sign_and_size("dZ{k} W{k}^T"),
  Row("unit", "dZ{k} W{k}^T without one unit", _without(1), "only index"),
  Row("example", "dZ{k} W{k}^T without one example", _without(0), ""),
)
# Derivatives in a, the activation's output, as they are often written down:
# without the last factor, and with one sign inside turned round.
_MISWRITTEN: dict[str, dict[str, tuple[str, Callable[[Array], Array]]]] = {
  "sigmoid": {
    "factor_lost": ("A", lambda a: a),
    "inner_sign": ("A (1 + A)", lambda a: a * (1 + a)),
  },
  "tanh": {
    "factor_lost": ("1 - A", lambda a: 1 - a),
    "inner_sign": ("1 + A A", lambda a: 1 + a * a),
  },
  "relu": {
    "factor_lost": ("A", lambda a: a),
    "inner_sign": ("[A <= 0]", lambda a: a <= 0),
  },
}


def _of_output(function: Callable[[Array], Array]) -> Change:
  """A function of the hidden layer's output in place of the derivative."""
  return lambda v, at, i: function(at.residuals.outputs[i]).astype(v.dtype)


def derivative(name: str) -> Iterator[Row]:
  """The mistakes in an activation's derivative [B, H], of section 12.2."""
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
  for suffix, (text, function) in _MISWRITTEN[name].items():
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


# In A - Y [B, C], dZ of softmax with cross-entropy (12.2).
RESIDUAL: tuple[Row, ...] = (
  Row("sign", "Y - A{k}", scaled(-1.0), "wrong sign"),
  Row("doubled", "2 (A{k} - Y)", scaled(2.0), "doubled"),
  Row(
    "log2",
    "(A{k} - Y) / ln 2: of log2, where J has ln",
    scaled(float(1 / np.log(2))),
    _ANY_FACTOR,
  ),
  Row(
    "of_logits",
    "Z{k} - Y: softmax left out",
    lambda v, at, _: at.logits - _one_hot(at),
  ),
  Row(
    "of_sigmoid",
    "sigmoid(Z{k}) - Y",
    lambda v, at, _: jax.nn.sigmoid(at.logits) - _one_hot(at),
  ),
  Row("without_y", "A{k}", lambda v, at, _: _softmax(at)),
  Row(
    "of_entropy",
    "-Y / A{k}: softmax's own derivative left out",
    lambda v, at, _: -_one_hot(at) / _softmax(at),
  ),
  Row(
    "times_derivative",
    "(A{k} - Y) A{k} (1 - A{k})",
    lambda v, at, _: v * _softmax(at) * (1 - _softmax(at)),
  ),
  Row(
    "squared_error",
    "that of squared error",
    lambda v, at, _: (
      _softmax(at) * (v - (v * _softmax(at)).sum(axis=1, keepdims=True))
    ),
  ),
  Row(
    "next_label",
    "A{k} - Y of labels that are one too large",
    lambda v, at, _: _softmax(at) - _one_hot(at, 1),
  ),
  Row(
    "wrong_axis",
    "softmax over the batch - Y",
    lambda v, at, _: _softmax(at, 0) - _one_hot(at),
  ),
  Row("class", "A{k} - Y without one class", _without(1), "only index"),
)
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
# There is none in dB.
L2_OF_BIAS: tuple[Row, ...] = (
  Row(
    "added",
    "l2 B{k}",
    lambda v, at, i, l2: l2 * at.params[i].b,
    "x parameter, as from an L2 term",
  ),
)
