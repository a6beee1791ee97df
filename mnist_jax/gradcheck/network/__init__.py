"""The check of the chapter's network, with a faster numeric gradient.

Start with

  from mnist_jax.gradcheck.network import check
  terms = check.check_network(params, ("sigmoid", "tanh"), batch, l2=0.001)
  print(terms["whole"].hand)
"""
