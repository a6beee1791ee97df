"""The simulation of the gradient check: what is drawn, judged and counted."""

import jax
import numpy as np
import pytest

from benchmarks.gradcheck_simulation import __main__ as command
from benchmarks.gradcheck_simulation import blocks, cases, judges, tables
from mnist_jax import runtime

pytestmark = pytest.mark.once


def record(ours, kind="right", size=0.0, **more):
  """A made-up check."""
  return {
    "family": "waves",
    "precision": "float64",
    "noise": "none",
    "sizes": "one",
    "unit": 1.0,
    "handed": "values",
    "kind": kind,
    "size": size,
    "ours": ours,
    "check_grads": judges.ACCEPTED,
    "torch": judges.REJECTED,
    "planted": 0.0,
    "rounding": 0.0,
  } | more


RIGHT = [
  record("correct"),
  record("correct", unit=1e3),
  record("wrong", rounding=0.5),
  record("kink"),
  record("rounding-limited", precision="bfloat16 loss"),
]
MISTAKEN = [
  record("wrong", "all", 0.01, planted=0.005, check_grads=judges.REJECTED),
  record("correct", "all", 0.01, planted=0.02),
  record("correct", "tensor", 0.01, planted=0.005),
  record("rounding-limited", "all", 0.01, planted=0.02),
  record("wrong", "sign", 2.0, planted=1.0),
]


def test_verdicts_are_counted():
  found = tables.counts(tables.verdicts(RIGHT + MISTAKEN))
  found = found.set_index(["factor", "level", "kind", "size"])
  names = ["checks", "wrong", "unresolved", "correct", "check_grads", "torch"]
  all_right = found.loc["all", "yes", "right", 0.0]
  assert all_right[names].tolist() == [5, 1, 2, 2, 0, 5]
  assert all_right[["wrong_rounded", "ours_kink"]].tolist() == [1, 1]
  scaled = found.loc["all", "yes", "all", 0.01]
  assert scaled[names].tolist() == [3, 1, 1, 1, 1, 3]
  assert scaled["correct_beyond"] == 1
  assert found.loc["all", "yes", "tensor", 0.01]["correct_beyond"] == 0
  assert found.loc["plain", "no", "right", 0.0]["checks"] == 1
  by_precision = found.loc["precision"].reset_index()
  right = by_precision[by_precision["kind"] == "right"].set_index("level")
  assert right["checks"].to_dict() == {"float64": 4, "bfloat16 loss": 1}
  for factor in tables.FACTORS:
    assert found.loc[factor]["checks"].sum() == 10


def test_the_page_has_the_shares():
  page = tables.page(tables.verdicts(RIGHT + MISTAKEN))
  # 1 of 5 wrong and spoiled; 1 limited, 1 another; 0 and 5 of 5 rejected.
  one = "20 (3.62 to 62.4)"
  line = f"| all: yes | 5 | {one} | 1 | {one} | {one} | 0 (0 to 43.4) | 100 ("
  assert line in page
  third = "33.3 (6.15 to 79.2)"
  assert f"| all, 0.01 | 3 | {third} | {third} | {third} | 66.7 (" in page
  _, beyond = page.split("above 0.01 in some tensor\n")
  assert f"| all: yes | 3 | {third} | {third} | {third} | 100 (" in beyond


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_right_gradients_are_the_derivatives(family):
  """By differences whose steps follow each entry's size and the bends."""
  case = cases.draw(family, "float64", 0, 1)
  made = cases.programs(family, "float64")
  # Just the loss, without the constant that may hide it.
  data = case.data | {"offset": np.zeros(()), "back": np.zeros(())}
  step = min(1e-5, 1e-3 / np.max(data["inputs"].get("rate", 1.0)))
  leaves, treedef = jax.tree.flatten(case.params)
  theta = np.concatenate([np.ravel(leaf) for leaf in leaves])
  sizes = np.concatenate([np.ravel(s) for s in jax.tree.leaves(data["sizes"])])
  ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

  def loss(theta):
    parts = np.split(theta, ends)
    pairs = zip(parts, leaves, strict=True)
    params = treedef.unflatten([x.reshape(y.shape) for x, y in pairs])
    return float(made.loss(params, data, case.mistake))

  with runtime.float64():
    right = jax.tree.leaves(made.right(case.params, data, case.mistake))
    numeric = [
      (loss(theta + step * move) - loss(theta - step * move)) / (2 * step)
      for move in np.diag(sizes)
    ]
  # The derivatives in units of the sizes, so that they are comparable.
  right = np.concatenate([np.ravel(g) for g in right]) * sizes
  far = np.abs(right - numeric)
  assert far.max() <= 1e-4 * np.abs(right).max()


