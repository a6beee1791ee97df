"""Section 12.2 transcribed to NumPy, line by line, for three layers.

Written from the chapter alone, as a second opinion on mnist_jax; it shares no
code with it. One sample after another, as the text has it, then the mean.
"""

import numpy as np


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def sample_gradients(W1, B1, W2, B2, W3, B3, x, y):
  """Loss and (dW1, dB1, ..., dB3) of one sample: x [1, 784], y [1, 10]."""
  Z1 = x @ W1 + B1
  A1 = sigmoid(Z1)
  Z2 = A1 @ W2 + B2
  A2 = np.tanh(Z2)
  Z3 = A2 @ W3 + B3
  A3 = softmax(Z3)
  loss = -np.sum(y * np.log(A3))

  dZ3 = A3 - y
  dW3 = A2.T @ dZ3
  dB3 = dZ3
  dA2 = dZ3 @ W3.T
  dZ2 = dA2 * (1 - A2 * A2)
  dW2 = A1.T @ dZ2
  dB2 = dZ2
  dA1 = dZ2 @ W2.T
  dZ1 = dA1 * (1 - A1) * A1
  dW1 = x.T @ dZ1
  dB1 = dZ1
  return loss, (dW1, dB1, dW2, dB2, dW3, dB3)


def batch_gradients(weights, images, labels):
  """Means over the samples of `sample_gradients`; images [B, D], labels [B]."""
  classes = weights[-1].shape[-1]
  total_loss, totals = 0.0, [np.zeros_like(w) for w in weights]
  for image, label in zip(images, labels, strict=True):
    y = np.zeros((1, classes))
    y[0, label] = 1
    loss, grads = sample_gradients(*weights, image[None, :], y)
    total_loss += loss
    totals = [t + g for t, g in zip(totals, grads, strict=True)]
  m = len(labels)
  return total_loss / m, [t / m for t in totals]
