"""Claims G1, G2, G3, G5: the gradient check and what it measures."""
