"""Claims B1, B2, H1: rate, batch and horizon."""
