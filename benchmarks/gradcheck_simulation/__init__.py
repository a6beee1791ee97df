"""How often a gradient check errs, against two others, by simulation."""
