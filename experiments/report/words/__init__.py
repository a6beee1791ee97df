"""The page's words, in English and Chinese."""

from experiments.report.words._table import LANGUAGES, Words

__all__ = ["LANGUAGES", "Words"]
