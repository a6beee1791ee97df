"""The tables of claims, and that the pages show the committed results."""

import json
import re

import pytest

from experiments import chapter, claims
from mnist_jax.runtime.errors import InputError


def test_the_pages_show_the_committed_results():
  """Else: python -m experiments.claims --write"""
  for path, text in claims.written(claims.ROOT).items():
    assert path.read_text("utf-8") == text, path
  assert set(claims.read(claims.ROOT / "results")) <= set(claims.CLAIMS)


def test_what_a_claim_comes_to_is_told_beside_its_command():
  """Each claim has its section, with every part and the study's command."""
  page = (claims.ROOT / "docs" / "results.md").read_text("utf-8")
  sections = dict(re.findall(r"^### (\w\d)\n(.*?)(?=^##)", page, re.M | re.S))
  assert sorted(sections) == sorted(claims.CLAIMS)
  for name, (_, study) in claims.read(claims.ROOT / "results").items():
    assert f"results/README.md#{name.lower()})" in sections[name]
    if name[0] not in "GN":  # theirs stands above them, for all
      assert f"experiments.{study['study']}" in sections[name]


def test_the_committed_verdicts_are_of_one_commit_and_machine():
  """And of one version of what decides a run's numbers, in a clean tree."""
  paths = (claims.ROOT / "results").glob("*/verdict.json")
  found = [json.loads(path.read_text("utf-8")) for path in paths]
  assert len(found) == len(chapter.STUDIES)
  for name in ("git_revision", "code_version", "device", "preset"):
    assert len({json.dumps(each[name]) for each in found}) == 1, name
  assert found[0]["preset"] == "full"
  assert not found[0]["git_revision"].endswith("-dirty")


def verdict(claim="L4", sentence="0.5 is ahead, n = 50.", **part):
  part = {
    "name": "best",
    "role": "primary",
    "text": "0.5 is ahead",
    "verdict": "holds",
    "finding": "beyond the margin",
    "kind": "greater",
    "effect": 0.01234,
    "interval": [0.01, 0.015],
    "test_effect": [0.011, 0.009, 0.013],
    "target": 0.0,
    "margin": 0.001,
    "n": 50,
    "seeds_needed": None,
    "note": "",
  } | part
  judged = {"claim": claim, "verdict": part["verdict"], "n": 50, "logic": "all"}
  judged |= {"sentence": sentence, "restriction": "", "parts": [part]}
  return {
    "command": "python -m experiments.some",
    "date": "2026-01-01",
    "device": {"count": 2, "kind": "cpu"},
    "versions": {"jax": "0.10.2"},
    "wall_seconds": 125.0,
    "claims": [judged],
  }


def write(folder, name, content):
  (folder / name).mkdir()
  (folder / name / "verdict.json").write_text(json.dumps(content))


def test_a_claim_has_its_line_and_its_parts(tmp_path):
  write(tmp_path, "a", verdict())
  write(tmp_path / "a", "backup", verdict())  # too deep to be a study's
  write(tmp_path, "b", verdict("N2", verdict="undecided", seeds_needed=77))
  found = claims.read(tmp_path)
  lines = claims.table(found).splitlines()
  assert len(lines) == 2 + len(claims.CLAIMS)
  assert (
    "| [L4](#l4) | **holds** | 0.5 is ahead, n = 50. | 50 | 2 min | "
    "`python -m experiments.some` |"
  ) in lines
  assert "| [B9](#b9) | not judged yet |  |  |  |  |" in lines
  text = claims.details(found)
  part = (
    "| best | primary | > 0, margin 0.001 | 0.01234 (0.01 to 0.015) | 0.011 "
    "(0.009 to 0.013) | 50 | holds |"
  )
  assert part in text
  assert "77 seeds would decide it" in text
  assert part in claims.block("L4", found)
  assert claims.block("L4", found).startswith(
    "**holds**: 0.5 is ahead, n = 50."
  )


def test_the_chapter_s_time_counts_each_study_once(tmp_path):
  two = verdict() | {"study": "two", "wall_seconds": 7200.0}
  two["claims"] += [two["claims"][0] | {"claim": "N2"}]
  write(tmp_path, "two", two)
  write(tmp_path, "own", verdict("H3") | {"study": "own", "wall_seconds": 1800})
  assert claims.times_table(claims.read(tmp_path)).splitlines()[2:] == [
    "| `two` | N2, L4 | 120 min |",
    "| `own` | H3 | 30 min |",
    "| **in all** | all but H3, H5, H7 | 2.0 hours |",
    "| **in all** | all | 2.5 hours |",
  ]


def test_a_restriction_is_said_beside_the_word(tmp_path):
  content = verdict(verdict="mostly not")
  content["claims"][0]["restriction"] = "at batch 32 alone"
  write(tmp_path, "a", content)
  table = claims.table(claims.read(tmp_path))
  assert "| **mostly not** (it holds at batch 32 alone) |" in table


def test_limits_are_the_secondary_parts_that_do_not_hold(tmp_path):
  content = verdict()
  (claim,) = content["claims"]
  claim["verdict"] = "holds with limits"
  (part,) = claim["parts"]
  claim["parts"] += [
    part | {"name": name, "role": role, "verdict": word}
    for name, role, word in (
      ("at 16", "secondary", "does not hold"),
      ("at 32", "secondary", "undecided"),
      ("at 64", "diagnostic", "does not hold"),
    )
  ]
  write(tmp_path, "a", content)
  table = claims.table(claims.read(tmp_path))
  assert "| **holds with limits** (not: at 16) |" in table


def test_two_studies_of_a_claim_and_no_verdict_are_refused(tmp_path):
  write(tmp_path, "a", verdict())
  write(tmp_path, "b", verdict())
  with pytest.raises(InputError, match="L4 is judged by another"):
    claims.read(tmp_path)
  write(tmp_path, "0", {"claims": 3})
  with pytest.raises(InputError, match="no verdict"):
    claims.read(tmp_path)


def test_a_terminal_has_the_judged_claims_alone(tmp_path):
  write(tmp_path, "a", verdict())
  head, told = claims.plain_table(claims.read(tmp_path)).splitlines()
  assert head.split() == ["L4", "holds", "n", "50"]
  assert told.strip() == "0.5 is ahead, n = 50."


def test_a_pipe_in_a_name_does_not_end_its_cell(tmp_path):
  write(tmp_path, "a", verdict(name="|z| < 1"))
  assert "| \\|z\\| < 1 |" in claims.details(claims.read(tmp_path))


def test_a_page_must_have_the_marks():
  with pytest.raises(InputError, match="marks"):
    claims.in_place("no marks", "claims", "table")
