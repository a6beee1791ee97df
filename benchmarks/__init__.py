"""Ours against peers, each measured in turn in one run."""
