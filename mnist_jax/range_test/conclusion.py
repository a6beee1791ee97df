"""What comes after a range test's last update, for a process of its own.

It loads SciPy's statistics and matplotlib, a third of a second each or more,
while another process still trains.
"""

import scipy.stats  # noqa: F401, which `rules` would load when it judges

from mnist_jax import plotting
from mnist_jax.range_test import figures, rules
from mnist_jax.range_test.curve import Recording


def conclude(
  recording: Recording,
  rule: str,
  smoothing: float,
  divergence_factor: float,
  title: str,
) -> tuple[rules.RangeTest, bytes]:
  """The recording as `rules.judge` has it, and its figure as a PNG's bytes.

  Raises:
    InputError: As `rules.judge`.
  """
  test = rules.judge(
    recording,
    rule=rule,
    smoothing=smoothing,
    divergence_factor=divergence_factor,
  )
  return test, plotting.render(figures.range_test(test, title), "png")
