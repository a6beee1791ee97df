"""The trade-off of updates and examples, from exact numbers."""

import numpy as np
import pytest

from mnist_jax.analysis import critical_batches
from mnist_jax.runtime.errors import InputError

BATCHES = 2.0 ** np.arange(14)


def test_tradeoff_is_recovered():
  exact = 150 + 22_000 / BATCHES
  found = critical_batches.tradeoff(BATCHES, exact)
  assert found.least_updates == pytest.approx(150, rel=1e-4)
  assert found.critical_batch == pytest.approx(22_000 / 150, rel=1e-4)
  np.testing.assert_allclose(found.updates(BATCHES), exact, rtol=1e-4)
  # The form of the paper: (S / S_min - 1)(E / E_min - 1) = 1.
  examples = exact * BATCHES
  product = (exact / 150 - 1) * (examples / 22_000 - 1)
  np.testing.assert_allclose(product, 1)


@pytest.mark.parametrize(
  ("updates", "message"), [([3, 2], "2 numbers"), ([3, 0, 1], "above 0")]
)
def test_tradeoff_refuses(updates, message):
  with pytest.raises(InputError, match=message):
    critical_batches.tradeoff(np.array([1.0, 2, 4]), np.array(updates))
