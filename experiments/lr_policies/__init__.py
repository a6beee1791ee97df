"""Claims L6, L2: the six policies; Robbins and Monro."""
