"""What can be measured at one point: gradient noise and curvature.

Start with

  from mnist_jax import analysis
  moments = analysis.network_moments(params, activations, split)
"""

from mnist_jax.analysis.curvature import hessian_vector_product
from mnist_jax.analysis.gradient_noise import gradient_moments, network_moments

__all__ = [
  "gradient_moments",
  "hessian_vector_product",
  "network_moments",
]
