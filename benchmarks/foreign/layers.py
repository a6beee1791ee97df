"""The same small networks in flax (both interfaces), equinox and haiku.

Each builder takes a kind of layer and a precision and gives the parameters and
the network, as its library's own pages have it: params, x -> y. N examples.

Precisions: "float32"; "bfloat16", parameters too; "mixed", bfloat16 to compute
with float32 parameters.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

KINDS = ("dense", "conv", "lstm", "attention", "layer norm", "batch norm")
PRECISIONS = ("float32", "bfloat16", "mixed")
WIDTH, HEADS = 8, 2
SHAPES = {  # of x
  "dense": (4, WIDTH),
  "conv": (2, 6, 6, 3),
  "lstm": (2, 5, WIDTH),
  "attention": (2, 5, WIDTH),
  "layer norm": (4, WIDTH),
  "batch norm": (4, WIDTH),
}


class Network(NamedTuple):
  """Parameters and what they are applied with, (params, x) -> y."""

  params: Any
  apply: Callable[[Any, jax.Array], jax.Array]


def types(precision: str) -> dict[str, Any]:
  """What flax calls dtype (to compute in) and param_dtype."""
  return {
    "float32": {},  # what a layer does unless told
    "bfloat16": {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16},
    "mixed": {"dtype": jnp.bfloat16},
  }[precision]


def flax_linen(kind: str, precision: str) -> Network:
  from flax import linen as nn

  kept = types(precision)
  dense = nn.Dense(WIDTH, **kept)
  batch_norm = nn.BatchNorm(use_running_average=False, **kept)
  attention = nn.MultiHeadDotProductAttention(HEADS, **kept)
  module = {
    "dense": lambda: nn.Sequential([dense, nn.tanh, nn.Dense(3, **kept)]),
    "conv": lambda: nn.Sequential(
      [nn.Conv(4, (3, 3), **kept), nn.tanh, nn.Conv(2, (3, 3), **kept)]
    ),
    # Its default, orthogonal, has no bfloat16.
    "lstm": lambda: nn.RNN(
      nn.OptimizedLSTMCell(
        WIDTH, recurrent_kernel_init=nn.initializers.lecun_normal(), **kept
      )
    ),
    "attention": lambda: attention,
    "layer norm": lambda: nn.Sequential([dense, nn.LayerNorm(**kept)]),
    "batch norm": lambda: nn.Sequential([dense, batch_norm]),
  }[kind]()
  variables = module.init(jax.random.key(0), jnp.ones(SHAPES[kind]))
  params, state = variables["params"], dict(variables)
  del state["params"]

  def apply(params: Any, x: jax.Array) -> jax.Array:
    y, _ = module.apply({"params": params, **state}, x, mutable=list(state))
    return y

  return Network(params, apply)


def flax_nnx(kind: str, precision: str) -> Network:
  from flax import nnx

  kept = types(precision) | {"rngs": nnx.Rngs(0)}
  dense = functools.partial(nnx.Linear, WIDTH, **kept)
  module = {
    "dense": lambda: nnx.Sequential(dense(WIDTH), nnx.tanh, dense(3)),
    "conv": lambda: nnx.Sequential(
      nnx.Conv(3, 4, (3, 3), **kept), nnx.tanh, nnx.Conv(4, 2, (3, 3), **kept)
    ),
    "lstm": lambda: nnx.RNN(
      nnx.OptimizedLSTMCell(
        WIDTH,
        WIDTH,
        recurrent_kernel_init=nnx.initializers.lecun_normal(),
        **kept,
      ),
      rngs=kept["rngs"],
    ),
    "attention": lambda: nnx.MultiHeadAttention(
      HEADS, WIDTH, decode=False, deterministic=True, **kept
    ),
    "layer norm": lambda: nnx.Sequential(
      dense(WIDTH), nnx.LayerNorm(WIDTH, **kept)
    ),
    "batch norm": lambda: nnx.Sequential(
      dense(WIDTH), nnx.BatchNorm(WIDTH, use_running_average=False, **kept)
    ),
  }[kind]()
  graph, params, state = nnx.split(module, nnx.Param, ...)
  # A copy, since modules change their own state: running means, key counts.
  return Network(
    params, lambda params, x: nnx.merge(graph, params, state, copy=True)(x)
  )


def cast(tree: Any, dtype: Any) -> Any:
  """The tree with its floating leaves in that type."""
  return jax.tree.map(
    lambda leaf: (
      leaf.astype(dtype)
      if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
      else leaf
    ),
    tree,
  )


def lowered(network: Network, precision: str) -> Network:
  """For libraries whose layers compute in the types that they are given."""
  if precision == "float32":
    return network
  params, apply = network
  if precision == "bfloat16":
    params = cast(params, jnp.bfloat16)
  return Network(
    params,
    lambda params, x: apply(*cast((params, x), jnp.bfloat16)),
  )


def equinox(kind: str, precision: str) -> Network:
  import equinox as eqx

  keys = jax.random.split(jax.random.key(0), 2)
  linear = functools.partial(eqx.nn.Linear, WIDTH)
  dense = linear(WIDTH, key=keys[0])
  norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
    WIDTH, axis_name="batch", mode="batch"
  )
  leaves, tree = jax.tree.flatten(state)  # each may be used once
  modules = {
    "dense": lambda: [dense, linear(3, key=keys[1])],
    "conv": lambda: [
      eqx.nn.Conv2d(3, 4, 3, key=keys[0]),
      eqx.nn.Conv2d(4, 2, 3, key=keys[1]),
    ],
    "lstm": lambda: [eqx.nn.LSTMCell(WIDTH, WIDTH, key=keys[0])],
    "attention": lambda: [eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])],
    "layer norm": lambda: [dense, eqx.nn.LayerNorm(WIDTH)],
    "batch norm": lambda: [dense, norm],
  }[kind]()

  def one(modules: Any, x: jax.Array) -> jax.Array:
    first, second = modules[0], modules[-1]
    if kind == "lstm":
      start = jnp.zeros(WIDTH, x.dtype)

      def step(carry: Any, x: jax.Array) -> Any:
        carry = first(x, carry)
        return carry, carry[0]

      return jax.lax.scan(step, (start, start), x)[1]
    if kind == "attention":
      return first(x, x, x)
    if kind == "batch norm":
      return second(first(x), jax.tree.unflatten(tree, leaves))[0]
    if kind == "conv":  # channels first
      x = x.transpose(2, 0, 1)
    return second(jnp.tanh(first(x)))

  params, static = eqx.partition(modules, eqx.is_inexact_array)

  def apply(params: Any, x: jax.Array) -> jax.Array:
    modules = eqx.combine(params, static)
    return jax.vmap(lambda x: one(modules, x), axis_name="batch")(x)

  return lowered(Network(params, apply), precision)


def haiku(kind: str, precision: str) -> Network:
  import haiku as hk

  def forward(x: jax.Array) -> jax.Array:
    if kind == "dense":
      return hk.Sequential([hk.Linear(WIDTH), jnp.tanh, hk.Linear(3)])(x)
    if kind == "conv":
      return hk.Sequential([hk.Conv2D(4, 3), jnp.tanh, hk.Conv2D(2, 3)])(x)
    if kind == "lstm":
      core = hk.LSTM(WIDTH)
      carry = cast(core.initial_state(len(x)), x.dtype)
      return hk.dynamic_unroll(core, x, carry, time_major=False)[0]
    if kind == "attention":
      start = hk.initializers.VarianceScaling(1.0)
      return hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=start)(x, x, x)
    x = hk.Linear(WIDTH)(x)
    if kind == "layer norm":
      return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
    norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
    return norm(x, is_training=True)

  pure = hk.without_apply_rng(hk.transform_with_state(forward))
  params, state = pure.init(jax.random.key(0), jnp.ones(SHAPES[kind]))

  def apply(params: Any, x: jax.Array) -> jax.Array:
    return pure.apply(params, cast(state, x.dtype), x)[0]

  return lowered(Network(params, apply), precision)


LIBRARIES: dict[str, tuple[str, Callable[[str, str], Network]]] = {
  "flax.linen": ("flax", flax_linen),
  "flax.nnx": ("flax", flax_nnx),
  "equinox": ("equinox", equinox),
  "haiku": ("haiku", haiku),
}
