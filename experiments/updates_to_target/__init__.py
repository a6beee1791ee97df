"""Claims B7, B8: updates to a target; the gap."""
