"""Claims S2 and H8: leaving a saddle."""
