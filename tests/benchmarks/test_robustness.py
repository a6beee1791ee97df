"""One thing changed at a time: the width of every run, the test of a part."""

import numpy as np
import pytest

from benchmarks import robustness
from experiments._shared import study
from mnist_jax import data, stats, sweep
from mnist_jax.stats.verdicts import Verdict

pytestmark = pytest.mark.once


@pytest.mark.parametrize("as_arms", [False, True])
def test_every_run_is_made_wider(tmp_path, as_arms):
  lab = robustness.WiderLab(data.take(data.load(), 256), tmp_path, False)
  lab.factor = 2
  cells = sweep.product(hidden_sizes=[(4, 3)], seed=[0])
  table = lab.sweep({"a": cells} if as_arms else cells, sweep.Budget(updates=1))
  assert set(table["hidden_sizes"]) == {"8,6"}


def test_judged_by_signs_a_part_has_the_sign_test(tmp_path, monkeypatch):
  differences = np.concatenate([np.full(24, 0.01), np.full(6, -0.02)])

  def judge(*_):
    effect = stats.typical_interval(differences, seed=0)
    part = stats.Question("a", "a", effect, "greater")
    return [stats.judge(stats.Claim("L4", [part], lambda _: "."))]

  tested = study.Study("mine", (), lambda *_: None, judge, None, None)
  values = study.preset_values(tested, "full")
  vars(values)["seeds"] = 30
  monkeypatch.setattr(study, "preset_values", lambda *_: values)
  monkeypatch.setitem(robustness.STUDIES, "L4", (tested, {}))
  monkeypatch.setattr(data, "load", lambda **_: None)
  monkeypatch.setattr(robustness, "FLAGS", study.Values(preset="full"))
  words = {
    name: robustness.rows(
      "L4", name, robustness.judged("L4", robustness.VARIANTS[name], tmp_path)
    )[0]
    for name in ("as published", "test")
  }
  assert "t over seeds" in words["as published"]["test"]
  assert words["test"]["word"] == Verdict.HOLDS
  assert "sign" in words["test"]["test"].lower()
