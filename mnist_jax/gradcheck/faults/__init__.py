"""Mistakes planted in the chapter's backward, for the check to find.

Start with

  from mnist_jax.gradcheck.faults import catalogue
  fault = catalogue.find("dw2_sign", ("sigmoid", "tanh"))
  loss, grads = fault.value_and_grad(("sigmoid", "tanh"))(params, *args)
"""
