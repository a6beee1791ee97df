"""Settings as fields, as flags and as what the trainer takes."""

import dataclasses
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments import train as train_experiment
from mnist_jax import data
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop, settings


def test_default_is_the_books_run():
  chosen = settings.Settings()
  assert chosen.train_config() == loop.TrainConfig()
  assert chosen.updates_per_epoch(55_000) == 430
  rates = chosen.learning_rates(55_000, 5)
  np.testing.assert_array_equal(rates, np.full(5, 0.2, np.float32))
  assert chosen.flags() == []
  assert chosen.hparams().l2 is None


def test_flags_say_every_setting_that_is_not_the_default():
  chosen = settings.Settings(
    learning_rate=0.1 + 0.2,
    hidden_sizes=(32,),
    activations=("relu",),
    drop_last=True,
    seed=7,
    order_seed=0,
    schedule="multistep",
    boundaries=(10, 20.5),
    gamma=0.5,
    schedule_unit="epochs",
  )
  command = chosen.command("experiments.train", "--epochs=3")
  words = shlex.split(command)
  assert words[:3] == ["python", "-m", "experiments.train"]
  assert words[-1] == "--epochs=3"
  given = dict(word[2:].split("=") for word in words[3:-1])
  assert float(given.pop("learning_rate")) == chosen.learning_rate
  assert given == {
    "hidden_sizes": "32",
    "activations": "relu",
    "drop_last": "true",
    "seed": "7",
    "order_seed": "0",
    "schedule": "multistep",
    "boundaries": "10,20.5",
    "gamma": "0.5",
    "schedule_unit": "epochs",
  }


def test_recorded_values_read_back():
  values = {
    "hidden_sizes": ["32", "8"],
    "activations": ["relu", "tanh"],
    "boundaries": ["3", "4.5"],
    "schedule": "multistep",
    "learning_rate": 0.1,
    "workdir": "ignored",
  }
  chosen = settings.from_values(values)
  assert chosen.hidden_sizes == (32, 8)
  assert chosen.boundaries == (3.0, 4.5)


@pytest.mark.parametrize(
  ("fields", "named"),
  [
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"learning_rate": float("inf")}, "learning_rate"),
    ({"batch_size": 0}, "batch_size"),
    ({"dropout": 1.0}, "dropout"),
    ({"l2": -1.0}, "l2"),
    ({"momentum": 0.5}, "momentum"),
    ({"momentum": 1.0, "optimizer": "momentum"}, "momentum"),
    ({"seed": -1}, "seed"),
    ({"order_seed": 2**32}, "order_seed"),
    ({"num_train": 0}, "num_train"),
    ({"optimizer": "sgdd"}, "optimizer"),
    ({"initializer": "xaver"}, "initializer"),
    ({"grad": "numeric"}, "grad"),
    ({"hidden_sizes": (64,)}, "hidden_sizes"),
    ({"hidden_sizes": (64, 0)}, "hidden_sizes"),
    ({"activations": ("sigmoid", "sine")}, "activations"),
    ({"schedule": "stepp"}, "schedule"),
    ({"schedule": "step"}, "decay_steps"),
    ({"gamma": 0.5}, "gamma"),
  ],
)
def test_what_cannot_be_is_one_line_with_the_flag(fields, named):
  with pytest.raises(InputError, match=f"{named}") as caught:
    settings.Settings(**fields)
  assert "\n" not in str(caught.value)


UNCHECKED = """
import numpy as np
from mnist_jax.runtime.errors import InputError
from mnist_jax.training.settings import Settings

given = Settings(
  batch_size=128.0,
  hidden_sizes=[np.int64(64), 16],
  activations=["sigmoid", "tanh"],
  learning_rate=np.float64(0.2),
  seed=np.int32(0),
)
assert given == Settings() and hash(given) == hash(Settings())
assert given.flags() == []
for fields in (
  {"batch_size": 128.5},
  {"batch_size": "128"},
  {"seed": True},
  {"learning_rate": [0.1, 0.2]},
  {"hidden_sizes": ["64", 16]},
):
  try:
    Settings(**fields)
  except InputError as error:
    print(error)
"""


def test_values_of_other_types_are_converted_or_refused():
  """In a process of its own: here, types are checked before that."""
  done = subprocess.run(
    [sys.executable, "-c", UNCHECKED],
    capture_output=True,
    text=True,
    cwd=train_experiment.__file__.rsplit("/", 2)[0],
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    "batch_size=128.5: expected a whole number >= 1",
    "batch_size=128: expected a whole number >= 1",
    "seed=True: expected a whole number in [0, 2^32)",
    "learning_rate=[0.1, 0.2]: expected a finite number in [1.18e-38, 3.4e+38]",
    "hidden_sizes=64: expected whole numbers >= 1",
  ]


def test_batch_larger_than_the_training_set():
  with pytest.raises(InputError, match="batch_size=128: more than the 100"):
    settings.Settings().learning_rates(100, 10)


def test_unknown_names_get_the_nearest():
  settings.require_known(settings.FIELDS)
  with pytest.raises(InputError, match=r"'learning_rat'.*'learning_rate'"):
    settings.require_known(["seed", "learning_rat"])
  for name, meant in {"lr": "learning_rate", "bs": "batch_size"}.items():
    with pytest.raises(InputError, match=f"'{name}', expected '{meant}'"):
      settings.require_known([name])
  with pytest.raises(InputError, match="expected one of learning_rate"):
    settings.require_known(["qqqq"])


def test_order_seed_alone_changes_the_order(mnist):
  small = loop.to_device(data.take(mnist, 256))

  def weights(**fields):
    chosen = settings.Settings(batch_size=64, **fields)
    rates = chosen.learning_rates(256, 4)
    plan = loop.plan_epoch(
      chosen.train_config(), chosen.order, 0, 256, rates, 0
    )
    state = loop.init_state(chosen.train_config(), chosen.seed)
    state, _ = loop.train_epoch(
      chosen.train_config(), state, small.train, plan, chosen.hparams()
    )
    return np.asarray(state.params[0].w)

  own, same, other = (
    weights(seed=3),
    weights(seed=3, order_seed=3),
    weights(seed=3, order_seed=4),
  )
  np.testing.assert_array_equal(own, same)
  assert np.abs(own - other).max() > 1e-4
  first = dataclasses.replace(settings.Settings(), seed=3)
  assert first.order == 3


def test_order_seed_is_a_flag_of_training(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.train", "--order_seed=-1"],
    capture_output=True,
    text=True,
    cwd=train_experiment.__file__.rsplit("/", 2)[0],
  )
  assert done.returncode == 2
  assert "order_seed" in done.stderr
