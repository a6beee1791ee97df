"""Numbers alone: losses at moved parameters, and what they say of a slope.

losses = differences.Losses(loss_fn, layout, theta)
lines = losses.lines(positions, steps)
error_bars.judge_lines(lines, given, tolerance, sigma)
"""
