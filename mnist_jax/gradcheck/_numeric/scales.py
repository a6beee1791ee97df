"""How far a parameter may be moved: where rounding ends and bends begin.

A loss moved by less than its rounding shows noise, moved by more than its
bends something else than its slope. Both are found along a line by sixth
differences at rising spacings: they take any smooth part away, so that noise
alone is left, up to a spacing from which on they grow with its sixth power.

Shapes: P all parameters, n lines, K spacings.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mnist_jax.gradcheck._numeric.differences import Losses
from mnist_jax.gradcheck._problem import first_step

_ORDER, _POINTS = 6, np.arange(1, 10)  # theta itself may lie on a kink
_FACTOR = 16.0  # from one spacing to the next
# Noise does not grow more than so much with the spacing: its parts add up like
# the root of their number, and where few points see it at all it is 50 times
# less than where all do. A smooth part grows by 16^6 from one to the next, but
# not beyond the loss itself, of which the noise of few bits is a good part.
_RISE, _OF_LOSS = 300.0, 0.1
_ROUNDINGS = 4.0  # of the loss: so much is noise in any case
_GROWN = 100.0  # times the loss: what is larger has a rounding of its own
# The highest spacing, in parts of the tensor's largest entry, or of one.
_HIGHEST = 0.03
_SMALLEST = 1e-6  # the size of an entry of 0, for the lowest spacing
# Steps of a tensor's entries that differ by more than that are found for each
# of them, unless they are many.
_MIXED, _MOST_MIXED = 1e3, 2048
_MOVES = (0.01, 0.03, 0.1, 0.3)  # of a tensor, by which its type is told
_DRAWN, _LINES = 24, 4  # coordinates of a tensor tried, and used
# How far they are tried to be moved, and how much farther if nothing happens.
_FAR, _FARTHER = 0.01, (1e2, 1e4)


class Reach(NamedTuple):
  """What was found along each line, [n]."""

  # A standard deviation, of the rounding in one loss; NaN where none is seen.
  noise: Float[np.ndarray, " n"]
  # The step near the best one: beyond it bends are seen; infinite if none are.
  step: Float[np.ndarray, " n"]


def sizes(losses: Losses) -> Float[np.ndarray, " P"]:
  """The largest entry of each parameter's tensor."""
  theta = np.abs(losses.theta.astype(np.float64))
  largest = [theta[part].max() for part in losses.layout.slices()]
  return np.repeat(largest, losses.layout.sizes)


def reach(losses: Losses, positions: Int[np.ndarray, " n"]) -> Reach:
  """The noise and the reach of the loss along each coordinate.

  The method is that of More & Wild 2011, "Estimating computational noise"
  (eq. 2.6), at spacings a factor 16 apart, from a few roundings of the
  parameter on. Spacings are powers of two, so that all points are exact.
  """
  base = losses.round(losses.theta)
  size = sizes(losses)[positions]
  here = np.abs(base[positions].astype(np.float64))
  here = np.where(here > 0, here, np.maximum(size, 1.0) * _SMALLEST)
  lowest = 8 * losses.epsilons[positions] * here
  highest = _HIGHEST * np.maximum(size, 1.0)
  decades = (np.log(highest) - np.log(lowest)).max()
  count = max(1, int(np.ceil(decades / math.log(_FACTOR))) + 1)
  spacings = lowest * _FACTOR ** np.arange(count)[:, None]
  spacings = np.exp2(np.round(np.log2(np.minimum(spacings, highest))))
  moved = base[positions] + spacings[:, None] * _POINTS[:, None]
  where = np.tile(positions, count * _POINTS.size)
  values = losses.at(base, where, losses.round(moved.ravel(), where))
  values = values.reshape(moved.shape)
  with np.errstate(invalid="ignore", over="ignore"):
    sixth = np.diff(values, _ORDER, axis=1)
    largest = np.abs(values).max(axis=1)
    unit = np.where(largest > 0, largest, 1.0)  # its square may overflow
    square = np.mean((sixth / unit[:, None]) ** 2, axis=1)
    spreads = unit * np.sqrt(square / math.comb(2 * _ORDER, _ORDER))
  return _walked(spreads, spacings, largest, losses.epsilons[positions])


