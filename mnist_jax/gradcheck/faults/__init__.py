"""Mistakes planted in the backward, for the check to find."""
