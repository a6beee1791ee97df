"""How long we take, against peers and against the machine."""
