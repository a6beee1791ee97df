"""Effects in words."""

import dataclasses
import math

from mnist_jax import stats

EFFECT = stats.Effect(0.0028, 0.002, 0.0036, 30, 0.95, "t", 0.1)


def test_an_amount_has_its_unit_and_its_interval():
  assert (
    stats.amount(EFFECT, "point", scale=100.0) == "0.28 point (0.20 to 0.36)"
  )
  assert stats.amount(EFFECT, digits=4) == "0.0028 (0.0020 to 0.0036)"


def test_no_amount_is_a_negative_nothing():
  small = dataclasses.replace(EFFECT, estimate=-0.0001, low=-0.01)
  assert stats.amount(small) == "0.00 (-0.01 to 0.00)"


def test_logs_are_ratios_and_fractions_percent():
  log = dataclasses.replace(EFFECT, estimate=math.log(2), low=0.0, high=1.0)
  assert stats.factor(log) == "2.00 times (1.00 to 2.72)"
  assert stats.share(stats.proportion(30, 30)) == "100 % (88 to 100)"
  half = stats.wilson_interval(1, 2)
  assert stats.share(half, digits=1) == "50.0 % (9.5 to 90.5)"
