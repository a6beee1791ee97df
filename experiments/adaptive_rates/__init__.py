"""Claim S1: one rate for all parameters, or one for each."""
