"""The common style: told apart in grey, equal bytes, nothing left out."""

import hashlib
import itertools
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mnist_jax import plotting


def drawn():
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  with plotting.style():
    ax.plot([0, 1], [1, 2], label="line", **plotting.series(0))
    ax.set_xlabel("epoch")
    ax.legend()
  return figure


def luminance(colour: str) -> float:
  r, g, b = matplotlib.colors.to_rgb(colour)
  return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_six_series_differ_without_their_colours():
  looks = [plotting.series(i) for i in range(6)]
  for one, other in itertools.combinations(looks, 2):
    assert one["linestyle"] != other["linestyle"]
    assert one["marker"] != other["marker"]
    assert one["color"] != other["color"]


def test_series_repeat_only_after_many():
  looks = [str(plotting.series(i)) for i in range(100)]
  assert len(set(looks)) == 100


def test_colours_stand_out_from_white():
  assert max(map(luminance, plotting.COLOURS)) < 0.7


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_equal_figures_have_equal_bytes(form):
  first = plotting.render(drawn(), form)
  assert first == plotting.render(drawn(), form)
  same = drawn()
  plotting.render(same, form)
  assert plotting.render(same, form) == first
  assert len(first) > 1000


def test_bytes_do_not_depend_on_process_or_settings():
  program = (
    "import sys, hashlib, matplotlib; from mnist_jax import plotting\n"
    "matplotlib.rcParams['font.size'] = 30\n"
    "figure, axes = plotting.panels()\n"
    "with plotting.style(): axes[0, 0].plot([0, 1], [1, 2])\n"
    "print(hashlib.sha256(plotting.render(figure, 'svg')).hexdigest())\n"
    "assert 'matplotlib.pyplot' not in sys.modules\n"
    "assert matplotlib.rcParams['font.size'] == 30\n"
  )
  elsewhere = subprocess.run(
    [sys.executable, "-c", program], check=True, capture_output=True, text=True
  ).stdout.strip()
  figure, axes = plotting.panels()
  with plotting.style():
    axes[0, 0].plot([0, 1], [1, 2])
  here = hashlib.sha256(plotting.render(figure, "svg")).hexdigest()
  assert elsewhere == here


def test_save_writes_each_form_and_leaves_nothing_else(tmp_path):
  figure = drawn()
  paths = [tmp_path / "a.png", tmp_path / "a.svg"]
  paths[0].write_bytes(b"old")
  plotting.save(figure, *paths)
  assert paths[0].read_bytes() == plotting.render(figure, "png")
  assert paths[1].read_bytes().startswith(b"<?xml")
  assert sorted(tmp_path.iterdir()) == paths
  with pytest.raises(KeyError):
    plotting.save(figure, tmp_path / "a.xyz")
  assert sorted(tmp_path.iterdir()) == paths
  taken = tmp_path / "b.png"
  taken.mkdir()
  with pytest.raises(OSError):
    plotting.save(figure, taken)
  assert sorted(tmp_path.iterdir()) == [*paths, taken]


@given(st.floats(1e-12, 1e6), st.floats(1.5, 1e9), st.sampled_from(["x", "y"]))
@settings(max_examples=12)
def test_log_axis_has_a_few_readable_ticks(low, ratio, which):
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  ends = [low, low * ratio]
  ax.plot(*([ends, [0, 1]] if which == "x" else [[0, 1], ends]))
  plotting.log_axis(ax, which)
  plotting.render(figure, "png")
  axis = getattr(ax, f"{which}axis")
  view = sorted(axis.get_view_interval())
  shown = [t for t in axis.get_ticklocs() if view[0] <= t <= view[1]]
  assert axis.get_scale() == "log"
  assert 1 <= len(shown) <= 14
  assert all(tick.get_text() for tick in axis.get_ticklabels())


def test_log_axis_takes_the_ticks_it_is_given():
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  sizes = [16, 32, 64, 100_000]
  ax.plot(sizes, [1, 2, 3, 4])
  plotting.log_axis(ax, "x", sizes)
  plotting.render(figure, "png")
  texts = [label.get_text() for label in ax.get_xticklabels()]
  assert texts == ["16", "32", "64", "$10^{5}$"]