def test_each_kind_of_mistake_is_what_it_says():
  seen = {}
  for number in range(40):
    case = cases.draw("tanh network", "float64", 0, number)
    factor = np.concatenate(
      [np.ravel(f) for f in jax.tree.leaves(case.mistake["factor"])]
    )
    extra = np.concatenate(
      [np.ravel(e) for e in jax.tree.leaves(case.mistake["extra"])]
    )
    wrong = (factor != 1) | (extra != 0)
    kind, size = case.told["kind"], case.told["size"]
    seen[kind, size] = seen.get((kind, size), 0) + 1
    off = np.abs(factor - 1 + extra)[wrong]
    np.testing.assert_allclose(off, size, rtol=1e-9)
    expected = {"right": (0,), "entry": (1,), "all": (factor.size,)}
    assert wrong.sum() in expected.get(kind, (2, 6)), kind
  assert seen == dict.fromkeys(cases.MISTAKES, 1) | {("right", 0.0): 17}


def test_torchs_rule_is_by_entry():
  numeric = np.array([1.0, 1e-9, 2e3])
  accepts = judges.torch_accepts
  assert accepts(numeric + np.array([9e-4, 9e-6, 1.9]), numeric)
  assert not accepts(numeric + np.array([1.1e-3, 0, 0]), numeric)
  assert not accepts(numeric + np.array([0, 1.1e-5, 0]), numeric)
  assert not accepts(numeric * np.array([np.nan, 1, 1]), numeric)


def test_equally_many_of_each_family_precision_and_shape():
  planned = blocks.plan(500, 4)
  sizes = {}
  for block in planned:
    assert block.end - block.first <= 4
    sizes[block[:3]] = sizes.get(block[:3], 0) + block.end - block.first
  assert set(sizes.values()) == {11}
  assert len(sizes) == 48
  assert len({block.file_name for block in planned}) == len(planned)


def test_a_tiny_one_is_run_filed_and_gone_on_with(tmp_path, monkeypatch):
  todo = [
    blocks.Block("waves", "float64", 0, 0, 4),
    blocks.Block("waves", "bfloat16 loss", 0, 0, 2),
  ]
  list(blocks.measure(tmp_path / "blocks", todo[:1], 1))
  run, ran = blocks.run, []

  def watched(block):
    ran.append(block)
    return run(block)

  monkeypatch.setattr(blocks, "run", watched)
  found = command.measure(todo, tmp_path / "blocks", 1)
  assert ran == todo[1:]
  assert len(found["records"]) == 6
  assert found["filed_before"] == 1
  numbers = [r["number"] for r in found["records"]]
  assert numbers == [0, 1, 2, 3, 0, 1]
  for each in found["records"]:
    assert each["ours"] != "raised", each["reason"]
  how = {"checks": 6}
  page = command.write(found["records"], tmp_path, how)
  assert page.startswith("# The gradient check by simulation\n\n6 checks")
  assert {p.name for p in tmp_path.iterdir()} == {
    "blocks",
    "README.md",
    "counts.csv",
    "gradcheck_simulation.png",
    "run.json",
  }


def test_what_raises_is_a_verdict_of_its_own(monkeypatch):
  def broken(*_, **__):
    raise RuntimeError("out of order")

  monkeypatch.setattr(judges.gradcheck, "check", broken)
  found = judges.judge(cases.draw("waves", "float64", 0, 0))
  assert found["ours"] == "raised"
  assert found["reason"] == "RuntimeError: out of order"
  assert tables.verdicts([found])["unresolved"].tolist() == [1]
