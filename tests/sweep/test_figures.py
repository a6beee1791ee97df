"""What the figures of studies show."""

import numpy as np

from mnist_jax import plotting
from mnist_jax.stats import effects
from mnist_jax.sweep import figures
from mnist_jax.sweep.tables import Curves


def curves():
  values = np.arange(24, dtype=np.float64).reshape(2, 4, 3) / 100
  return Curves((0.1, 0.2), (0, 1, 2, 3), np.array([0.0, 1.0, 2.0]), values)


def test_curves_have_an_arm_each_and_percent_for_accuracy():
  figure, axes = plotting.panels()
  ax = axes[0, 0]
  figures.draw_curves(ax, curves(), "dev_accuracy", "rate {:g}".format)
  labels = [text.get_text() for text in ax.get_legend().get_texts()]
  assert labels == ["rate 0.1 (n = 4)", "rate 0.2 (n = 4)"]
  means = [line.get_ydata() for line in ax.lines]
  np.testing.assert_allclose(means, curves().values.mean(axis=1))
  assert ax.get_ylabel() == "development accuracy (%)"
  assert ax.yaxis.get_major_formatter()(0.975, 0) == "97.5"
  assert len(ax.collections) == 2  # a band each
  plotting.render(figure, "png")


def test_points_before_since_are_left_out():
  _, axes = plotting.panels()
  figures.draw_curves(axes[0, 0], curves(), "dev_loss", since=1)
  assert list(axes[0, 0].lines[0].get_xdata()) == [1, 2]
  assert axes[0, 0].get_ylabel() == "development loss (nats)"


def test_differences_show_the_mean_and_student_interval():
  _, axes = plotting.panels()
  rng = np.random.default_rng(0)
  differences = rng.normal([0, 5], 1, (30, 2))
  ax = axes[0, 0]
  figures.draw_differences(ax, np.array([1.0, 2.0]), differences, "a less b")
  ends = [
    path.vertices[:, 1]
    for container in ax.containers
    for path in container.lines[2][0].get_paths()
  ]
  expected = [effects.student_interval(d) for d in differences.T]
  found = sorted(tuple(np.sort(pair)) for pair in ends)
  np.testing.assert_allclose(found, [(e.low, e.high) for e in expected])


def test_effects_are_scaled_and_hollow_where_zero_is_inside():
  _, axes = plotting.panels()
  ax = axes[0, 0]
  inside = effects.student_interval(np.array([-1.0, 1.0, 0.5]))
  above = effects.student_interval(np.array([5.0, 5.1, 5.2]))
  figures.draw_effects(
    ax, ["inside", "above"], [inside, above], scale=100, margin=0.1
  )
  names = [text.get_text() for text in ax.get_yticklabels()]
  assert names == ["inside", "above"]
  dots = [line for line in ax.lines if line.get_marker() == "o"]
  np.testing.assert_allclose(
    [dot.get_xdata()[0] for dot in dots],
    [100 * inside.estimate, 100 * above.estimate],
  )
  assert dots[0].get_markerfacecolor() == "white"
  assert dots[1].get_markerfacecolor() != "white"
  assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