def test_bands_draw_the_mean_and_student_s_interval():
  rng = np.random.default_rng(0)
  y = rng.normal(size=(30, 4))
  _, axes = plotting.panels()
  ax = axes[0, 0]
  line = plotting.bands(ax, np.arange(4), y, "arm", index=2)
  np.testing.assert_allclose(line.get_ydata(), y.mean(axis=0))
  assert line.get_label() == "arm (n = 30)"
  low, high = stats.t.interval(0.95, 29, y.mean(axis=0), stats.sem(y, axis=0))
  corners = ax.collections[0].get_paths()[0].vertices
  for k in range(4):
    at = corners[corners[:, 0] == k, 1]
    np.testing.assert_allclose([at.min(), at.max()], [low[k], high[k]])


def test_bands_count_and_mark_diverged_seeds():
  y = np.ones((5, 3))
  y[1, 2] = np.nan
  y[3, 1:] = np.inf
  _, axes = plotting.panels()
  ax = axes[0, 0]
  line = plotting.bands(ax, np.array([1, 2, 3]), y, "arm")
  assert line.get_label() == "arm (n = 5, 2 diverged)"
  np.testing.assert_array_equal(line.get_ydata(), [1, 1, 1])
  (crosses,) = [other for other in ax.lines if other.get_marker() == "x"]
  np.testing.assert_array_equal(crosses.get_xdata(), [2, 3])


def test_bands_of_one_seed_and_of_a_given_interval():
  x = np.array([0, 1])
  _, axes = plotting.panels(1, 2)
  plotting.bands(axes[0, 0], x, np.array([[1.0, 2.0]]), "one")
  assert not axes[0, 0].collections
  interval = (np.array([0.0, 0.5]), np.array([3.0, 4.0]))
  plotting.bands(axes[0, 1], x, np.ones((4, 2)), "given", interval=interval)
  corners = axes[0, 1].collections[0].get_paths()[0].vertices
  assert corners[:, 1].min() == 0
  assert corners[:, 1].max() == 4


def test_bands_of_seeds_that_all_diverged():
  figure, axes = plotting.panels()
  plotting.bands(axes[0, 0], np.arange(3), np.full((4, 3), np.nan), "lost")
  plotting.render(figure, "png")
  assert axes[0, 0].lines[0].get_label() == "lost (n = 4, 4 diverged)"


def test_differences_show_zero_interval_margin_and_the_lost():
  estimates = np.array([0.5, 0.1, np.nan])
  lows = np.array([0.2, -0.1, -1.0])
  highs = np.array([0.9, 0.3, 1.0])
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  x = np.array([1, 2, 3])
  plotting.differences(
    ax, x, estimates, lows, highs, label="a minus b", margin=0.25
  )
  plotting.render(figure, "png")
  assert list(ax.lines[0].get_ydata()) == [0, 0]
  segments = [
    path.vertices
    for container in ax.containers
    for path in container.lines[2][0].get_paths()
  ]
  np.testing.assert_allclose(segments[0], [[1, 0.2], [1, 0.9]])
  np.testing.assert_allclose(segments[1], [[2, -0.1], [2, 0.3]])
  decided, undecided = (c.lines[0] for c in ax.containers)
  assert decided.get_markerfacecolor() == plotting.COLOURS[0]
  assert undecided.get_markerfacecolor() == "white"
  (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
  assert list(cross.get_xdata()) == [3]
  labels = ax.get_legend_handles_labels()[1]
  assert "within the margin ±0.25" in labels
  assert sum("a minus b" in label for label in labels) == 1


def test_heat_map_shows_each_cell_at_its_place_and_hatches_the_lost():
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  values = np.array([[1.0, 2.0, np.nan], [3.0, 99.0, 4.0]])
  lost = np.array([[False, False, False], [False, True, False]])
  plotting.heat_map(
    ax,
    np.array([1, 4, 16]),
    np.array([0.5, 1.0]),
    values,
    "loss (nats)",
    lost=lost,
    low_is_good=True,
  )
  (mesh,) = [c for c in ax.collections if c.get_hatch() is None]
  (dark,) = [c for c in ax.collections if c.get_hatch()]
  assert mesh.get_clim() == (1, 4)  # the lost cell's 99 does not count
  hidden = np.ma.getmaskarray(mesh.get_array()).reshape(2, 3)
  np.testing.assert_array_equal(hidden, lost | np.isnan(values))
  corners = dark.get_paths()[0].vertices
  np.testing.assert_allclose(corners.min(axis=0), [2, 0.5 * 2**0.5])
  np.testing.assert_allclose(corners.max(axis=0), [8, 2**0.5])
  assert ax.get_xlim() == pytest.approx((0.5, 32))
  plotting.render(figure, "png")
