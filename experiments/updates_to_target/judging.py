"""The parts of B7 and B8, and the sentences of their numbers.

`measured` holds, by name, tables with a row for each run: "table" (B7's fresh
runs), "roughness", "gap" (B8's, each at its end) and "sharpness"; and
"gap_tuned", of each family of B8 what its tuning found.
"""

import functools
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from experiments._shared import study, tuning
from experiments._shared.metric import ACCURACY, LOSS
from experiments.updates_to_target import scaling
from mnist_jax import stats
from mnist_jax.sweep import tables

SMALL_TO, FLAT = 64, -0.1
REFERENCE, LARGE = 128, 2048  # batches of B8
ON = {"development": "dev_accuracy", "test": "test_accuracy"}
# Of the three regions: the words, the claim, and where.
REGIONS: tuple[tuple[str, dict[str, Any]], ...] = (
  ("perfect scaling", {"kind": "same", "target": -1.0, "margin": 0.1}),
  ("diminishing returns", {"kind": "same", "target": -0.5, "margin": 0.4}),
  ("no gain left", {"kind": "greater", "target": FLAT}),
)


def equal_updates(size: int) -> str:
  """The family of the reference with as many updates as a larger batch has."""
  return f"{REFERENCE}, updates of {size}"


def _missed(measured: study.Tables, target: float) -> str:
  own = measured["table"].query("target == @target")
  short = int((~own["reached"].astype(bool)).sum())
  return f"{short} of {len(own)} runs did not get there"


def _fewer(measured: study.Tables, target: float) -> stats.Question:
  """Do updates to the target fall over the small batches?"""
  batches, updates = scaling.to_target(measured["table"], target)
  few = batches <= max(SMALL_TO, batches[1])
  return stats.Question(
    f"fewer updates to {target:g}",
    f"updates to a loss of {target:g} fall with the batch from {batches[0]:g} "
    f"to {batches[few][-1]:g}: slope below 0",
    stats.loglog_slope(batches[few], updates[:, few], seed=0),
    "less",
    note=_missed(measured, target),
  )


def _regions(measured: study.Tables, target: float) -> list[stats.Question]:
  batches, updates = scaling.to_target(measured["table"], target)
  middle = (len(batches) - 2) // 2
  places = (slice(3), slice(middle, middle + 3), slice(-3, None))
  questions = []
  for (name, asked), place in zip(REGIONS, places, strict=True):
    own = batches[place]
    questions.append(
      stats.Question(
        name,
        f"{name} of updates to {target:g} from batch {own[0]:g} to {own[-1]:g}",
        stats.loglog_slope(own, updates[:, place], seed=0),
        role="secondary",
        note=_missed(measured, target),
        **asked,
      )
    )
  return questions


def b7(measured: study.Tables, values: study.Values) -> stats.Claim:
  """Fewer updates and smoother curves, up to a point."""
  main = values.targets[1]
  sizes, rough = scaling.by_batch(measured["roughness"], "dev_loss")
  smoother = stats.Question(
    "smoother",
    f"the development loss at rate 0.5 is smoother from batch {sizes[0]:g} to "
    f"{sizes[-1]:g}: slope of its roughness below 0",
    stats.loglog_slope(sizes, rough, seed=0),
    "less",
  )
  parts = [
    *(_fewer(measured, target) for target in values.targets),
    smoother,
    *_regions(measured, main),
  ]
  batches, updates = scaling.to_target(measured["table"], main)
  few = batches <= max(SMALL_TO, batches[1])
  means = np.exp(np.log(updates).mean(axis=0))
  ratio = stats.typical_interval(np.log(rough[:, -1] / rough[:, 0]), seed=0)

  def sentence(judged: stats.Judged) -> str:
    per_target = ", ".join(
      stats.amount(judged.found(f"fewer updates to {target:g}"))
      for target in values.targets
    )
    last = batches[-3:]
    return (
      f"To a development loss of {main:g}, batch {batches[0]:g} takes "
      f"{means[0]:,.0f} updates and batch {batches[few][-1]:g} "
      f"{means[few][-1]:,.0f} (exponents to losses of "
      f"{', '.join(f'{t:g}' for t in values.targets)}: {per_target}); from "
      f"{last[0]:g} to {last[-1]:g} the exponent is "
      f"{stats.amount(judged.found('no gain left'))}; at rate 0.5 over "
      f"{values.smooth_epochs} epochs the development loss at batch "
      f"{sizes[-1]:g} is {stats.factor(ratio)} as rough as at {sizes[0]:g} "
      f"(n = {judged.n})."
    )

  return stats.Claim("B7", parts, sentence)


