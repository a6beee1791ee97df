"""Sweeps by many processes: what is lost, what it costs, what limits it."""
