"""Is a gradient right? For any scalar function of any pytree (section 12.3).

Start with

  from mnist_jax import gradcheck
  print(gradcheck.check(loss_fn, params, grads))
  gradcheck.assert_gradients(loss_fn, params, grads)  # in a test
  gradcheck.assert_vjp(f, x, y)  # f a jax.custom_vjp, or vjp= by hand
"""

from mnist_jax.gradcheck._check import (
  assert_gradients,
  check,
  numeric_gradient,
)
from mnist_jax.gradcheck._layout import GradcheckError, distance
from mnist_jax.gradcheck._report import (
  RECHECK,
  VERY_SATISFYING,
  Report,
  Verdict,
  band,
)
from mnist_jax.gradcheck.functions.check import (
  assert_jvp,
  assert_vjp,
  check_jvp,
  check_vjp,
)

__all__ = [
  "RECHECK",
  "VERY_SATISFYING",
  "GradcheckError",
  "Report",
  "Verdict",
  "assert_gradients",
  "assert_jvp",
  "assert_vjp",
  "band",
  "check",
  "check_jvp",
  "check_vjp",
  "distance",
  "numeric_gradient",
]
