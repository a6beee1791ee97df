"""The page's one file: its sections, their HTML, its scripts and its data."""
