"""Claim G4: which planted mistakes a gradient check finds."""
