"""Claim B6: the best batch at a fixed rate."""
