"""The picture of S2: steps to leave the saddle of a surface in two variables.

Metric: steps from (1, y0) until |y| >= 0.5, halfway to a minimum of `surface`.
Arms: y0 normal with sd 1e-6: plain, momentum 0.9 (rate 0.1 both), Adam (rate
0.01, about the length of its steps), the same y0 for a seed's three; y0 = 0,
on the stable manifold: plain without noise, and with normal noise on the
gradient of sd 1e-8 to 1e-1 (1e-2 for the arm "noisy"). Margins as given here.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Key

from experiments._shared import study
from experiments._shared.metric import spread
from experiments.saddle import surface
from mnist_jax import plotting, stats
from mnist_jax.stats import slopes
from mnist_jax.sweep import figures, tables

RATE = 0.1
RATES = {"sgd": RATE, "momentum": RATE, "adam": 0.01}
CURVATURE = 0.1
NEAR = 1e-6
NOISE = 1e-2  # of the arm "noisy"
FLAT_NOISE = 1e-3
MARGIN = math.log(1.1)
SLOPE_MARGIN, FLAT_MARGIN = 0.05, 0.15
KINDS = {"plain": "sgd", "momentum": "momentum", "adam": "adam"}
_NEAR, _ON_IT = range(2)  # what a seed's keys are for

MOST = 20_000  # steps after which a run is given up
NOISES = tuple(10.0**k for k in range(-8, 0))
CURVATURES = (0.02, 0.05, 0.1, 0.2, 0.5)


def _keys(seeds: int, purpose: int, number: int = 0) -> Key[Array, " S"]:
  """A key for each seed, its own for each purpose and number."""

  def one(seed: Array) -> Key[Array, ""]:
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return jax.random.fold_in(key, number)

  return jax.vmap(one)(jnp.arange(seeds))


def near_starts(seeds: int) -> Float[Array, "S 2"]:
  """(1, y0), the same for every arm that starts beside the manifold."""
  keys = _keys(seeds, _NEAR)
  offsets = NEAR * jax.vmap(jax.random.normal)(keys)
  return jnp.stack([jnp.ones(seeds), offsets], axis=1)


def measure(seeds: int) -> pd.DataFrame:
  """The steps of each arm and seed."""
  near = near_starts(seeds)
  on_it = near.at[:, 1].set(0)
  arms = [(arm, kind, near, CURVATURE, 0.0) for arm, kind in KINDS.items()]
  arms.append(("stands still", "sgd", on_it, CURVATURE, 0.0))
  arms.append(("noisy", "sgd", on_it, CURVATURE, NOISE))
  arms += [("by noise", "sgd", on_it, CURVATURE, noise) for noise in NOISES]
  arms += [
    ("by curvature", "sgd", on_it, curvature, FLAT_NOISE)
    for curvature in CURVATURES
  ]
  parts = []
  for number, (arm, kind, starts, curvature, noise) in enumerate(arms):
    found = surface.escape(
      kind,
      RATES[kind],
      starts,
      jnp.full(seeds, curvature),
      jnp.full(seeds, noise),
      _keys(seeds, _ON_IT, number),
      most=MOST,
    )
    settings = {"arm": arm, "curvature": curvature, "noise": noise}
    steps = {name: each.tolist() for name, each in found._asdict().items()}
    part = pd.DataFrame(settings | {"seed": range(seeds)} | steps)
    parts.append(part)
  return pd.concat(parts, ignore_index=True)


def _steps(
  table: pd.DataFrame, arm: str, metric: str = "left"
) -> Float[np.ndarray, " S"]:
  chosen = table[table["arm"] == arm].sort_values("seed")
  return chosen[metric].to_numpy(np.float64)


def _by(table: pd.DataFrame, name: str) -> tables.Curves:
  """[1, S, K] steps to leave by noise or by curvature."""
  return tables.curves(
    table[table["arm"] == f"by {name}"], "arm", "left", point=name
  )


def log_noise_slopes(table: pd.DataFrame) -> Float[np.ndarray, " S"]:
  """Each seed's steps for one factor of e less noise, over what growth says."""
  curves = _by(table, "noise")
  x = -np.log(curves.points)
  x = x - x.mean()
  slope = curves.values[0] @ x / (x @ x)
  return slope * math.log(surface.growth(CURVATURE, RATE))


