"""The chapter as one page, built from the committed results."""
