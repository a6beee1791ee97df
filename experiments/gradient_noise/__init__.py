"""Claim B4: the gradient's variance against batch size."""
