"""Is a gradient right? For any scalar function of any pytree (section 12.3).

Start with

  from mnist_jax import gradcheck
  print(gradcheck.check(loss_fn, params, grads))
  gradcheck.assert_gradients(loss_fn, params, grads)  # in a test
"""

from mnist_jax.gradcheck._check import assert_gradients, check
from mnist_jax.gradcheck._layout import GradcheckError, distance
from mnist_jax.gradcheck._numeric.differences import numeric_gradient
from mnist_jax.gradcheck._report import (
  RECHECK,
  VERY_SATISFYING,
  Report,
  Verdict,
  band,
)

__all__ = [
  "RECHECK",
  "VERY_SATISFYING",
  "GradcheckError",
  "Report",
  "Verdict",
  "assert_gradients",
  "band",
  "check",
  "distance",
  "numeric_gradient",
]
