"""B2 and H1: how the best rate goes with the batch and with the horizon."""

from typing import Any

import numpy as np

from experiments._shared import study
from experiments._shared.rate_search import Target
from experiments.lr_batch_size.ridges import (
  Ridge,
  Ridges,
  after,
  crossing,
  effect_of,
  full_sizes,
  horizons,
)
from mnist_jax import stats
from mnist_jax.stats import slopes, verdicts

MARGIN = 0.15  # of exponents
Gaps = dict[str, tuple[int, int]]  # neighbouring batch sizes


def gaps(sizes: list[int]) -> Gaps:
  """The neighbours between which each part of B2 is looked for."""
  return {
    "linear": (sizes[0], sizes[1]),
    "less": (sizes[-3], sizes[-2]),
    "none": (sizes[-2], sizes[-1]),
  }


CLAIMED: dict[str, dict[str, Any]] = {  # of the exponent over each gap
  "linear": {"kind": "same", "target": 1.0, "margin": MARGIN},
  "less": {"kind": "less", "target": 1.0, "margin": MARGIN},
  "none": {"kind": "less", "target": MARGIN},
}
_WORDS = {
  "linear": "the best rate grows like the batch",
  "less": "it grows by less",
  "none": "it grows no more",
}


def _exponent(
  name: str,
  text: str,
  ridge: Ridge,
  sizes: tuple[int, ...],
  *,
  test: Ridge | None = None,
  **how: Any,
) -> stats.Question:
  """A question about the exponent of the best rate over these sizes."""
  beside = None
  if test is not None:
    beside = effect_of(test.exponents(sizes), test.n)
  return stats.Question(
    name,
    f"{text} (exponent of the best rate, batch {sizes[0]} to {sizes[-1]})",
    effect_of(ridge.exponents(sizes), ridge.n),
    censored=ridge.censored(sizes),
    test_effect=beside,
    **how,
  )


_BESIDE: dict[str, Any] = {"role": "secondary"}


def _b2_shape(ridge: Ridge, test: Ridge, where: Gaps) -> list[stats.Question]:
  """How the exponent goes on the way: it falls, and by the root between."""
  first, none = where["linear"], where["none"]
  return [
    stats.Question(
      "falls",
      f"the exponent is larger from batch {first[0]} to {first[1]} than from "
      f"{none[0]} to {none[1]}",
      effect_of(ridge.exponents(first) - ridge.exponents(none), ridge.n),
      restriction="the exponent falls as the batch grows",
      censored=max(ridge.censored(first), ridge.censored(none)),
      **_BESIDE,
    ),
    _exponent(
      "square root",
      "the best rate grows like the root of the batch",
      ridge,
      where["less"],
      test=test,
      kind="same",
      target=0.5,
      margin=MARGIN,
      **_BESIDE,
    ),
  ]


def _b2_earlier(
  found: Ridges, values: study.Values, where: Gaps
) -> list[stats.Question]:
  """The first and the last stretch at each horizon before the end."""
  parts = []
  for horizon in horizons(values)[:-1]:
    own = found[Target(horizon, "dev_loss")]
    smallest = (int(own.sizes[0]), int(own.sizes[1]))
    parts += [
      _exponent(
        f"{name}, {after(horizon)}",
        f"after {after(horizon)} {_WORDS[name]}",
        own,
        gap,
        **CLAIMED[name],
        **_BESIDE,
      )
      for name, gap in (("linear", smallest), ("none", where["none"]))
    ]
  return parts


def _bends(ridge: Ridge) -> stats.Part:
  fit = _fit(ridge)
  return stats.derived(
    "bends",
    "one or two breaks fit the best rates better than one line",
    fit.best != "line",
    f"BIC prefers {fit.best}, by {fit.bic_difference:.3g}",
    role="diagnostic",
  )


def _b2_parts(
  found: Ridges, test: Ridges, values: study.Values
) -> list[stats.Question | stats.Part]:
  last, where = values.epochs, gaps(full_sizes(values))
  end, error = Target(last, "dev_loss"), Target(last, "dev_error")
  ridge = found[end]
  return [
    *(
      _exponent(name, _WORDS[name], ridge, gap, test=test[end], **CLAIMED[name])
      for name, gap in where.items()
    ),
    *_b2_shape(ridge, test[end], where),
    *(
      _exponent(
        f"{name}, by error",
        f"by the error instead of the loss {_WORDS[name]}",
        found[error],
        gap,
        test=test[error],
        **CLAIMED[name],
        **_BESIDE,
      )
      for name, gap in where.items()
    ),
    *_b2_earlier(found, values, where),
    _bends(ridge),
  ]


