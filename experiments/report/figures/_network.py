"""N1, N2: what the network comes to over seeds; B9: the worked example."""

from fractions import Fraction

from experiments.report.figures._common import (
  ACCURACY,
  EPOCH,
  LOSS,
  Panel,
  curves,
  figure,
  seeds,
)
from experiments.report.figures.vega import Axis, Figure, Series
from experiments.report.results import Results
from experiments.report.words import Words


def _learning(results: Results, words: Words) -> list[Figure]:
  found = results.json("seeds")
  made: list[Figure] = []
  for metric, axis in (("dev_accuracy", ACCURACY), ("dev_loss", LOSS)):
    own = found.get(metric, [])
    after = [  # the start would flatten all that comes after it
      curve
      | {"points": curve["points"][1:]}
      | {"seeds": [run[1:] for run in curve.get("seeds", ())]}
      for curve in own
    ]
    series = curves(words, after, "series.hidden")
    made += figure(f"seeds_{metric}", EPOCH, axis, series, n=seeds(own))
  tested = found.get("test_accuracy", {})
  series = [
    Series(
      words.label("series.hidden", name),
      [(rank, value) for rank, value in enumerate(values, 1)],
      joined=False,
    )
    for name, values in tested.items()
  ]
  book = words.label("series.book", "97.49")
  longest = max((len(values) for values in tested.values()), default=0)
  if longest:
    series.append(Series(book, [(1, 0.9749), (longest, 0.9749)], plain=True))
  rank = Axis("axis.rank", format="d")
  test = Axis("axis.test_accuracy", format=".1%")
  return made + figure("seeds_test", rank, test, series, n=longest)


def _line(results: Results, words: Words) -> list[Figure]:
  """The loss J(w) = w^2 / (2 / mean x^2), and the step that the text takes."""
  table = results.summary("line_fit")
  if table is None:
    return []
  series = []
  for row in table.to_dict("records")[:2]:  # the chapter's own two
    limit = float(Fraction(row["stable_below"]))
    label = words.label("series.points", row["points"])
    places = [k / 20 for k in range(-34, 35)]
    parabola = [(w, w * w / limit) for w in places]
    series.append(Series(label, parabola, plain=True))
    arrives = float(Fraction(row["text_step"]))
    step = [(w, w * w / limit) for w in (0.5, arrives)]
    rate = words.label("series.text_step", row["points"], row["text_rate"])
    series.append(Series(rate, step))
  slope = Axis("axis.slope", format=".1f")
  return figure(
    "line_fit", slope, Axis("axis.line_loss", format=".2~g"), series
  )


def panels(results: Results, words: Words) -> list[Panel]:
  return [
    Panel("seeds", "seeds", _learning(results, words)),
    Panel("line_fit", "line_fit", _line(results, words)),
  ]
