"""The catalogue of mistakes: the block in which one is chosen and found."""

from typing import Any

from experiments.report.words import Words


def block(found: dict[str, Any], words: Words) -> str:
  """The choice, and the place where what the check says of it appears.

  Args:
    found: results/page/mistakes.json.
  """
  options = "".join(
    f'<option value="{each["name"]}">{each["name"]}</option>'
    for each in found["mistakes"]
  )
  return (
    f'<div class="panel" id="mistakes">{words.element("mistakes.caption", "p")}'
    f'<label class="choice">{words.element("mistakes.choose")} '
    f'<select id="mistake">{options}</select></label>'
    '<div id="mistake-found" aria-live="polite"></div></div>'
  )
