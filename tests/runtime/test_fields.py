"""One declaration of a setting, and all that is read off it."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from mnist_jax.runtime import fields
from mnist_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Few:
  share: Any = fields.setting(0.5, "a share", least=0, below=1)
  count: Any = fields.setting(3, "a count", int, least=1)
  limit: Any = fields.setting(None, "a limit", above=0)
  sizes: Any = fields.setting((4, 2), "sizes", int, many=True, least=1)
  kind: Any = fields.setting("a", "a kind", str, choices=("a", "b"))
  names: Any = fields.setting(
    ("a",), "names", str, many=True, choices=("a", "b")
  )
  on: Any = fields.setting(None, "a switch", bool)
  text: Any = fields.setting("", "a text", str)

  def __post_init__(self):
    fields.settle(self)


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({"share": 1}, "share=1: expected a finite number in [0, 1)"),
    ({"share": -0.1}, "share=-0.1: expected"),
    ({"share": float("nan")}, "share=nan: expected"),
    ({"share": None}, "share=None: expected"),
    ({"share": True}, "share=True: expected"),
    ({"share": (0.1,)}, "share=(0.1,): expected"),
    ({"share": np.array([0.1, 0.2])}, "share=[0.1 0.2]: expected"),
    ({"count": 0}, "count=0: expected a whole number >= 1"),
    ({"count": 1.5}, "count=1.5: expected"),
    ({"count": "1"}, "count=1: expected"),
    ({"limit": 0}, "limit=0: expected a finite number > 0"),
    ({"limit": float("inf")}, "limit=inf: expected"),
    ({"sizes": (4, 0)}, "sizes=0: expected whole numbers >= 1"),
    ({"sizes": 4}, "sizes=4: expected"),
    ({"sizes": None}, "sizes=None: expected"),
    ({"kind": "c"}, "kind=c: expected one of a, b"),
    ({"names": ("a", "c")}, "names=c: expected names of a, b"),
    ({"on": 1}, "on=1: expected true or false"),
    ({"text": 1}, "text=1: expected text"),
  ],
)
def test_a_value_out_of_range_is_one_line_with_the_name(given, expected):
  with pytest.raises(InputError) as caught:
    Few(**given)
  assert str(caught.value).startswith(expected)
  assert "\n" not in str(caught.value)


def test_a_number_that_jax_traces_is_one_line():
  with pytest.raises(InputError, match=r"^share=.*: expected"):
    jax.jit(lambda share: Few(share=share).count)(0.1)


def test_the_ends_of_a_range():
  both = fields.Setting(2, "both", int, least=0, below=2**32)
  assert both.expected == "a whole number in [0, 2^32)"
  assert [both.accepts(n) for n in (-1, 0, 2**32 - 1, 2**32)] == [
    *(False, True, True, False)
  ]
  open_left = fields.Setting(1.0, "open", above=0, most=1)
  assert open_left.expected == "a finite number in (0, 1]"
  assert [open_left.accepts(x) for x in (0, 1e-9, 1, 1.1)] == [
    *(False, True, True, False)
  ]


def test_values_are_held_plain():
  held = Few(
    share=np.float32(0.25), count=7.0, sizes=np.array([8, 4]), names="b"
  )
  assert held == Few(share=0.25, count=7, sizes=(8, 4), names=("b",))
  assert type(held.share) is float
  assert {type(n) for n in (held.count, *held.sizes)} == {int}


def test_texts_of_a_flag_come_back():
  known = fields.declared(Few)
  for name, value in {
    "share": 0.1 + 0.2,
    "sizes": (16, 2),
    "names": ("b", "a"),
    "on": True,
  }.items():
    text = known[name].text(value)
    given = text.split(",") if known[name].many else value
    assert known[name].read(given) == value
  assert known["share"].text(0.1 + 0.2) == "0.30000000000000004"
  assert known["on"].text(True) == "true"
  assert known["sizes"].text((16, 2)) == "16,2"


def test_columns_have_a_place_for_none_where_it_is_the_default():
  assert {n: each.dtype for n, each in fields.declared(Few).items()} == {
    "share": "float64",
    "count": "int64",
    "limit": "float64",
    "sizes": "string",
    "kind": "string",
    "names": "string",
    "on": "boolean",
    "text": "string",
  }
  assert fields.Setting(None, "", int).dtype == "Int64"
  assert fields.Setting(False, "", bool).dtype == "bool"
