"""The rate policies drawn together, with formulas and numbers in the legend.

`plotting.save` writes what is returned.
"""

from collections.abc import Mapping

import numpy as np

from mnist_jax import plotting, schedules
from mnist_jax.schedules.config import ScheduleConfig


def policies(
  configs: Mapping[str, ScheduleConfig], num_steps: int
) -> plotting.Figure:
  """Rate against update, on a linear axis and on a logarithmic one.

  Args:
    configs: in updates; each becomes a line, its `describe()` the legend.
    num_steps: T.

  Raises:
    InputError: as `schedules.learning_rates`.
  """
  figure, axes = plotting.panels(1, 2, size=(11, 5.2))
  for i, config in enumerate(configs.values()):
    rates = schedules.learning_rates(config, num_steps, num_steps)
    rates = rates.astype(np.float64)
    steps = np.arange(num_steps)
    for ax in axes[0]:
      # A log axis has no place for a rate of 0.
      shown = np.where(rates > 0, rates, np.nan)
      ax.plot(
        steps,
        rates if ax is axes[0][0] else shown,
        label=config.describe(),
        # Apart from one another, where lines lie on each other.
        markevery=(num_steps * (i + 1) // 70, max(1, num_steps // 8)),
        **plotting.series(i),
      )
  for ax, title in zip(axes[0], ("linear", "logarithmic"), strict=True):
    ax.set(xlabel="update t", ylabel="learning rate", title=f"{title} axis")
  axes[0][0].set_ylim(bottom=0)
  plotting.log_axis(axes[0][1], "y")
  lowest = min(float(c.learning_rate) for c in configs.values()) / 1000
  axes[0][1].set_ylim(bottom=lowest)
  handles = axes[0][0].get_legend_handles_labels()
  figure.legend(*handles, loc="outside lower center", ncols=2)
  return figure
