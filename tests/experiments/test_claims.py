"""The table of claims, and that the README shows the committed results."""

import json

import pytest

from experiments import claims
from mnist_jax.runtime.errors import InputError


def test_the_readme_and_the_details_are_those_of_the_results():
  """Else: python -m experiments.claims --write"""
  found = claims.read(claims.ROOT / "results")
  readme = (claims.ROOT / "README.md").read_text("utf-8")
  assert readme == claims.written(readme, claims.ROOT / "results")
  details = (claims.ROOT / "results" / "README.md").read_text("utf-8")
  assert details == claims.details(found)
  assert set(found) <= set(claims.CLAIMS)


def verdict(claim="L4", **part):
  part = {
    "name": "best",
    "text": "0.5 is ahead",
    "verdict": "holds",
    "kind": "greater",
    "effect": 0.01234,
    "interval": [0.01, 0.015],
    "target": 0.0,
    "margin": 0.001,
    "n": 50,
    "seeds_needed": None,
    "note": "",
  } | part
  return {
    "command": "python -m experiments.some",
    "date": "2026-01-01",
    "device": {"count": 2, "kind": "cpu"},
    "versions": {"jax": "0.10.2"},
    "wall_seconds": 125.0,
    "claims": [
      {"claim": claim, "verdict": part["verdict"], "n": 50, "parts": [part]}
    ],
  }


def write(folder, name, content):
  (folder / name).mkdir()
  (folder / name / "verdict.json").write_text(json.dumps(content))


def test_a_claim_has_its_line_and_its_parts(tmp_path):
  write(tmp_path, "a", verdict())
  write(tmp_path, "b", verdict("N2", verdict="undecided", seeds_needed=77))
  found = claims.read(tmp_path)
  lines = claims.table(found).splitlines()
  assert len(lines) == 2 + len(claims.CLAIMS) == 26
  (l4,) = [line for line in lines if line.startswith("| L4 ")]
  assert (
    "**holds** | 1 holds | best: 0.01234 (0.01 to 0.015) | 50 | "
    "`python -m experiments.some` | 2 min" in l4
  )
  (b9,) = [line for line in lines if line.startswith("| B9 ")]
  assert "not judged yet" in b9
  text = claims.details(found)
  assert "| best | 0.5 is ahead | > 0, margin 0.001 | 0.01234 (0.01 to" in text
  assert "77 seeds would decide it" in text


def test_two_studies_of_a_claim_and_no_verdict_are_refused(tmp_path):
  write(tmp_path, "a", verdict())
  write(tmp_path, "b", verdict())
  with pytest.raises(InputError, match="L4 is judged by another"):
    claims.read(tmp_path)
  write(tmp_path, "0", {"claims": 3})
  with pytest.raises(InputError, match="no verdict"):
    claims.read(tmp_path)


def test_the_readme_must_have_the_marks():
  with pytest.raises(InputError, match="marks"):
    claims.in_readme("no marks", "claims", "table")
