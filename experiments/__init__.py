"""One file per study, each a command: python -m experiments.NAME."""
