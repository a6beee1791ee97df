"""The check of VJPs, JVPs and second derivatives of any function.

Start with

  from mnist_jax import gradcheck
  print(gradcheck.check_vjp(f, x, y))  # f a jax.custom_vjp
"""