def _fit(ridge: Ridge) -> slopes.PiecewiseFit:
  best = ridge.best
  return slopes.draws_piecewise(ridge.sizes, best.at, best.draws, ridge.n)


def passes(ridge: Ridge) -> str:
  """Where the exponent falls below 1/2, as the end of a sentence."""
  at, censored = crossing(ridge)
  if censored <= verdicts.MOST_CENSORED:
    ratio = stats.as_ratio(effect_of(np.log(at), ridge.n))
    return "falls below 1/2 at batch {:.0f} ({:.0f} to {:.0f})".format(*ratio)
  if ridge.local()[1][0, 0] < 0.5:
    return "is below 1/2 from the smallest batch on"
  return "falls below 1/2 at no batch that could be told"


def judge_b2(found: Ridges, test: Ridges, values: study.Values) -> stats.Judged:
  last, where = values.epochs, gaps(full_sizes(values))
  ends = [found[Target(h, "dev_loss")] for h in (last, 1)]

  def sentence(judged: stats.Judged) -> str:
    exponents = ", ".join(
      f"{stats.amount(judged.found(name))} from {a} to {b}"
      for name, (a, b) in where.items()
    )
    return (
      f"After {last} epochs the best rate by development loss goes with the "
      f"batch to the power {exponents}; the exponent {passes(ends[0])}, "
      f"after one epoch it {passes(ends[1])} (n = {values.seeds})."
    )

  parts = _b2_parts(found, test, values)
  return stats.judge(stats.Claim("B2", parts, sentence, "ordered"))


def falls(
  found: Ridges, size: int, values: study.Values
) -> tuple[stats.Effect, float]:
  """The exponent of a size's best rate on the horizon; the share censored."""
  along = [found[Target(h, "dev_loss")] for h in horizons(values)]
  rates = np.hstack([each.rates[:, each.of((size,))] for each in along])
  exponents = slopes.seed_slopes(np.array(horizons(values)), rates)
  censored = max(each.censored((size,)) for each in along)
  return effect_of(exponents, along[0].n), censored


def judge_h1(found: Ridges, values: study.Values) -> stats.Judged:
  last, sizes = values.epochs, full_sizes(values)
  early, late = (found[Target(h, "dev_loss")] for h in (1, last))
  parts: list[stats.Question | stats.Part] = []
  for size in sizes:
    effect, censored = falls(found, size, values)
    parts.append(
      stats.Question(
        f"falls at batch {size}",
        f"at batch {size} the best rate falls with the horizon (exponent)",
        effect,
        "less",
        role="primary" if size == sizes[0] else "secondary",
        censored=censored,
      )
    )
  three = tuple(sizes[:3])
  where = f"from batch {three[0]} to {three[-1]}"
  rise = late.exponents(three) - early.exponents(three)
  parts.append(
    stats.Question(
      "exponent grows",
      f"{where} the exponent is larger after {last} epochs than after 1",
      effect_of(rise, late.n),
      margin=MARGIN,
      censored=max(each.censored(three) for each in (early, late)),
    )
  )
  moved, share = zip(*map(crossing, (early, late)), strict=True)
  parts.append(
    stats.Question(
      "crossing moves",
      "the exponent falls below 1/2 at a larger batch (log of the ratio)",
      effect_of(np.log(moved[1] / moved[0]), late.n),
      role="diagnostic",
      censored=max(share),
    )
  )

  def sentence(judged: stats.Judged) -> str:
    fall = judged.found(f"falls at batch {sizes[0]}")
    old, new = (
      effect_of(each.exponents(three), late.n) for each in (early, late)
    )
    return (
      f"At batch {sizes[0]} the best rate by development loss goes with the "
      f"number of epochs, 1 to {last}, to the power {stats.amount(fall)}; "
      f"{where} it goes with the batch to the power {stats.amount(old)} after "
      f"one epoch and {stats.amount(new)} after {last} (n = {values.seeds})."
    )

  return stats.judge(stats.Claim("H1", parts, sentence))