def _derived(table: pd.DataFrame) -> list[stats.Part]:
  points = surface.stationary_points(CURVATURE)
  minima = [(y, f) for y, f, values in points if min(values) > 0]
  names = ", ".join(f"y = {y:g}" for y, _ in minima)
  still = _steps(table, "stands still")
  return [
    stats.derived(
      "surface: other minima",
      "the surface has no minimum but two equally low ones",
      len(minima) == 2 and len({f for _, f in minima}) == 1,
      f"of {len(points)} stationary points the minima are {names}",
      "illustration",
    ),
    stats.derived(
      "surface: stands still",
      f"from y = 0 plain descent is at the saddle after {MOST} steps",
      bool((still == MOST).all()),
      "the gradient in y is exactly 0 there",
      "illustration",
    ),
  ]


def parts(table: pd.DataFrame) -> list[stats.Question | stats.Part]:
  """The illustrations."""
  plain = _steps(table, "plain")
  lost = table.query(f"arm != 'stands still' and left == {MOST}")
  note = f"{len(lost)} runs did not leave" if len(lost) else ""
  flat = _by(table, "curvature")
  ask = functools.partial(stats.Question, role="illustration", note=note)
  questions = [
    ask(
      "surface: waits",
      "plain spends more than half of its way to a minimum at the saddle",
      stats.mean_interval(plain / _steps(table, "plain", "arrived"), seed=0),
      target=0.5,
    ),
    *(
      ask(
        f"surface: {arm}",
        f"{arm} leaves sooner than plain: log of the ratio of steps",
        stats.paired_log_ratio(plain, _steps(table, arm), seed=0),
        margin=MARGIN,
      )
      for arm in ("noisy", "momentum", "adam")
    ),
    ask(
      "surface: log of noise",
      "steps to leave ~ log(1 / noise) / log(1 + rate c)",
      stats.mean_interval(log_noise_slopes(table), seed=0),
      "same",
      target=1.0,
      margin=SLOPE_MARGIN,
    ),
    ask(
      "surface: flatter",
      "steps to leave ~ 1 / c, the curvature: flatter saddles hold longer",
      slopes.loglog_slope(flat.points, flat.values[0], seed=0),
      "same",
      target=-1.0,
      margin=FLAT_MARGIN,
    ),
  ]
  return [*_derived(table), *questions]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
  """Mean and sd of the steps by arm, and how many never left."""
  by = ["arm", "curvature", "noise"]
  never = table.assign(never_left=table["left"] == MOST)
  return spread(table, by, ["left", "arrived"]).assign(
    never_left=never.groupby(by, sort=False)["never_left"].sum().to_numpy()
  )


PATHS = (  # label, kind, y0, noise, steps
  ("plain, y0 = 0", "sgd", 0.0, 0.0, 2000),
  (f"plain, y0 = {NEAR:g}", "sgd", NEAR, 0.0, 2000),
  (f"noisy (sd {NOISE:g}), y0 = 0", "sgd", 0.0, NOISE, 700),
  (f"momentum 0.9, y0 = {NEAR:g}", "momentum", NEAR, 0.0, 400),
  (f"Adam, y0 = {NEAR:g}", "adam", NEAR, 0.0, 300),
)


