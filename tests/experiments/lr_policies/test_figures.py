import numpy as np
import pytest

from experiments.lr_policies import parity, study
from mnist_jax import plotting, schedules
from mnist_jax.runtime.errors import InputError

pytestmark = pytest.mark.once  # NumPy and the sweeps that other tests run


def test_each_policy_is_a_line_with_its_formula():
  configs = parity.studied_policies(0.2, 400)
  figure = study.draw_policies(configs, 400)
  linear, log = figure.axes
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == [
    config.describe() for config in configs.values()
  ]
  assert (linear.get_yscale(), log.get_yscale()) == ("linear", "log")
  for line, config in zip(linear.lines, configs.values(), strict=True):
    exact = parity.exact_rates(config, 400)
    np.testing.assert_allclose(
      line.get_ydata(), np.array(exact, float), rtol=1e-6
    )
  looks = {(line.get_color(), str(line.get_linestyle())) for line in log.lines}
  assert len(looks) == len(configs)
  assert plotting.render(figure, "png").startswith(b"\x89PNG")


def test_a_rate_of_zero_is_left_out_of_the_log_axis_alone():
  config = schedules.ScheduleConfig("poly", 0.2, decay_steps=50)
  figure = study.draw_policies({"poly": config}, 100)
  linear, log = (ax.lines[0].get_ydata() for ax in figure.axes)
  assert np.isnan(log).sum() == (linear == 0).sum() == 50


def test_a_policy_that_never_drops_is_refused():
  config = schedules.ScheduleConfig("multistep", 0.2, boundaries=(500,))
  with pytest.raises(InputError, match="never reached"):
    study.draw_policies({"multistep": config}, 100)
