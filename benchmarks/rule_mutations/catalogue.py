"""Rules derived by hand, and the mistakes that can be planted in each.

A rule names its intermediate values, as m("dz", value): m hands the value on,
or puts a mistake in its place. Alternatives given beside a value are those that
are taken for it by mistake, as m("y", tanh(z), z=z).

Shapes: B batch, D input, H output, T positions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Handed = Callable[..., Any]  # (site, value, **alternatives) -> value
MISTAKES: dict[str, Callable[[Any], Any]] = {
  "sign": lambda v: -v,
  "factor 2": lambda v: 2 * v,
  "1 % too much": lambda v: 1.01 * v,
  "dropped": lambda v: 0 * v,
  "reversed": lambda v: v[::-1],
  "transposed": lambda v: v.T,
  "conj forgotten": jnp.conj,
}
OTHER = "wrong residual"
CUT = "cut off"  # a value of which a second derivative knows nothing


def right(_: str, value: Any, **alternatives: Any) -> Any:
  """No mistake."""
  return value


def mistaken(site: str, kind: str, alternative: str = "") -> Handed:
  """A mistake at one site."""

  def m(name: str, value: Any, **alternatives: Any) -> Any:
    if name != site:
      return value
    if kind == OTHER:
      return alternatives[alternative]
    change = jax.lax.stop_gradient if kind == CUT else MISTAKES[kind]
    return change(value)

  return m


def places(run: Callable[[Handed], Any]) -> list[tuple[str, str, str]]:
  """(site, kind, alternative) of all mistakes that can be planted in a run."""
  found: list[tuple[str, str, str]] = []

  def m(name: str, value: Any, **alternatives: Any) -> Any:
    kinds = set(MISTAKES)
    if jnp.ndim(value) != 2 or jnp.shape(value)[0] != jnp.shape(value)[1]:
      kinds.discard("transposed")
    if not jnp.ndim(value) or len(value) == 1:
      kinds.discard("reversed")
    if not jnp.iscomplexobj(value):
      kinds.discard("conj forgotten")
    found.extend((name, kind, "") for kind in MISTAKES if kind in kinds)
    found.extend((name, OTHER, other) for other in alternatives)
    return value

  run(m)
  return found


@dataclasses.dataclass(frozen=True)
class Rule:
  """A function and its derivative by hand, of one form."""

  name: str
  form: str  # "vjp", "jvp" or "hvp"
  f: Callable[..., Any]  # of hvp the loss
  by_hand: Callable[..., Any]  # (m, cotangent, tangents or v, *args)
  draw: Callable[[np.random.Generator], tuple[Any, ...]]  # args


def _dense(x: Any, w: Any, b: Any) -> Any:
  return jnp.tanh(x @ w + b)


def _dense_vjp(m: Handed, c: Any, x: Any, w: Any, b: Any) -> Any:
  z = x @ w + b
  y = m("y", jnp.tanh(z), z=z)
  dz = m("dz", c * m("slope", 1 - y**2, without_one=-(y**2)), c=c)
  db = m("db", dz.sum(0), mean=dz.mean(0))
  return m("dx", dz @ w.T), m("dw", x.T @ dz), db


def _dense_jvp(m: Handed, t: Any, x: Any, w: Any, b: Any) -> Any:
  dx, dw, db = t
  dz = m("x part", dx @ w) + m("w part", x @ dw) + m("b part", db)
  y = m("y", jnp.tanh(x @ w + b), z=x @ w + b)
  return m("dy", dz * (1 - y**2))


def _draw_dense(rng: np.random.Generator) -> tuple[Any, ...]:
  return rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)


def _cross_entropy(logits: Any, labels: Any) -> Any:
  chosen = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
  return jax.nn.logsumexp(logits, axis=1) - chosen


def _cross_entropy_vjp(m: Handed, c: Any, logits: Any, labels: Any) -> Any:
  p = m("p", jax.nn.softmax(logits, axis=1), exp=jnp.exp(logits))
  y = m("one hot", jax.nn.one_hot(labels, logits.shape[1], dtype=p.dtype))
  return m("dlogits", (p - y) * m("c", c)[:, None]), None


def _draw_logits(rng: np.random.Generator) -> tuple[Any, ...]:
  return 2 * rng.normal(size=(4, 5)), rng.integers(0, 5, 4)


def _layer_norm(x: Any, scale: Any, shift: Any) -> Any:
  centred = x - x.mean(-1, keepdims=True)
  spread = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  return scale * centred / spread + shift


def _layer_norm_vjp(m: Handed, c: Any, x: Any, scale: Any, shift: Any) -> Any:
  centred = x - x.mean(-1, keepdims=True)
  spread = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  spread = m("spread", spread, variance=spread**2)
  n = m("n", centred / spread, centred=centred)
  dn = m("dn", c * scale, c=c)
  mean = m("mean part", dn.mean(-1, keepdims=True))
  along = m("variance part", n * (dn * n).mean(-1, keepdims=True))
  dx = m("dx", (dn - mean - along) / spread)
  return dx, m("dscale", (c * n).sum(0)), m("dshift", c.sum(0))


def _draw_norm(rng: np.random.Generator) -> tuple[Any, ...]:
  x = 1 + rng.normal(size=(4, 6))
  return x, 1 + 0.3 * rng.normal(size=6), rng.normal(size=6)


def _attention(q: Any, k: Any, v: Any) -> Any:
  return jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[1]), axis=1) @ v


def _attention_vjp(m: Handed, c: Any, q: Any, k: Any, v: Any) -> Any:
  scores = q @ k.T / jnp.sqrt(q.shape[1])
  p = m("p", jax.nn.softmax(scores, axis=1), scores=scores)
  dp = m("dp", c @ v.T)
  own = m("row part", (dp * p).sum(1, keepdims=True))
  ds = m("ds", p * (dp - own), unscaled=2 * p * (dp - own))
  ds = ds / jnp.sqrt(q.shape[1])
  return m("dq", ds @ k), m("dk", ds.T @ q, q=ds @ q), m("dv", p.T @ c)


def _draw_attention(rng: np.random.Generator) -> tuple[Any, ...]:
  q, k, v = rng.normal(size=(3, 4, 4))
  return q, k, v


def _solve(a: Any, b: Any) -> Any:
  return jnp.linalg.solve(a, b)


def _solve_vjp(m: Handed, c: Any, a: Any, b: Any) -> Any:
  x = m("x", jnp.linalg.solve(a, b), b=b)
  db = m("db", jnp.linalg.solve(m("a^T", a.T), c))
  return m("da", -jnp.outer(db, x)), db


def _solve_jvp(m: Handed, t: Any, a: Any, b: Any) -> Any:
  da, db = t
  x = m("x", jnp.linalg.solve(a, b), b=b)
  return m("dx", jnp.linalg.solve(a, m("db", db) - m("da x", da @ x)))


def _draw_solve(rng: np.random.Generator) -> tuple[Any, ...]:
  return 2 * np.eye(4) + 0.3 * rng.normal(size=(4, 4)), rng.normal(size=4)


def _wave(z: Any, a: Any) -> Any:
  return jnp.exp(1j * a * z) * jnp.conj(z)


def _wave_vjp(m: Handed, c: Any, z: Any, a: Any) -> Any:
  turned = m("turned", c * m("e", jnp.exp(1j * a * z)))
  holomorphic = m("d/dz", turned * 1j * a * m("conj z", jnp.conj(z), z=z))
  other = m("d/dconj z", jnp.conj(turned), unconjugated=turned)
  da = m("da", (turned * 1j * z * jnp.conj(z)).real)
  return m("dz", holomorphic + other), da.sum()


def _wave_jvp(m: Handed, t: Any, z: Any, a: Any) -> Any:
  dz, da = t
  e = m("e", jnp.exp(1j * a * z))
  inner = m("inner", 1j * (a * dz + m("a part", da * z)))
  return m("first", inner * e * jnp.conj(z)) + e * m(
    "second", jnp.conj(dz), unconjugated=dz
  )


def _draw_wave(rng: np.random.Generator) -> tuple[Any, ...]:
  real, imaginary = rng.normal(size=(2, 4))
  return real + 1j * imaginary, rng.uniform(0.3, 1.0)


def _filter(x: Any, h: Any) -> Any:
  return jnp.fft.ifft(h * jnp.fft.fft(x)).real


def _filter_vjp(m: Handed, c: Any, x: Any, h: Any) -> Any:
  # Both transforms are symmetric matrices: the transpose is the same one.
  back = m("back", jnp.fft.ifft(c.astype(h.dtype)), forward=jnp.fft.fft(c))
  dx = m("dx", jnp.fft.fft(m("h back", h * back)).real)
  return dx, m("dh", back * m("fft x", jnp.fft.fft(x)))


def _draw_filter(rng: np.random.Generator) -> tuple[Any, ...]:
  x, real, imaginary = rng.normal(size=(3, 6))
  return x, real + 1j * imaginary


def _logistic(p: Any) -> Any:
  x = jnp.sin(jnp.arange(24.0, dtype=p["w"].dtype)).reshape(8, 3)
  z = x @ p["w"] + p["b"]
  return jnp.mean(jax.nn.softplus(z) - z * (jnp.arange(8) % 2))


def _logistic_hvp(m: Handed, v: Any, p: Any) -> Any:
  x = jnp.sin(jnp.arange(24.0, dtype=p["w"].dtype)).reshape(8, 3)
  s = m("s", jax.nn.sigmoid(x @ p["w"] + p["b"]), z=x @ p["w"] + p["b"])
  dz = m("w part", x @ v["w"]) + m("b part", v["b"])
  curved = m("curved", s * (1 - s) * dz / 8, slope=s * dz / 8)
  return {"w": m("hw", x.T @ curved), "b": m("hb", curved.sum())}


def _draw_logistic(rng: np.random.Generator) -> tuple[Any, ...]:
  return ({"w": rng.normal(size=3), "b": rng.normal()},)


def _valley(p: Any) -> Any:
  return jnp.sum(10 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2)


def _valley_hvp(m: Handed, v: Any, p: Any) -> Any:
  gap = m("gap", p[1:] - p[:-1] ** 2)
  dgap = m("dgap", v[1:] - m("square", 2 * p[:-1] * v[:-1]))
  low = m("low", -40 * (dgap * p[:-1] + gap * v[:-1]), first=-40 * dgap)
  low = low + m("bowl", 2 * v[:-1])
  return jnp.zeros_like(p).at[:-1].add(low).at[1:].add(m("high", 20 * dgap))


def _draw_valley(rng: np.random.Generator) -> tuple[Any, ...]:
  return (rng.normal(size=5),)


RULES = (
  Rule("dense", "vjp", _dense, _dense_vjp, _draw_dense),
  Rule(
    "cross-entropy", "vjp", _cross_entropy, _cross_entropy_vjp, _draw_logits
  ),
  Rule("layer norm", "vjp", _layer_norm, _layer_norm_vjp, _draw_norm),
  Rule("attention", "vjp", _attention, _attention_vjp, _draw_attention),
  Rule("solve", "vjp", _solve, _solve_vjp, _draw_solve),
  Rule("complex wave", "vjp", _wave, _wave_vjp, _draw_wave),
  Rule("complex filter", "vjp", _filter, _filter_vjp, _draw_filter),
  Rule("dense", "jvp", _dense, _dense_jvp, _draw_dense),
  Rule("solve", "jvp", _solve, _solve_jvp, _draw_solve),
  Rule("complex wave", "jvp", _wave, _wave_jvp, _draw_wave),
  Rule("logistic", "hvp", _logistic, _logistic_hvp, _draw_logistic),
  Rule("valley", "hvp", _valley, _valley_hvp, _draw_valley),
)
SECOND = RULES[:5]  # whose VJP is differentiated again
