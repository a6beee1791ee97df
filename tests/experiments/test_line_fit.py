"""The worked example in fractions, and against JAX's gradient."""

from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import line_fit
from mnist_jax.stats.verdicts import Verdict

VALUES = SimpleNamespace()


def test_the_printed_numbers():
  three = line_fit.fit(line_fit.THREE)
  five = line_fit.fit(line_fit.FIVE)
  assert (three.loss, three.text_rate) == (Fraction(1, 3), Fraction(3, 2))
  assert (five.loss, five.text_rate) == (Fraction(1, 4), 2)
  assert (three.descent_rate, five.descent_rate) == (
    Fraction(3, 8),
    Fraction(1, 2),
  )


def test_the_slip_is_a_slip():
  assert line_fit.loss(line_fit.PRINTED) == Fraction("0.2125")


@given(
  st.lists(st.integers(-9, 9), min_size=1, max_size=6).filter(any),
  st.fractions(-3, 3, max_denominator=8).filter(bool),
)
def test_the_rates_do_what_they_are_said_to(xs, w):
  found = line_fit.fit(tuple(xs), w)
  assert w - found.text_rate * found.loss == 0
  assert w - found.descent_rate * found.gradient == 0
  assert found.gradient == 2 * found.loss / w
  assert found.stable_below == 2 * found.descent_rate
  twice = line_fit.fit(tuple(xs) * 2, w)
  assert twice == found


def test_the_gradient_is_that_of_the_loss():
  xs = jnp.asarray(line_fit.FIVE, jnp.float32)
  found = jax.grad(lambda w: jnp.mean((w * xs) ** 2) / 2)(0.5)
  assert float(found) == float(line_fit.fit(line_fit.FIVE).gradient)


def test_at_the_texts_rate_descent_diverges():
  for xs in (line_fit.THREE, line_fit.FIVE):
    found = line_fit.fit(xs)
    assert found.text_rate > found.stable_below
    assert found.text_step == -3 * line_fit.SLOPE


def test_parts_are_derived_and_can_fail(monkeypatch):
  table = line_fit.measure(None, VALUES)
  (claim,) = line_fit.judge(table, VALUES)
  parts = claim.parts
  assert claim.sentence.startswith("Three points give J = 1/3 and eta = 1.5,")
  assert {part.verdict for part in parts} == {Verdict.HOLDS}
  assert {part.n for part in parts} == {None}
  assert "17/80" in next(p for p in parts if p.name == "J, five points").note
  monkeypatch.setitem(line_fit.BATCHES, "five points", (-4, -2, 0, 2, 4))
  (claim,) = line_fit.judge(table, VALUES)
  assert claim.verdict is Verdict.FAILS
  verdicts = {part.name: part.verdict for part in claim.parts}
  assert verdicts["J, three points"] is Verdict.HOLDS
  for name in (
    "J, five points",
    "eta, five points",
    "larger batch, larger rate",
  ):
    assert verdicts[name] is Verdict.FAILS


@pytest.mark.parametrize("name", line_fit.BATCHES)
def test_every_batch_is_in_the_table(name):
  table = line_fit.measure(None, VALUES).set_index("batch")
  assert (
    Fraction(table["loss"][name]) == line_fit.fit(line_fit.BATCHES[name]).loss
  )


def test_figure_has_the_two_pictures():
  figures = line_fit.draw(line_fit.measure(None, VALUES), VALUES)
  left, right = figures["line_fit"].axes
  assert "J = 1/3" in left.get_title()
  assert "J = 1/4" in right.get_title()
