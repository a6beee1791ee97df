"""The data of the interactive parts, from committed files."""

from typing import Any


def bundle() -> dict[str, Any]:
  """What `window.BUNDLE` holds: JSON-able, arrays in base64."""
  return {}