def _lost(
  measured: study.Tables,
  column: str,
  size: int,
  reference: str,
  sign: Literal[1, -1],
) -> stats.Effect:
  """By how much a column is worse at the large batch than at the reference."""
  found = [
    tuning.arm(
      measured["gap_tuned"][family],
      measured["gap"],
      family,
      column,
      sign=sign,
    )
    for family in (str(size), reference)
  ]
  return stats.tuned_difference(found[0], found[1], seed=0, median=None)


def _diverged(measured: study.Tables) -> str:
  lost: Bool[np.ndarray, " R"] = tables.lost(measured["gap"]).to_numpy()
  if not lost.any():
    return ""
  share = stats.share(stats.wilson_interval(int(lost.sum()), len(lost)))
  return f"{int(lost.sum())} of {len(lost)} runs failed, {share}"


def _why(measured: study.Tables, size: int) -> list[stats.Question]:
  """What else differs at the end of equal epochs."""
  worse = functools.partial(_lost, measured, size=size, sign=1)
  texts = {
    "train_loss": ("training loss", "the training loss is higher too"),
    "dev_loss": ("development loss", "the development loss is higher"),
    "gap": ("gap", "development less training loss is larger"),
  }
  return [
    stats.Question(
      f"{name} at {size}",
      f"{text} at {size} than at {REFERENCE}, equal epochs",
      worse(column=column, reference=str(REFERENCE)),
      margin=LOSS.margin,
      role="diagnostic",
    )
    for column, (name, text) in texts.items()
  ]


def b8(measured: study.Tables, values: study.Values) -> stats.Claim:
  """Too large a batch generalises worse."""
  large = values.gap_batches[1:]
  parts: list[stats.Question | stats.Part] = []
  budgets: tuple[tuple[str, Any, Any], ...] = (
    ("epochs", lambda size: str(REFERENCE), "primary"),
    ("updates", equal_updates, "secondary"),
  )
  for budget, reference, role in budgets:
    for size in large:
      for name, column in ON.items():
        parts.append(
          stats.Question(
            f"{name} at {size}, equal {budget}",
            f"{name} accuracy is lower at {size} than at {REFERENCE}, equal "
            f"{budget}",
            _lost(measured, column, size, reference(size), -1),
            margin=ACCURACY.margin,
            role=role,
            note=_diverged(measured),
          )
        )
  for size in large:
    parts += _why(measured, size)
  sizes, sharp = scaling.by_batch(measured["sharpness"], "sharpness")
  ratio = np.log(sharp[:, -1] / sharp[:, 0])
  parts.append(
    stats.Question(
      "sharper",
      f"the largest eigenvalue is larger at {sizes[-1]:g} than at "
      f"{sizes[0]:g}: log ratio above 0",
      stats.typical_interval(ratio, seed=0),
      role="diagnostic",
    )
  )

  def sentence(judged: stats.Judged) -> str:
    def loses(size: int) -> str:
      development, test = (
        ACCURACY.amount(judged.found(f"{name} at {size}, equal epochs"))
        for name in ON
      )
      return f"batch {size} loses {development} (test: {test})"

    equal = judged.found(f"development at {LARGE}, equal updates")
    train = judged.found(f"training loss at {LARGE}")
    return (
      f"Against batch {REFERENCE}, each tuned, in development accuracy after "
      f"{values.gap_epochs} epochs {', '.join(map(loses, large))}; after equal "
      f"updates batch {LARGE} loses {ACCURACY.amount(equal)}; its training "
      f"loss after equal epochs is higher by {LOSS.amount(train)} "
      f"(n = {judged.n})."
    )

  return stats.Claim("B8", parts, sentence)