def _walked(
  spreads: Float[np.ndarray, "K n"],
  spacings: Float[np.ndarray, "K n"],
  values: Float[np.ndarray, "K n"],
  epsilons: Float[np.ndarray, " n"],
) -> Reach:
  """Reads noise and reach off spreads at rising spacings.

  Values are the largest there. Of the spreads before the rise the second
  largest is the noise: at one spacing the points may straddle a kink, and the
  last may hold some of the rise.
  """
  count = spreads.shape[1]
  most, second, last, seen, flat = np.zeros((5, count))
  first = np.full(count, np.inf)  # the smallest spread so far
  end, earlier = spacings[0].copy(), spacings[0].copy()
  going = np.ones(count, bool)
  rise = np.minimum(_RISE, _OF_LOSS / epsilons)
  for spread, spacing, value in zip(spreads, spacings, values, strict=True):
    allowed = np.maximum(rise * first, _ROUNDINGS * epsilons * value)
    going &= np.isfinite(spread) & (np.isinf(first) | (spread <= allowed))
    going &= (value <= _GROWN * values[0]) | (values[0] == 0)
    new = going & ((spacing > end) | (seen == 0))  # the highest may come twice
    now = np.where(new, spread, 0.0)
    second = np.fmax(second, np.fmin(most, now))
    most, last = np.fmax(most, now), np.where(new, now, last)
    first = np.where(now > 0, np.fmin(first, now), first)
    earlier = np.where(new, end, earlier)
    end = np.where(going, spacing, end)
    seen += now > 0
    flat += new & (most == 0)
  # What only the largest show is a jump or a kink farther away.
  lone = (seen > 0) & (seen < 3) & (flat > 3) & (last > 0)
  noise = np.where(seen > 2, second, np.where(lone, 0.0, most))
  end = np.where(lone, earlier, end)
  end = np.where((seen > 2) & (last > 3 * second), earlier, end)
  # Ten points that see noise alone span twice the step at which the error of
  # extrapolated differences is that noise.
  step = np.where(going & ~lone, np.inf, 4 * end)
  return Reach(np.where(noise > 0, noise, np.nan), step)


def own(
  losses: Losses,
  loss: float,
  precision: Any,
  positions: Int[np.ndarray, " n"],
  found: Reach,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """The noise of one loss and the unit of the steps, along each line.

  The noise is at least half the spacing of floats at the loss. The unit is
  one, or the tensor's largest entry if that is more, unless the loss bends
  sooner.
  """
  floor = float(jnp.finfo(precision).eps) / 2 * abs(loss)
  size = np.maximum(sizes(losses)[positions], 1.0)
  scale = np.minimum(size, found.step / first_step(precision))
  return np.fmax(found.noise, floor), scale


def by_tensor(
  losses: Losses,
  loss: float,
  precision: Any,
  weights: Float[np.ndarray, " P"],
  seed: int,
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
  """As `own`, one for each tensor.

  In every tensor some coordinates that move the loss are looked at, half of
  them those of the largest weights. Of their noises the second largest counts,
  of their steps the second smallest: one may lie close to a kink.
  """
  rng = np.random.default_rng(seed)
  base = losses.round(losses.theta)
  size = sizes(losses)
  noise, step = np.full(size.size, np.nan), np.full(size.size, np.inf)
  for part in losses.layout.slices():
    order = np.argsort(-np.abs(weights[part]), kind="stable")
    drawn = np.concatenate(
      [order[: _LINES // 2], rng.permutation(order)[:_DRAWN]]
    )
    drawn = part.start + drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    largest = size[part.start]
    for far in (min(largest, 1.0), max(largest, 1.0), *_FARTHER):
      sides = base[drawn] + far * _FAR * np.array([[1.0], [-1.0]])
      moved = losses.round(sides, drawn).ravel()
      found = losses.at(base, np.tile(drawn, 2), moved)
      apart = np.fmax.reduce(np.abs(found.reshape(sides.shape) - loss))
      alive = apart > 0
      if not alive.any():
        continue
      lines = reach(losses, drawn[alive][:_LINES])
      seen = lines.noise[np.isfinite(lines.noise)]
      if seen.size:
        noise[part] = np.sort(seen)[-2:][0]
      elif far in _FARTHER and loss:  # the loss moves in steps of its own
        noise[part] = min(apart[alive].min(), abs(loss))
      step[part] = np.sort(lines.step)[:2][-1]
      units = np.minimum(lines.step, np.maximum(largest, 1.0))
      many = part.stop - part.start > _MOST_MIXED
      if units.max() > _MIXED * units.min() and not many:
        each = reach(losses, np.arange(part.start, part.stop))
        if np.any(np.isfinite(each.noise)):  # one may straddle a kink
          noise[part] = np.nanmedian(each.noise)
        step[part] = each.step
      break
  return own(losses, loss, precision, np.arange(size.size), Reach(noise, step))


def grids(
  losses: Losses, types: tuple[np.dtype, ...], seed: int
) -> tuple[np.dtype, ...]:
  """The type to which the loss rounds each of its tensors, in effect.

  A loss may round its parameters to float32 inside and return float64: moves
  far below float32's spacing go unnoticed. It is one that rounding a tensor
  beforehand never changes.
  """
  found = list(losses.grids)
  theta = losses.theta.astype(np.float64)
  for leaf, part in enumerate(losses.layout.slices()):
    largest = np.abs(theta[part]).max()
    moves = np.outer(sorted({largest, 1.0} - {0.0}), _MOVES).ravel()
    for dtype in types:
      if jnp.finfo(dtype).nmant >= jnp.finfo(found[leaf]).nmant:
        continue
      rng, seen = np.random.default_rng(seed), set()
      for far in moves:
        moved, short = theta.copy(), theta.copy()
        moved[part] += far * rng.standard_normal(part.stop - part.start)
        with np.errstate(over="ignore"):
          short[part] = moved[part].astype(dtype).astype(np.float64)
        value = losses.at(moved.astype(losses.theta.dtype))[0]
        if value != losses.at(short.astype(losses.theta.dtype))[0]:
          break
        seen.add(value)
      else:
        if len(seen) > 1:  # a loss that never changes tells nothing
          found[leaf] = dtype
          break
  return tuple(found)
