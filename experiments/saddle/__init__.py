"""Claim S2: leaving a saddle."""
