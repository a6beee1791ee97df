"""The mistakes planted in rules by hand: which there are, and the counts."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks.rule_mutations import __main__ as command
from benchmarks.rule_mutations import catalogue

pytestmark = pytest.mark.once

RULES = {f"{rule.name}, {rule.form}": rule for rule in catalogue.RULES}


def test_mistakes_fit_the_value():
  def run(m):
    m("scalar", jnp.ones(()))
    m("complex", 1j * jnp.ones((2, 3)), other=0)
    return m("square", jnp.ones((2, 2)))

  found = catalogue.places(run)
  kinds = {site: {k for s, k, _ in found if s == site} for site, _, _ in found}
  assert kinds["scalar"] == {"sign", "factor 2", "1 % too much", "dropped"}
  assert kinds["complex"] - kinds["scalar"] == {
    "reversed",
    "conj forgotten",
    "wrong residual",
  }
  assert kinds["square"] - kinds["scalar"] == {"reversed", "transposed"}
  m = catalogue.mistaken("a", "wrong residual", "z")
  assert (m("a", 1, z=2), m("b", 1, z=2)) == (2, 1)
  assert catalogue.mistaken("a", "sign")("a", 3) == -3


def test_what_differs_is_told_by_argument():
  rule = RULES["dense, vjp"]
  args = rule.draw(np.random.default_rng(0))
  for order, wrong in ((1, "sign"), (2, "cut off")):
    true = command.derivatives(rule, catalogue.right, args, 0, order)
    again = command.derivatives(rule, catalogue.right, args, 0, order)
    assert command.differing(true, again) == []
    m = catalogue.mistaken("dw", wrong)
    assert command.differing(
      true, command.derivatives(rule, m, args, 0, order)
    ) == ([1] if order == 1 else [0, 1, 2])


def test_a_rule_is_right_and_its_mistakes_are_found():
  rule = RULES["valley, hvp"]
  assert command.unspoiled(rule, 0, 1)["verdict"] == "correct"
  first = next(command.planted(rule, 0, 1))
  assert (first["site"], first["kind"]) == ("gap", "sign")
  assert first["verdict"] == "wrong"
  assert first["placed"]


@pytest.mark.parametrize("verdict", ["wrong", "correct", "kink"])
def test_counts(verdict):
  mistakes = pd.DataFrame(
    {"form": "vjp", "kind": "sign", "verdict": [verdict], "placed": [False]}
  )
  right = pd.DataFrame({"form": "vjp", "verdict": [verdict, "correct"]})
  lines = command.page(mistakes, right, "the command").splitlines()
  found, missed = int(verdict == "wrong"), int(verdict == "correct")
  row = next(line for line in lines if line.startswith("| sign"))
  assert row.startswith(f"| sign | {found} of 1 (")
  assert row.endswith(f"| {missed} | {1 - found - missed} |")
  assert lines[-1].startswith(f"| vjp | {found} of 2 (")
