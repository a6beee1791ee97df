"""The page's strings: one table, by key and language."""

import html
import json
from pathlib import Path

LANGUAGES = ("en", "zh")
PATH = Path(__file__).parent / "words.json"


class Words:
  """The table, and what the build adds to it of the results.

  Attributes:
    table: The strings by key, then by language.
  """

  def __init__(self) -> None:
    self.table: dict[str, dict[str, str]] = json.loads(PATH.read_text("utf-8"))

  def add(self, key: str, en: str, zh: str) -> str:
    """Adds the strings of a key, which it returns."""
    found = self.table.setdefault(key, {"en": en, "zh": zh})
    if found != {"en": en, "zh": zh}:
      raise ValueError(f"{key} has other words already")
    return key

  def label(self, key: str, *values: object) -> str:
    """The key of the words of `key` with values in their {}.

    Where the table has words for KEY.VALUE they are those.
    """
    own = ".".join([key, *map(str, values)])
    if not values or own in self.table:
      self.table[own]  # a key that is missing is found here
      return own
    texts = [self.table[key][lang].format(*values) for lang in LANGUAGES]
    return self.add(f"{key}:{','.join(map(str, values))}", *texts)

  def of(self, lang: str) -> dict[str, str]:
    """The strings of one language by key."""
    return {key: texts[lang] for key, texts in self.table.items()}

  def element(self, key: str, tag: str = "span", attributes: str = "") -> str:
    """An element that the page fills anew in the language chosen."""
    text = html.escape(self.table[key]["en"])
    space = " " if attributes else ""
    return f'<{tag}{space}{attributes} data-word="{key}">{text}</{tag}>'
