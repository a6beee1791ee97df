import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.test_events import points, read

from mnist_jax import data
from mnist_jax.model import mlp
from mnist_jax.training import gradient_checks, loop, run_directory, runner
from mnist_jax.training.settings import Settings

SMALL = Settings(hidden_sizes=(5, 4), batch_size=40, learning_rate=0.3)
CONFIG = SMALL.train_config()
EPOCHS, UPDATES = 2, 5


@pytest.fixture(scope="module")
def small(mnist):
  """200 training examples: five updates an epoch."""

  def cut(split, count):
    return data.Split(*(x[:count] for x in split))

  return dataclasses.replace(
    mnist, train=cut(mnist.train, 200), dev=cut(mnist.dev, 50)
  )


def finished(small, path, chosen=SMALL, every=None, stop=lambda: False):
  rates = chosen.learning_rates(200, EPOCHS * UPDATES)
  options = runner.Options(epochs=EPOCHS, check_gradients_every=every)
  with run_directory.open_run(path, {"flags": {"epochs": EPOCHS}}) as directory:
    outcome = runner.run(
      chosen, rates, small, directory, options, should_stop=stop
    )
    return outcome, directory.rows()


def same_weights(a, b):
  for ours, theirs in zip(
    jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_leaves_no_trace_and_records_distances(small, tmp_path):
  chosen = dataclasses.replace(
    SMALL, dropout=0.3, optimizer="momentum", l2=1e-3
  )
  plain, plain_rows = finished(small, tmp_path / "a", chosen)
  checked, rows = finished(small, tmp_path / "b", chosen, 3)
  same_weights(checked, plain)
  lines = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == list(rows)
  found = [check for row in rows for check in row.pop("gradient_checks", ())]
  assert rows == plain_rows
  assert [check["step"] for check in found] == [0, 3, 6, 9]
  assert {check["verdict"] for check in found} == {"correct"}
  assert all(0 < check["distance"] < 1e-9 for check in found)
  assert len({check["distance"] for check in found}) == 4
  (path,) = (tmp_path / "b" / "events").glob("*")
  shown = [p for p in points(read(path)) if p[1] == "gradient_check/distance"]
  assert shown == [
    (check["step"], "gradient_check/distance", np.float32(check["distance"]))
    for check in found
  ]


def test_leaves_no_trace_in_a_run_that_is_gone_on_with(small, tmp_path):
  whole, rows = finished(small, tmp_path / "a", every=2)
  stopped, _ = finished(small, tmp_path / "b", every=2, stop=lambda: True)
  assert stopped.ended == "stopped"
  again, again_rows = finished(small, tmp_path / "b", every=2)
  same_weights(again, whole)
  assert again_rows == rows
  steps = [c["step"] for row in rows for c in row.get("gradient_checks", ())]
  assert steps == [0, 2, 4, 6, 8]


def test_reaches_the_states_of_training_again(small, monkeypatch):
  """Bit for bit, and the state it is given is left as it is."""
  seen = []

  def noted(config, state, batch, hparams):
    seen.append(jax.tree.map(np.array, state))
    return {}

  monkeypatch.setattr(gradient_checks, "check_state", noted)
  rates = np.full(UPDATES, 0.3, np.float32)
  plan = loop.plan_epoch(CONFIG, 0, 0, 200, rates, 0)
  state, hparams = loop.init_state(CONFIG, 0), loop.make_hparams(0)
  gradient_checks.check_epoch(CONFIG, state, small.train, plan, hparams, 2)
  assert [int(found.step) for found in seen] == [0, 2, 4]
  same_weights(seen[0], state)
  short = loop.EpochPlan(*(array[:4] for array in plan))
  whole, _ = loop.train_epoch(CONFIG, state, small.train, short, hparams)
  same_weights(seen[2], whole)


def test_a_planted_mistake_is_seen(small, tmp_path, monkeypatch):
  monkeypatch.setitem(mlp.DERIVATIVES, "tanh", lambda a: 1 - jnp.abs(a))
  jax.clear_caches()
  try:
    _, rows = finished(small, tmp_path / "c", every=5)
  finally:
    jax.clear_caches()
  found = [check for row in rows for check in row.get("gradient_checks", ())]
  assert [check["verdict"] for check in found] == ["wrong", "wrong"]
  assert all(check["distance"] > 1e-6 for check in found)
