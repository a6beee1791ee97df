import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mnist_jax.range_test import curve as range_curve
from mnist_jax.range_test.curve import Ramp
from mnist_jax.runtime.errors import InputError

RATES = np.geomspace(1e-3, 1.0, 40)


def recording(*losses, initial=2.0):
  table = np.array(losses, np.float32)
  return range_curve.Recording(
    rates=np.geomspace(1e-3, 1.0, table.shape[1]).astype(np.float32),
    initial=np.full(len(table), initial, np.float32),
    losses=table,
    seeds=tuple(range(len(table))),
  )


def test_ramps_have_both_ends_and_equal_steps():
  factor = Ramp(1e-3, 8.0, 50).rates()
  line = Ramp(1e-3, 8.0, 50, "linear").rates()
  for rates in (factor, line):
    assert rates.dtype == np.float32
    assert (rates[0], rates[-1]) == (np.float32(1e-3), np.float32(8.0))
  assert np.ptp(factor[1:] / factor[:-1]) < 1e-5
  assert np.ptp(np.diff(line)) < 1e-5


@pytest.mark.parametrize(
  "wrong",
  [
    {"low": 0.0},
    {"low": math.nan},
    {"high": 1e-5},
    {"high": math.inf},
    {"steps": 9},
    {"shape": "sine"},
  ],
)
def test_a_ramp_that_cannot_be_is_refused(wrong):
  with pytest.raises(InputError, match="ramp"):
    Ramp(**wrong)


@given(
  hnp.arrays(np.float64, (3, 15), elements=st.floats(-9, 9)),
  st.floats(0, 0.99),
)
def test_smoothing_is_a_weighted_mean_of_what_was(losses, beta):
  soft = range_curve.smooth(losses, beta)
  for t in range(15):
    weights = beta ** np.arange(t, -1, -1.0)
    mean = losses[:, : t + 1] @ weights / weights.sum()
    np.testing.assert_allclose(soft[:, t], mean, atol=1e-10)


def test_smoothing_keeps_a_constant_and_refuses_a_beta_of_one():
  np.testing.assert_allclose(range_curve.smooth(np.full(30, 2.5), 0.98), 2.5)
  with pytest.raises(InputError, match="smoothing is 1"):
    range_curve.smooth(np.ones(3), 1.0)


def test_a_nan_is_seen_though_it_compares_false():
  losses = np.full(40, 2.0)
  losses[17] = np.nan
  (curve,) = range_curve.loss_curves(recording(losses))
  stop = curve.stop
  assert (stop.reason, stop.update) == ("not finite", 17)
  assert stop.rate == pytest.approx(RATES[17])
  assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) == 17
  assert np.isfinite(curve.smoothed).all()


def test_an_infinite_loss_stops_it_where_it_is_not_where_it_is_smoothed():
  losses = np.full(40, 2.0)
  losses[30:] = np.inf
  (curve,) = range_curve.loss_curves(recording(losses))
  assert (curve.stop.reason, curve.stop.update) == ("not finite", 30)


def test_divergence_is_measured_from_the_best_smoothed_loss():
  losses = np.concatenate([np.linspace(2, 0.5, 20), np.full(20, 2.2)])
  (curve,) = range_curve.loss_curves(
    recording(losses), smoothing=0.0, divergence_factor=4.0
  )
  assert (curve.stop.reason, curve.stop.update) == ("diverged", 20)
  (whole,) = range_curve.loss_curves(
    recording(losses), smoothing=0.0, divergence_factor=4.5
  )
  assert whole.stop is None
  assert len(whole.losses) == 40


def test_losses_below_zero_do_not_diverge_by_being_negative():
  losses = np.linspace(-1.0, -5.0, 40)
  (curve,) = range_curve.loss_curves(recording(losses))
  assert curve.stop is None


def test_a_broken_start_leaves_nothing():
  (curve,) = range_curve.loss_curves(recording(np.ones(40), initial=np.nan))
  assert (curve.stop.reason, curve.stop.update) == ("not finite", 0)
  assert len(curve.losses) == 0


def test_seeds_are_cut_each_by_itself():
  lost = np.full(40, 2.0)
  lost[12:] = np.nan
  first, second = range_curve.loss_curves(recording(lost, np.full(40, 2.0)))
  assert len(first.losses) == 12
  assert second.stop is None


def test_a_ramp_that_never_got_there_is_warned_of():
  lost = np.full(40, 2.0)
  lost[12:] = np.nan
  both = range_curve.loss_curves(recording(lost, np.full(40, 2.0)))
  assert "1 of 2 seeds had not diverged" in range_curve.warning(both)
  assert "rate 1:" in range_curve.warning(both)
  assert range_curve.warning(both[:1]) is None


def test_a_factor_that_stops_everything_and_wrong_seeds_are_refused():
  good = recording(np.ones(40))
  with pytest.raises(InputError, match="divergence factor is 1"):
    range_curve.loss_curves(good, divergence_factor=1.0)
  with pytest.raises(InputError, match="1 curves for 2 seeds"):
    dataclasses.replace(good, seeds=(0, 1))
