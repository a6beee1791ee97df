"""The multi-layer perceptron of chapter 12: forward, and backward by hand.

Shapes: B batch, D input, H hidden, C classes. A network of sizes
(D, H1, ..., C) has one `Layer` per step from a size to the next; every layer
but the last is followed by its activation, the last one gives the logits.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

Activation = str
Initializer = str


class Layer(NamedTuple):
  """One affine map z = a @ w + b (section 12.2: Z = A . W + B)."""

  w: Float[Array, "fan_in fan_out"]
  b: Float[Array, " fan_out"]


Params = tuple[Layer, ...]
Masks = tuple[Float[Array, "B _"], ...]  # one per hidden layer


class Residuals(NamedTuple):
  """What backward needs of the forward pass, one entry per layer."""

  inputs: tuple[Float[Array, "B fan_in"], ...]  # what entered each layer
  outputs: tuple[Float[Array, "B _"], ...]  # hidden a, before dropout
  masks: Masks | None  # 0 or 1/keep, or no dropout


# The derivatives are in terms of the activation's output a (section 12.2).
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
  "sigmoid": jax.nn.sigmoid,
  "tanh": jnp.tanh,
  "relu": lambda z: jnp.maximum(z, 0),
}
DERIVATIVES: dict[Activation, Callable[[Array], Array]] = {
  "sigmoid": lambda a: (1 - a) * a,
  "tanh": lambda a: 1 - a * a,
  "relu": lambda a: (a > 0).astype(a.dtype),
}


def _xavier(
  key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike
) -> Array:
  limit = (6 / sum(shape)) ** 0.5
  return jax.random.uniform(key, shape, dtype, -limit, limit)


def _he(key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike) -> Array:
  return (2 / shape[0]) ** 0.5 * jax.random.normal(key, shape, dtype)


INITIALIZERS: dict[Initializer, Callable[..., Array]] = {
  "xavier": _xavier,
  "he": _he,
  "normal": jax.random.normal,
  "zeros": jax.nn.initializers.zeros,
}


def init(
  key: Key[Array, ""],
  sizes: Sequence[int],
  initializer: Initializer = "xavier",
  dtype: DTypeLike = jnp.float32,
  *,
  scale: float = 1.0,
) -> Params:
  """Draws weights for the widths (D, H1, ..., C); biases start at zero.

  Args:
    key: The random key, which is consumed.
    initializer: One of "xavier" (uniform on +-sqrt(6 / (fan_in + fan_out)),
      Glorot & Bengio 2010, eq. 16), "he" (normal, variance 2 / fan_in, He et
      al. 2015, eq. 10), "normal" (standard normal) or "zeros", under which all
      units of a layer stay equal for ever.
    scale: The factor of the weights drawn.

  Raises:
    KeyError: unknown initializer.
  """
  draw = INITIALIZERS[initializer]
  keys = jax.random.split(key, len(sizes) - 1)
  return tuple(
    Layer(scale * draw(k, shape, dtype), jnp.zeros(shape[1], dtype))
    for k, shape in zip(keys, itertools.pairwise(sizes), strict=True)
  )


def dropout_masks(
  key: Key[Array, ""], params: Params, batch_size: int, rate: float
) -> Masks:
  """Inverted-dropout masks, each [B, H]: 0 or 1 / (1 - rate), rate in [0, 1).

  The key is consumed.
  """
  keys = jax.random.split(key, len(params) - 1)
  return tuple(
    jax.random.bernoulli(k, 1 - rate, (batch_size, layer.b.shape[0])).astype(
      layer.b.dtype
    )
    / (1 - rate)
    for k, layer in zip(keys, params[:-1], strict=True)
  )


def affine(
  layer: Layer, a: Float[Array, "B fan_in"]
) -> Float[Array, "B fan_out"]:
  """Z = A . W + B (section 12.2)."""
  return a @ layer.w + layer.b[None, :]


def forward(
  params: Params,
  activations: Sequence[Activation],
  x: Float[Array, "B D"],
  masks: Masks | None = None,
) -> tuple[Float[Array, "B C"], Residuals]:
  """Section 12.2: Z = A . W + B, A = activation(Z), layer by layer.

  Args:
    activations: One name per hidden layer, so len(params) - 1 of them.
    masks: What `dropout_masks` gave; None for no dropout.

  Returns:
    The logits (Z of the last layer, before softmax) and the residuals.
  """
  inputs, outputs, a = [x], [], x
  for i, activation in enumerate(activations):
    a = ACTIVATIONS[activation](affine(params[i], a))
    outputs.append(a)
    if masks is not None:
      a = a * masks[i]
    inputs.append(a)
  logits = affine(params[-1], a)
  return logits, Residuals(tuple(inputs), tuple(outputs), masks)


def apply(
  params: Params, activations: Sequence[Activation], x: Float[Array, "B D"]
) -> Float[Array, "B C"]:
  """The logits of `forward`, without dropout."""
  return forward(params, activations, x)[0]


def backward(
  params: Params,
  activations: Sequence[Activation],
  residuals: Residuals,
  dlogits: Float[Array, "B C"],
) -> Params:
  """The gradient of a loss in all parameters, by the chain rule (12.2).

  The text writes dB = dZ for one sample; over a batch the samples' dZ add up,
  as they do in dW = A^T . dZ, and the mean's 1/m is already in `dlogits`.

  Args:
    residuals: What `forward` gave at the same params and batch.
    dlogits: The loss's cotangent in the logits.
  """
  grads: list[Layer] = []
  dz = dlogits
  for i in reversed(range(len(params))):
    grads.append(Layer(residuals.inputs[i].T @ dz, dz.sum(axis=0)))
    if i == 0:
      break
    da = dz @ params[i].w.T
    if residuals.masks is not None:
      da = da * residuals.masks[i - 1]
    dz = da * DERIVATIVES[activations[i - 1]](residuals.outputs[i - 1])
  return tuple(reversed(grads))
