"""Claims B1, B2: the map of rate and batch size."""
