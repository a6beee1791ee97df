"""The command's judgement, on a library of our own in place of its peers."""

import csv
import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks.foreign import __main__ as command
from benchmarks.foreign import gradients, layers, rates

pytestmark = pytest.mark.once


def two_layers(kind, precision):
  keys = jax.random.split(jax.random.key(0), 2)
  params = {
    "a": jax.random.normal(keys[0], (layers.WIDTH, 3)),
    "b": jax.random.normal(keys[1], (3, 2)),
    "unused": jnp.ones(2),
  }
  network = layers.Network(
    params, lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
  )
  return layers.lowered(network, precision)


def test_a_mistake_is_in_one_tensor_whose_gradient_is_not_zero():
  grads = {"a": jnp.ones(2), "b": jnp.full(2, 9.0), "c": jnp.zeros(2)}
  (at, excess), (where, less) = gradients.planted(grads).values()
  assert (at, where) == (1, 0)
  assert excess["b"][0] == pytest.approx(9 * 1.05)
  assert (less["a"] == 0).all()
  assert (less["b"] == 9).all()
  assert (excess["a"] == 1).all()


@pytest.mark.parametrize(
  ("said", "expected", "answer"),
  [
    ("correct", "correct", "right"),
    ("wrong ['b']", "wrong ['b']", "right"),
    ("rounding-limited", "wrong ['b']", "undecided"),
    ("rounding-limited", "correct", "undecided"),
    ("correct", "wrong ['b']", "WRONG"),
    ("wrong ['a'] ['b']", "wrong ['b']", "WRONG"),
    ("wrong ['a']", "correct", "WRONG"),
    ("a traceback", "correct", "WRONG"),
  ],
)
def test_an_answer_is_right_only_if_it_names_the_tensor(said, expected, answer):
  assert gradients.judged(said, expected) == answer


def test_a_refusal_and_a_traceback_are_answers():
  said, reason = gradients.verdict(lambda p: p, jnp.ones(2), jnp.ones(2))
  assert said == "refused"
  assert "scalar" in reason

  class Odd(dict):
    def items(self):
      raise RuntimeError("odd")

  said, reason = gradients.verdict(
    jnp.sum, jnp.ones(2), jnp.ones(2), candidates=Odd(a=jnp.ones(2))
  )
  assert (said, reason) == ("a traceback", "RuntimeError: odd")


@pytest.fixture
def flags(monkeypatch, tmp_path):
  class Flags:
    part, results = "gradients", str(tmp_path)

  monkeypatch.setattr(command, "FLAGS", Flags)
  return Flags


def test_the_tables_hold_what_the_check_says(
  monkeypatch, tmp_path, capsys, flags
):
  monkeypatch.setattr(layers, "LIBRARIES", {"own": ("jax", two_layers)})
  monkeypatch.setattr(layers, "KINDS", ("dense",))
  monkeypatch.setattr(layers, "PRECISIONS", ("float32",))
  monkeypatch.setattr(command, "PACKAGES", ("jax", "no-such-library"))
  command.main([])
  with (tmp_path / "gradients.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["said"] for row in rows] == [
    *("correct", "correct"),
    *("wrong ['a']", "wrong ['b']"),
  ]
  assert {row["judgement"] for row in rows} == {"right"}
  record = json.loads((tmp_path / "gradients.json").read_text())
  assert record["counts"] == "right 4"
  assert record["versions"]["jax"] == jax.__version__
  printed = capsys.readouterr().out
  assert "not tried, since not installed: no-such-library" in printed
  line = "| own | dense | float32 | right: correct | right: correct |"
  assert line in printed
  assert line in (tmp_path / "gradients.md").read_text()


def test_without_peers_a_line_says_how_to_have_them(monkeypatch, flags):
  monkeypatch.setattr(command, "PACKAGES", ("no-such-library",))
  with pytest.raises(command.errors.InputError, match="make peers"):
    command.main([])


def test_the_rates_table_has_numbers_people_read():
  row = dict.fromkeys(rates.COLUMNS, "word") | {
    "rate": 0.0123456,
    "best_rate": 1,
  }
  assert "| word | word | word | 0.0123 | word | 1 |" in command.rates_table(
    [row]
  )