def _draw_surface(ax: plotting.Axes) -> None:
  x, y = np.meshgrid(np.linspace(-0.6, 1.1, 120), np.linspace(-1.5, 1.5, 160))
  points = np.stack([x, y], axis=-1).astype(np.float32)
  levels = 0.6 * np.linspace(0, 1, 21)[1:] ** 2 - CURVATURE / 4
  ax.grid(False)
  ax.contour(
    x,
    y,
    np.asarray(surface.value(jnp.asarray(points), CURVATURE)),
    levels,
    colors="#b0b0b0",
    linewidths=0.8,
  )
  ax.plot([0, 0], [-1, 1], "k*", markersize=13, label="minima")
  ax.plot(0, 0, "X", color="#B00020", label="saddle")


def draw_paths() -> plotting.Figure:
  """The surface with a path of each kind, and |y| along it."""
  figure, axes = plotting.panels(1, 2, (12, 5))
  left, right = axes[0]
  _draw_surface(left)
  for i, (label, kind, y0, noise, steps) in enumerate(PATHS):
    start, key = jnp.array([1.0, y0]), jax.random.key(i)
    points = np.asarray(
      surface.path(kind, RATES[kind], start, CURVATURE, noise, key, steps=steps)
    )
    look = plotting.series(i) | {"marker": None}
    left.plot(*points.T, **look)
    out = np.abs(points[:, 1])
    if not out.any():
      label += " (stays 0)"
    right.plot(np.where(out > 0, out, np.nan), **look, label=label)
  right.axhline(
    surface.LEFT_AT, color="black", linewidth=1, linestyle=":", label="left"
  )
  left.set_xlabel("x (rises from the saddle)")
  left.set_ylabel("y (falls from it)")
  left.set_title(f"f = x²/2 + {CURVATURE:g} (y⁴/4 − y²/2)")
  left.legend(loc="lower right")
  right.set_xlabel("step")
  right.set_ylabel("|y|, distance from the saddle's ridge")
  right.set_title("near the saddle |y| grows by a factor a step")
  plotting.log_axis(right, "y")
  right.legend(loc="lower right", title="both pictures", fontsize=9)
  return figure


def _draw_trend(
  ax: plotting.Axes,
  curves: tables.Curves,
  label: str,
  expected: Float[np.ndarray, " K"],
  expected_label: str,
) -> None:
  """Steps to leave at each point, and the line that is expected of them."""
  plotting.bands(ax, curves.points, curves.values[0], label)
  ax.plot(curves.points, expected, "k-", linewidth=1, label=expected_label)
  ax.legend()


def draw(table: pd.DataFrame, seeds: int) -> study.Figures:
  """The surface with paths on it, and the steps of each arm."""
  figure, axes = plotting.panels(1, 3, (15, 4.4))
  by_noise, by_curvature, arms = axes[0]
  noisy, flat = _by(table, "noise"), _by(table, "curvature")
  gone = np.log(noisy.points).mean() - np.log(noisy.points)
  line = noisy.values.mean() + gone / math.log(surface.growth(CURVATURE, RATE))
  label = "slope 1 / log(1 + rate c)"
  _draw_trend(by_noise, noisy, "plain with noise", line, label)
  by_noise.set_xlabel("sd of the gradient's noise")
  plotting.log_axis(by_noise, "x")
  scale = np.exp(np.log(flat.values[0].mean(axis=0) * flat.points).mean())
  line, label = scale / flat.points, f"noise {FLAT_NOISE:g}"
  _draw_trend(by_curvature, flat, label, line, "slope −1")
  by_curvature.set_xlabel("curvature c of the saddle (flat to the left)")
  plotting.log_axis(by_curvature, "x", flat.points)
  names = ("plain", "noisy", "momentum", "adam")
  figures.draw_arms(arms, {name: _steps(table, name) for name in names})
  arms.set_xlabel("each point a seed")
  for ax in axes[0]:
    ax.set_ylabel("steps to leave")
  for ax in (by_curvature, arms):
    plotting.log_axis(ax, "y")
  figure.suptitle(
    f"Steps to leave the saddle, {seeds} seeds, mean and 95 % band"
  )
  return {"saddle": draw_paths(), "steps": figure}
