"""What a study's lab tunes, sweeps and files."""

import json
import types

import pandas as pd
import pytest

from experiments._shared import study
from mnist_jax import sweep
from mnist_jax.runtime.errors import InputError

BUDGET = sweep.Budget(epochs=1)


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """A lab without data whose runs end at an accuracy of their rate."""

  def made(lab, cells, budget, **where):
    every = dict.fromkeys(cell for own in cells.values() for cell in own)
    runs = [
      {
        "cell": sweep.cell_key(cell, budget),
        "step": 1,
        "seed": cell.seed,
        "dev_accuracy": cell.learning_rate,
        "dev_loss": cell.learning_rate,
        "diverged_step": None,
      }
      for cell in every
    ]
    return study.by_arm(pd.DataFrame(runs), cells, budget)

  monkeypatch.setattr(study.Lab, "sweep", made)
  return study.Lab(None, tmp_path, overwrite=False)


def at_rates(*rates):
  return [sweep.Settings(learning_rate=rate) for rate in rates]


def test_tuning_takes_the_best_of_each_family_where_they_share_a_candidate(
  lab,
):
  families = {"one": at_rates(0.1, 0.2, 0.3), "two": at_rates(0.3, 0.1)}
  found = lab.tune(families, 2, BUDGET)
  assert found.best == dict.fromkeys(
    families, sweep.Settings(learning_rate=0.3)
  )
  assert found.table.groupby("arm").size().to_dict() == {"one": 6, "two": 4}
  assert set(found.table["seed"]) == set(study.tuning_seeds(2))
  found = lab.tune(families, 1, BUDGET, metric="dev_loss")
  assert found.best == dict.fromkeys(
    families, sweep.Settings(learning_rate=0.1)
  )


def test_a_family_gets_its_own_of_two_candidates_that_mean_the_same_run(lab):
  plain = sweep.Settings(optimizer="momentum")
  named = sweep.Settings(optimizer="momentum", momentum=0.9)
  assert plain != named
  assert sweep.cell_key(plain, BUDGET) == sweep.cell_key(named, BUDGET)
  families = {"plain": [plain], "named": [named]}
  found = lab.tune(families, 2, BUDGET)
  assert found.best == {"plain": plain, "named": named}


def test_the_runs_of_an_arm_are_its_cells_also_those_of_another():
  slow, fast = at_rates(0.1, 0.2)
  keys = [sweep.cell_key(cell, BUDGET) for cell in (slow, fast)]
  runs = pd.DataFrame({"cell": [*keys, keys[0]], "step": [0, 0, 1]})
  found = study.by_arm(runs, {"both": [fast, slow], "slow": [slow]}, BUDGET)
  assert found["arm"].tolist() == ["both"] * 3 + ["slow"] * 2
  assert found["cell"].tolist() == [*keys, keys[0], keys[0], keys[0]]
  assert found["step"].tolist() == [0, 0, 1, 0, 1]


def cases(done, *names):
  """Cases that note that they ran; each has two records."""

  def case(name):
    def run():
      done.append(name)
      return [{"name": name, "number": number} for number in range(2)]

    return run

  return {name: case(name) for name in names}


def test_cases_go_on_after_a_line_that_a_kill_cut_short(tmp_path):
  done = []
  first = study.Lab(None, tmp_path, overwrite=False)
  records = first.collect(cases(done, "a", "b"))
  assert done == ["a", "b"]
  assert [(r["name"], r["number"]) for r in records] == [
    ("a", 0),
    ("a", 1),
    ("b", 0),
    ("b", 1),
  ]
  (path,) = tmp_path.glob("*.jsonl")
  path.write_text(path.read_text()[:-5])
  again = study.Lab(None, tmp_path, overwrite=False)
  assert again.collect(cases(done, "a", "b")) == records
  assert done == ["a", "b", "b"]
  filed = map(json.loads, path.read_text().splitlines())
  assert [line["case"] for line in filed] == ["a", "b"]


def test_cases_of_other_code_and_overwritten_ones_run_again(tmp_path):
  done = []
  for code_key, overwrite in (("x", False), ("y", False), ("y", True)):
    own = study.Lab(None, tmp_path, overwrite, code_key=code_key)
    own.collect(cases(done, "a"))
  assert done == ["a"] * 3
  # What one collection has filed, the next of the same lab keeps.
  own.collect(cases(done, "a", "b"))
  assert done == ["a"] * 3 + ["b"]


def test_a_lab_without_data_has_no_data_set(tmp_path):
  own = study.Lab(None, tmp_path, overwrite=False)
  assert own.data_digest is None
  with pytest.raises(ValueError, match="no data set"):
    _ = own.dataset


@pytest.fixture
def option(monkeypatch):
  """A list of numbers that rise, whose flag says what it is given."""
  own = study.Option("batches", (1, 2), (1, 2, 3), "grid", rises=2)
  given = types.SimpleNamespace(value=None)
  monkeypatch.setattr(study, "FLAGS", {"batches": given})

  def value(text, preset="full"):
    given.value = text and text.split(",")
    return own.value(preset)

  return value


def test_an_option_is_what_its_flag_says_else_the_preset(option):
  assert option(None, "quick") == (1, 2)
  assert option(None) == (1, 2, 3)
  assert option("4,8") == (4, 8)


@pytest.mark.parametrize("given", ["4", "2,1", "1,1", "0,1", "-1,2"])
def test_an_option_that_must_rise(option, given):
  message = f"^batches={given}: expected at least 2 numbers above 0 that rise"
  with pytest.raises(InputError, match=message):
    option(given)
  with pytest.raises(InputError, match="=1,x: expected whole numbers"):
    option("1,x")


def test_what_a_study_leaves_is_strict_json():
  """A bare NaN, which Python writes, is refused by other readers of JSON."""
  text = study._text({"error": [float("nan"), 1.5]})
  found = json.loads(text, parse_constant=pytest.fail)
  assert found == {"error": ["NaN", 1.5]}
