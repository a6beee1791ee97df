"""What is found where training of one run ends: noise scale and sharpness."""

import jax

from mnist_jax import analysis, data, training
from mnist_jax.analysis import curvature

SHARPNESS_EXAMPLES = 5000
SHARPNESS_TOLERANCE = 0.01  # relative, of the residual


def noise_scale(
  config: training.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: int,
) -> float:
  """tr(Sigma) / |G|^2 over the training set, in examples, after the epochs.

  See `gradient_noise.Moments.noise_scale`; config, learning_rate and split are
  those of `training.params_at`, which may raise InputError.
  """
  states = training.params_at(config, learning_rate, split, seed, (epochs,))
  _, params = next(states)
  moments = analysis.network_moments(config.activations, params, split)
  return float(moments.noise_scale)


def sharpness(
  config: training.TrainConfig,
  learning_rate: float,
  split: data.Split,
  seed: int,
  epochs: int,
) -> float:
  """The largest Hessian eigenvalue of the loss, after the epochs.

  Over the first SHARPNESS_EXAMPLES of the training set (it is in no particular
  order); see `curvature.sharpness`. Arguments as `noise_scale`.
  """
  few = data.Split(*(array[:SHARPNESS_EXAMPLES] for array in split))
  states = training.params_at(config, learning_rate, split, seed, (epochs,))
  _, params = next(states)
  found = curvature.network_sharpness(
    config.activations,
    params,
    few,
    jax.random.key(seed),
    tolerance=SHARPNESS_TOLERANCE,
  )
  return float(found.value)
