"""A network that was trained on digits which lie otherwise than MNIST's."""

import numpy as np
import pytest

from experiments import predict


@pytest.fixture(scope="module")
def nearest(mnist):
  """A classifier by the nearest mean image, of training data changed so."""

  def make(change):
    images, labels = map(np.asarray, mnist.train)
    means = [change(images[labels == k][:500]).mean(axis=0) for k in range(10)]

    def probabilities(pictures):
      far = ((pictures[:, None] - np.stack(means)) ** 2).mean(axis=2)
      return (far == far.min(axis=1, keepdims=True)).astype(float)

    return probabilities

  return make


def transposed(images):
  return np.swapaxes(images.reshape(-1, 28, 28), 1, 2).reshape(images.shape)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda images: images, ""),
    (transposed, "right transposed, "),
    (lambda images: 255 - images, "right dark on light, "),
    (lambda images: 255 - transposed(images), "right transposed, dark on"),
    (lambda images: np.roll(images, 300, axis=1), "may be no digits"),
  ],
)
def test_digits_are_read_as_the_data_lie(nearest, mnist, change, said):
  digits = type(mnist.test)(*(array[:500] for array in mnist.test))
  network = nearest(change)
  found, line = predict.in_form_of_data(network, digits)
  assert said in line
  assert bool(said) == bool(line)
  right = np.mean(found(digits.images).argmax(axis=1) == digits.labels)
  assert (right > 0.7) == ("no digits" not in line)
  assert (found is network) == ("pictures are read so" not in line)
