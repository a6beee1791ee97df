import numpy as np
import pytest

from mnist_jax import plotting, range_test
from mnist_jax.range_test import figures, rules

RATES = range_test.Ramp(1e-4, 10.0, 120).rates()


def judged(losses, rates=RATES):
  recording = range_test.Recording(
    rates,
    np.full(len(losses), 2.3),
    losses,
    seeds=tuple(range(len(losses))),
  )
  return rules.judge(recording)


def falling(edges):
  """A valley for each edge, lost above 3 times it."""
  rates = RATES.astype(float)
  rows = []
  for edge in edges:
    losses = 2.3 - 2 / (1 + 0.05 / rates) + (rates / edge) ** 3
    rows.append(np.where(rates > 3 * edge, np.nan, losses))
  return np.stack(rows)


def labels(ax):
  return ax.get_legend_handles_labels()[1]


def test_it_shows_ramp_band_rules_and_ends():
  test = judged(falling([0.5, 0.7, 1.0]))
  figure = figures.range_test(test, "three seeds")
  ramp, loss = figure.axes
  np.testing.assert_allclose(ramp.lines[0].get_ydata(), RATES)
  assert (ramp.get_yscale(), loss.get_xscale()) == ("log", "log")
  found = labels(loss)
  assert "smoothed loss (n = 3)" in found
  assert any(text.startswith("minimum, at rate") for text in found)
  assert any("of 3 seeds, at rate" in text for text in found)
  for suggestion in test.suggestions:
    shown = [t for t in found if t.startswith(f"rule {suggestion.rule}:")]
    assert len(shown) == 1
    if suggestion.rate is None:
      assert shown[0].endswith("none")
    else:
      assert f"{suggestion.rate:.2g} (" in shown[0]
  assert len(loss.collections) > 0
  assert plotting.render(figure, "png").startswith(b"\x89PNG")


def test_the_mean_ends_where_the_first_seed_ends():
  test = judged(falling([0.5, 1.0]))
  loss = figures.range_test(test).axes[1]
  (mean,) = (x for x in loss.lines if x.get_label() == "smoothed loss (n = 2)")
  ends = [len(curve.rates) for curve in test.curves]
  assert len(mean.get_xdata()) == min(ends) < max(ends)


def test_a_marker_stands_for_one_thing():
  test = judged(falling([0.5, 0.7]))
  loss = figures.range_test(test).axes[1]
  markers = [
    line.get_marker() for line in loss.lines if line.get_marker() != "None"
  ]
  caps = {"|", 0, 1, 2, 3}
  shown = [m for m in markers if m not in caps]
  assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
  "losses", [np.full((2, 120), np.nan), np.full((1, 120), 2.3)]
)
def test_a_test_without_a_curve_or_a_descent_is_drawn_too(losses):
  figure = figures.range_test(judged(losses))
  shown = labels(figure.axes[1])
  assert sum(text.endswith(": none") for text in shown) == len(rules.RULES)
  assert plotting.render(figure, "png")


def test_a_linear_ramp_has_a_linear_axis():
  rates = range_test.Ramp(1e-3, 1.0, 120, "linear").rates()
  figure = figures.range_test(judged(np.full((1, 120), 2.3), rates))
  assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
  ("sizes", "memory", "ticks"),
  [
    (2 ** np.arange(5), 3e8 + 1e8 * np.arange(5), ["256 MiB", "512 MiB"]),
    (2 ** np.arange(25), 300 * 2.0 ** np.arange(25), ["256 B", "4 KiB"]),
    (np.array([30]), np.array([700.0]), ["512 B", "1 KiB"]),
  ],
)
def test_batches_and_memory_have_ticks_at_powers_of_two(sizes, memory, ticks):
  found = range_test.BatchSizes(
    sizes, np.ones((2, len(sizes))), memory.astype(int), sizes > 0, "an end"
  )
  figure = found.plot()
  figure.draw_without_rendering()
  ax = figure.axes[1]
  assert [tick.get_text() for tick in ax.get_yticklabels()][:2] == ticks
  low, high = ax.get_ylim()
  assert ((low < ax.get_yticks()) & (ax.get_yticks() < high)).all()
  places = np.log2(ax.get_xticks())
  assert 2 <= len(places) <= 9
  assert (places == places.round()).all()
