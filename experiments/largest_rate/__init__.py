"""Claims B3 and H4: how large a rate may be, and what bounds it."""
