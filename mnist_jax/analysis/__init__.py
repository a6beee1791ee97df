"""What can be measured at one point: gradient noise and curvature.

Start with

  from mnist_jax import analysis
  moments = analysis.network_moments(activations, params, split)
  moments.noise_scale  # tr(Sigma) / |G|^2, in examples
"""

from mnist_jax.analysis.curvature import hessian_vector_product, sharpness
from mnist_jax.analysis.gradient_noise import gradient_moments, network_moments
from mnist_jax.analysis.two_batch import noise_scale

__all__ = [
  "gradient_moments",
  "hessian_vector_product",
  "network_moments",
  "noise_scale",
  "sharpness",
]
