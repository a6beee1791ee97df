"""Scripts as a user writes them, with the outputs of experiments.train."""
