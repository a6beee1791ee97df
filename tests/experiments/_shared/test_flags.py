"""Messages of the library as the command line shows them; the preset."""

import pytest
from absl import flags

from experiments._shared import flags as shared

FLAGS = ("learning_rate", "seed", "hidden_sizes")


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    ("seed=-1: expected 0 or more", "--seed=-1: expected 0 or more"),
    ("learning_rate: expected a rate", "--learning_rate: expected a rate"),
    ("learning_rate is -1, expected", "--learning_rate is -1, expected"),
    ("learning_rate is nan, expected", "--learning_rate is nan, expected"),
    ("hidden_sizes is (0,), expected", "--hidden_sizes is (0,), expected"),
    ("seed=1 and learning_rate=2:", "--seed=1 and --learning_rate=2:"),
    # Flags already, words of a sentence, and parameters that are no flags.
    ("--seed=1: expected", "--seed=1: expected"),
    ("the seed is another one", "the seed is another one"),
    ("the seed that was given", "the seed that was given"),
    ("smoothing=2: expected", "smoothing=2: expected"),
    ("smoothing is 2, expected", "smoothing is 2, expected"),
    # Parts of paths and of longer names.
    ("/runs/seed=3/a.npz: cut short", "/runs/seed=3/a.npz: cut short"),
    ("runs/a.seed=3: cut short", "runs/a.seed=3: cut short"),
    ("runs/my-seed=3: cut short", "runs/my-seed=3: cut short"),
    ("tuning_seed=3: expected", "tuning_seed=3: expected"),
  ],
)
def test_flags_get_their_dashes_in_messages(message, expected, monkeypatch):
  monkeypatch.setattr(shared, "FLAGS", FLAGS)
  assert shared.with_dashes(message) == expected


@pytest.mark.parametrize("name", ["workdir", "data_dir"])
def test_a_path_may_be_below_the_home_directory(name, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  shared.use(name)
  flag = flags.FLAGS[name]
  assert flag.parser.parse("~/a") == "/home/me/a"
  assert flag.parser.parse("b/~a") == "b/~a"


@pytest.mark.parametrize(
  ("given", "asked"),
  [
    (["--preset=full"], True),
    (["-preset", "quick"], True),
    (["--epochs=2"], False),
    ([], False),
  ],
)
def test_a_study_is_asked_for_by_its_preset(given, asked):
  assert shared.asks_for_study(["preset.py", *given]) is asked
