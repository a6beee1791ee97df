"""The figures of a run say what the records say, with units."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnist_jax import plotting
from mnist_jax.plotting import run


def rows(epochs: int = 5) -> list[dict]:
  return [
    {
      "epoch": e,
      "step": 430 * e,
      "learning_rate": 0.2,
      "train_loss": 2.3 * 0.5**e,
      "train_accuracy": 0.1 if e == 0 else 1 - 0.1 * 0.8**e,
      "dev_loss": 2.3 * 0.6**e,
      "dev_accuracy": 0.11 if e == 0 else 1 - 0.1 * 0.85**e,
    }
    for e in range(epochs + 1)
  ]


ONE_ROW = {
  "train_loss": 1.0,
  "dev_loss": 1.0,
  "train_accuracy": 0.5,
  "dev_accuracy": 0.5,
}


def lines_of(ax) -> dict:
  return {line.get_label(): line for line in ax.lines}


def texts_of(figure) -> str:
  """Every text of the figure that is drawn."""
  return "\n".join(
    text.get_text()
    for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    if text.get_visible()
  )


def test_curves_draw_the_rows_with_units_and_legend():
  figure = run.curves(rows(), title="a run")
  loss, accuracy = figure.axes
  for ax, quantity in ((loss, "loss"), (accuracy, "accuracy")):
    drawn = lines_of(ax)
    for part in ("train", "dev"):
      expected = [row[f"{part}_{quantity}"] for row in rows()]
      np.testing.assert_array_equal(drawn[part].get_ydata(), expected)
      np.testing.assert_array_equal(drawn[part].get_xdata(), range(6))
    assert drawn["train"].get_linestyle() != drawn["dev"].get_linestyle()
    assert drawn["train"].get_marker() != drawn["dev"].get_marker()
    assert ax.get_xlabel() == "epoch (1 epoch = 430 updates)"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["train", "dev"]
  assert loss.get_ylabel() == "cross-entropy (nats)"
  assert loss.get_yscale() == "log"
  assert accuracy.get_ylabel() == "accuracy (% of examples)"
  assert "a run" in texts_of(figure)


def test_curves_mark_the_test_result():
  test = {"test_loss": 0.0931, "test_accuracy": 0.97389, "more": 1}
  figure = run.curves(rows(), test, test_epoch=3)
  loss, accuracy = figure.axes
  star = lines_of(loss)["test: 0.0931"]
  assert (star.get_xdata()[0], star.get_ydata()[0]) == (3, 0.0931)
  star = lines_of(accuracy)["test: 97.39 %"]
  assert (star.get_xdata()[0], star.get_ydata()[0]) == (3, 0.97389)
  figure = run.curves(rows(), test)
  assert lines_of(figure.axes[0])["test: 0.0931"].get_xdata()[0] == 5


def test_the_untrained_accuracy_below_the_view_is_told():
  figure = run.curves(rows())
  accuracy = figure.axes[1]
  assert accuracy.get_ylim()[0] > 0.5
  assert "epoch 0, below: train 10.0 %, dev 11.0 %" in texts_of(figure)
  # The test result stays in view, however bad it is.
  worse = run.curves(rows(), {"test_accuracy": 0.8})
  assert 0.5 < worse.axes[1].get_ylim()[0] < 0.8
  # A network that has hardly learned: all is in view.
  flat = rows(2)
  for row in flat:
    row["train_accuracy"] = row["dev_accuracy"] = 0.1 + row["epoch"] / 100
  figure = run.curves(flat)
  assert figure.axes[1].get_ylim()[0] < 0.1
  assert "below" not in texts_of(figure)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_diverged_rows_are_marked(bad):
  diverged = rows()
  diverged[3]["train_loss"] = bad
  diverged[4]["dev_loss"] = bad
  figure = run.curves(diverged)
  plotting.render(figure, "png")
  crosses = lines_of(figure.axes[0])["not finite (diverged)"]
  np.testing.assert_array_equal(crosses.get_xdata(), [3, 4])
  assert "not finite (diverged)" not in lines_of(figure.axes[1])
  assert math.isnan(lines_of(figure.axes[0])["train"].get_ydata()[3])


@given(
  st.lists(
    st.fixed_dictionaries(
      {
        key: st.one_of(st.none(), st.floats(width=32))
        for key in ("train_loss", "dev_loss")
      }
      | {
        key: st.one_of(st.none(), st.floats(0, 1), st.just(math.nan))
        for key in ("train_accuracy", "dev_accuracy")
      }
    ),
    min_size=1,
    max_size=4,
  ),
  st.one_of(st.none(), st.floats(width=32)),
)
@example([ONE_ROW], 0.0)
@example([ONE_ROW], -1.0)
@example([ONE_ROW], 3e38)
@example([ONE_ROW | {"train_loss": 0.0, "dev_loss": 1e-45}], None)
@settings(max_examples=12)
def test_any_rows_can_be_drawn(values, test_loss):
  drawn = [{"epoch": e, **row} for e, row in enumerate(values)]
  test = None if test_loss is None else {"test_loss": test_loss}
  plotting.render(run.curves(drawn, test), "png")


def test_curves_with_a_growing_batch_and_without_steps():
  uneven = rows(2)
  uneven[2]["step"] = 650
  label = run.curves(uneven).axes[0].get_xlabel()
  assert label == "epoch (650 updates in 2 epochs)"
  for row in uneven:
    del row["step"]
  assert run.curves(uneven).axes[0].get_xlabel() == "epoch"
  with pytest.raises(ValueError, match="no rows"):
    run.curves([])


@pytest.mark.parametrize("hidden", [1, 2, 6, 64, 300])
def test_first_layer_shows_each_unit_on_a_symmetric_scale(hidden):
  rng = np.random.default_rng(0)
  w = rng.normal(size=(784, hidden)).astype(np.float32)
  figure = run.first_layer(w)
  ax, bar = figure.axes
  (image,) = ax.images
  low, high = image.get_clim()
  assert low == -high
  assert high == pytest.approx(np.percentile(np.abs(w), 99.5), rel=1e-5)
  mosaic = np.ma.filled(image.get_array(), np.nan)
  columns = math.ceil(math.sqrt(hidden))
  for unit in {0, hidden // 2, hidden - 1}:
    y, x = 29 * (unit // columns) + 1, 29 * (unit % columns) + 1
    tile = mosaic[y : y + 28, x : x + 28]
    np.testing.assert_array_equal(tile, w[:, unit].reshape(28, 28))
  assert np.isfinite(mosaic).sum() == 784 * hidden
  assert "weight" in bar.get_ylabel()
  assert "hidden unit" in ax.get_xlabel()


def test_first_layer_of_zeros_and_of_lost_weights():
  plotting.render(run.first_layer(np.zeros((784, 4), np.float32)), "png")
  w = np.ones((784, 4), np.float32)
  w[5, 1], w[6, 1] = np.nan, np.inf
  figure = run.first_layer(w)
  plotting.render(figure, "png")
  lost = np.ma.filled(figure.axes[0].images[1].get_array(), np.nan)
  assert (lost == 1).sum() == 2
  plotting.render(run.first_layer(np.full((784, 2), np.nan, np.float32)), "png")


def examples(n: int):
  rng = np.random.default_rng(1)
  return (
    rng.integers(0, 256, (n, 784)).astype(np.uint8),
    rng.integers(0, 10, n).astype(np.int32),
    rng.integers(0, 10, n).astype(np.int32),
    rng.uniform(size=n).astype(np.float32),
  )


def test_mistakes_are_the_most_confident_ones():
  images, labels, predictions, confidences = examples(200)
  confidences[:3] = np.nan
  figure = run.mistakes(images, labels, predictions, confidences, count=12)
  wrong = np.flatnonzero(labels != predictions)
  ranked = sorted(
    (i for i in wrong if confidences[i] == confidences[i]),
    key=lambda i: -confidences[i],
  )[:12]
  (ax,) = figure.axes
  drawn = np.ma.filled(ax.images[0].get_array(), np.nan)
  assert np.isfinite(drawn).sum() == 12 * 784
  for text, i in zip(ax.texts, ranked, strict=True):
    assert text.get_text() == (
      f"true {labels[i]}, predicted {predictions[i]}\n"
      f"p = {confidences[i]:.4f}, no. {i}"
    )
    # The tile below the text.
    x, y = map(math.floor, text.get_position())
    tile = drawn[y + 2 : y + 30, x - 13 : x + 15]
    np.testing.assert_array_equal(tile, images[i].reshape(28, 28))
  title = f"The 12 most confident of {len(wrong)} mistakes among 200 examples"
  assert title in texts_of(figure)


@pytest.mark.parametrize("n", [0, 7])
def test_no_mistakes(n):
  images, labels, _, confidences = examples(n)
  figure = run.mistakes(images, labels, labels, confidences)
  plotting.render(figure, "png")
  assert f"0 mistakes among {n} examples" in texts_of(figure)


def test_few_mistakes_fill_few_tiles():
  images, labels, predictions, confidences = examples(7)
  predictions = labels.copy()
  predictions[[2, 5]] = (labels[[2, 5]] + 1) % 10
  figure = run.mistakes(
    images.reshape(-1, 28, 28), labels, predictions, confidences
  )
  (image,) = figure.axes[0].images
  assert np.isfinite(np.ma.filled(image.get_array(), np.nan)).sum() == 2 * 784


def test_confusion_prints_each_count_with_true_classes_in_rows():
  matrix = np.arange(100).reshape(10, 10) * 7
  matrix[2, 7] = 0
  figure = run.confusion(matrix)
  ax = figure.axes[0]
  at = {
    tuple(map(round, text.get_position())): text.get_text()
    for text in ax.texts
    if re.fullmatch(r"[\d·]+", text.get_text())
  }
  for true, predicted in np.ndindex(10, 10):
    count = matrix[true, predicted]
    assert at[(predicted, true)] == (str(count) if count else "·")
  assert ax.get_ylabel() == "true class"
  assert ax.get_xlabel() == "predicted class"
  share = 100 * matrix[9, 9] / matrix[9].sum()
  assert f"{share:.1f} %" in texts_of(figure)
  shade = ax.images[0].get_array()
  assert shade[9, 8] == matrix[9, 8]
  assert shade[9, 9] == 0


def test_confusion_without_examples_or_mistakes():
  plotting.render(run.confusion(np.zeros((10, 10), np.int64)), "png")
  figure = run.confusion(np.diag(np.arange(10)))
  assert "45 of 45 right" in texts_of(figure)
