"""Batch sizes that change: counted, trained, resumed, swept."""

import dataclasses

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from experiments import train
from experiments._shared import flags as shared
from mnist_jax import data, sweep
from mnist_jax.runtime import compile_log
from mnist_jax.runtime.errors import InputError
from mnist_jax.schedules import BatchSchedule, batch_sizes
from mnist_jax.training import gradient_checks, run_directory, runner
from mnist_jax.training.settings import Settings, from_values


@st.composite
def schedule_texts(draw, largest=60):
  later = draw(st.lists(st.integers(1, 8), max_size=3, unique=True).map(sorted))
  sizes = st.integers(1, largest)
  return ",".join(f"{start}:{draw(sizes)}" for start in [0, *later])


@given(schedule_texts())
def test_text_comes_back_and_sizes_last_until_the_next(text):
  schedule = batch_sizes.parse(text)
  assert str(schedule) == text
  pairs = dict(map(int, pair.split(":")) for pair in text.split(","))
  size = 0
  for epoch in range(12):
    size = pairs.get(epoch, size)
    assert schedule.size_at(epoch) == size


@pytest.mark.parametrize(
  "text",
  [
    *("", "128", "0:128,", "1:128", "0:128,0:64", "0:1,5:2,3:4", "0:0", "0:-4"),
    *("0:1.5", "0:128,2.5:64", "0:128:3", "auto", "0:128 20:640", "0:٣"),
  ],
)
def test_another_text_is_one_line(text):
  with pytest.raises(InputError, match=r"batch_schedule=.*0:128,20:640") as e:
    Settings(batch_schedule=text)
  assert "\n" not in str(e.value)


@given(schedule_texts(), st.integers(60, 300), st.booleans())
@hypothesis_settings(max_examples=60)
def test_the_clock_counts_what_the_epochs_cut(text, num_examples, drop_last):
  schedule = batch_sizes.parse(text)
  clock = schedule.clock(num_examples, drop_last)
  order = np.arange(num_examples, dtype=np.int32)
  step = 0
  for epoch in range(11):
    size = schedule.size_at(epoch)
    count = len(data.batch_indices(order, size, drop_last)[0])
    assert clock.before(epoch) == clock.updates(epoch) == step
    assert clock.count(epoch) == count
    assert clock.locate(step) == (epoch, 0)
    assert clock.locate(step + count - 1) == (epoch, count - 1)
    assert clock.epochs(step) == epoch
    assert clock.epochs(step + count - 1) == pytest.approx(
      epoch + (count - 1) / count
    )
    assert clock.updates(epoch + 0.5) == step + (count + 1) // 2
    step += count


@given(schedule_texts(), st.integers(60, 300), st.data())
@hypothesis_settings(max_examples=60)
def test_a_table_serves_every_update_at_its_own_place(text, count, drawn):
  clock = batch_sizes.parse(text).clock(count)
  updates = drawn.draw(st.integers(1, clock.before(10)))
  per_epoch, places, length = clock.table_places(updates)
  assert len(places) == updates
  assert places[0] >= 0
  assert places[-1] < length
  assert abs(clock.epochs(updates) * per_epoch - length + 0.5) < 0.5 + 1e-6
  for step, place in enumerate(places):
    exact = clock.epochs(step) * per_epoch
    assert exact - 1 < place <= exact + 1e-6


@pytest.mark.parametrize("sizes", ["0:10,2:50,4:25", "0:50,2:7"])
def test_rates_drop_at_epochs_of_the_data(sizes):
  chosen = Settings(
    batch_schedule=sizes,
    schedule="multistep",
    boundaries=(1, 3, 4.5),
    gamma=0.5,
    schedule_unit="epochs",
    learning_rate=0.8,
    warmup_steps=1,  # the boundaries' count starts after it
  )
  clock = chosen.clock(100)
  rates = chosen.learning_rates(100, clock.before(6))
  assert (np.diff(rates[: clock.before(1)]) > 0).all()
  for epoch, expected in ((1, 0.8), (2, 0.4), (4, 0.2), (5.5, 0.1)):
    at = clock.updates(epoch)
    np.testing.assert_allclose(rates[at], expected, rtol=1e-6)
    assert rates[at - 1] > rates[at] or epoch == 1
  assert np.unique(rates[clock.before(1) :]).size == 4


def test_rates_in_updates_and_of_one_size_are_as_ever():
  steady = {"schedule": "poly", "schedule_unit": "epochs", "warmup_steps": 1}
  plain = Settings(batch_size=10, **steady).learning_rates(100, 50)
  one = Settings(batch_schedule="0:10", **steady).learning_rates(100, 50)
  np.testing.assert_array_equal(one, plain)
  count = {"schedule": "step", "decay_steps": 7}
  grown = Settings(batch_schedule="0:10,2:50", **count).learning_rates(100, 26)
  plain = Settings(batch_size=10, **count).learning_rates(100, 26)
  np.testing.assert_array_equal(grown, plain)
  poly = Settings(batch_schedule="0:10,2:50", **steady)
  assert poly.learning_rates(100, 28)[-1] == pytest.approx(0.2 * 5 / 50)


def test_what_does_not_go_together():
  both = "batch_size=64 and batch_schedule=0:128: expected one of the two"
  with pytest.raises(InputError, match=both):
    Settings(batch_size=64, batch_schedule="0:128")
  large = Settings(batch_schedule="0:128,2:300")
  with pytest.raises(InputError, match="300 is more than the 200 training"):
    large.learning_rates(200, 10)
  with pytest.raises(InputError, match="epoch 2 is never reached in 6 updates"):
    large.learning_rates(300, 6)
  assert large.learning_rates(300, 7).shape == (7,)
  assert large.train_config().batch_size == 128


def test_keys_are_of_the_schedule_not_of_its_spelling():
  budget = sweep.Budget(epochs=5)
  keys = [
    sweep.cell_key(Settings(batch_schedule=text), budget)
    for text in ("0:128,2:640", "0:0128,02:640", "0:128,3:640")
  ]
  assert keys[0] == keys[1] != keys[2]
  assert keys[0] != sweep.cell_key(Settings(), budget)


SMALL = Settings(
  hidden_sizes=(8,),
  activations=("sigmoid",),
  optimizer="momentum",
  schedule="poly",
  schedule_unit="epochs",
  batch_schedule="0:32,1:96,2:32,3:96",
)
EPOCHS = 4


@pytest.fixture(scope="module")
def small(mnist):
  """Splits of 200: 7 updates at batch 32, 3 at batch 96."""
  return dataclasses.replace(
    mnist,
    **{
      name: data.Split(*(np.asarray(x[:200]) for x in getattr(mnist, name)))
      for name in ("train", "dev", "test")
    },
  )


def finished(dataset, path, stop_after=None, on_row=lambda: None, **more):
  """Runs in a directory; with `stop_after` in two sessions."""
  count = len(dataset.train.labels)
  rates = SMALL.learning_rates(count, SMALL.clock(count).before(EPOCHS))
  options = runner.Options(epochs=EPOCHS, **more)
  config = {"flags": {"epochs": EPOCHS}}
  for last in (stop_after, None) if stop_after else (None,):
    seen = []

    def note(row):
      seen.append(row)  # noqa: B023
      on_row()

    with run_directory.open_run(path, config) as directory:
      outcome = runner.run(
        SMALL,
        rates,
        dataset,
        directory,
        options,
        on_row=note,
        should_stop=lambda: len(seen) == last,  # noqa: B023
      )
      assert outcome.ended == ("stopped" if last else "epochs")
      rows = directory.rows()
  return outcome, list(rows)


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
  """Outcome, rows, and programs compiled until each row."""
  path = tmp_path_factory.mktemp("undisturbed") / "run"
  compiled = []
  with compile_log.watch() as log:
    outcome, rows = finished(
      small, path, on_row=lambda: compiled.append(log.count)
    )
  return outcome, rows, compiled


def test_one_program_for_each_size(undisturbed):
  """Compiled before the row of the epoch before, as that trains ahead."""
  new = np.diff([0, *undisturbed[2]])
  assert (new > 0).tolist() == [True, True, False, False, False]


def test_rows_have_the_size_in_force(undisturbed):
  rows = undisturbed[1]
  assert [row["step"] for row in rows] == [0, 7, 10, 17, 20]
  assert [row["batch_size"] for row in rows] == [32, 32, 96, 32, 96]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resumed_between_sizes_is_bit_exact(
  small, undisturbed, tmp_path, after
):
  outcome, rows = finished(small, tmp_path / "run", after)
  assert rows == undisturbed[1]
  for ours, theirs in zip(
    jax.tree.leaves(outcome.params),
    jax.tree.leaves(undisturbed[0].params),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_gradients_are_checked_in_the_epochs_own_batches(
  small, tmp_path, undisturbed, monkeypatch
):
  def check(config, state, split, plan, hparams, every):
    return [{"step": int(state.step), "distance": float(plan.indices.shape[1])}]

  monkeypatch.setattr(gradient_checks, "check_epoch", check)
  _, rows = finished(
    small, tmp_path / "run", stop_after=2, check_gradients_every=5
  )
  checks = [check for row in rows for check in row.pop("gradient_checks", ())]
  assert [check["distance"] for check in checks] == [32, 96, 32, 96]
  assert rows == undisturbed[1]


def test_a_sweep_is_the_single_run_and_compiles_once_a_size(small, undisturbed):
  cells = sweep.product(SMALL, learning_rate=[0.2, 0.1], seed=[0, 1])
  budget = sweep.Budget(
    epochs=EPOCHS, evaluate_every=0.5, splits=("train", "dev")
  )
  seen, compiled = [], []
  with compile_log.watch() as log:

    def on_progress(progress):
      seen.append(progress)
      compiled.append(log.count)

    table = sweep.run(cells, budget, dataset=small, on_progress=on_progress)
  # Told of at the start, then after each half of an epoch.
  counts = np.diff(compiled[:9])
  assert (counts > 0).tolist() == [True, False, True, *[False] * 5]
  # An update at batch 96 is three times the work of one at 32.
  shares = [progress.done / progress.total for progress in seen[:9]]
  np.testing.assert_allclose(shares, np.arange(9) / 8, atol=0.05)
  own = table[table["cell"] == sweep.cell_key(SMALL, budget)]
  assert own["step"].tolist() == [0, 4, 7, 9, 10, 14, 17, 19, 20]
  assert own["batch_size"].tolist() == [32] * 3 + [96] * 2 + [32] * 2 + [96] * 2
  whole = own[own["epoch"] == own["epoch"].round()]
  alone = undisturbed[1]
  assert whole["step"].tolist() == [row["step"] for row in alone]
  np.testing.assert_array_equal(
    whole["rate"].to_numpy(np.float32),
    np.float32([row["learning_rate"] for row in alone]),
  )
  for name in ("train_loss", "dev_loss"):
    np.testing.assert_allclose(
      whole[name], [row[name] for row in alone], rtol=2e-5
    )


def test_the_flags_make_the_run():
  # Those that are read before any were parsed.
  given = {"batch_schedule": "0:50,2:150", "epochs": "3", "patience": "2"}
  given |= {"checkpoint_every": "1", "check_gradients_every": "9"}
  with flagsaver.as_parsed(**given):
    chosen = from_values(shared.flag_values())
    options = train.options()
  assert chosen.batches == BatchSchedule((0, 2), (50, 150))
  assert options == runner.Options(3, 2, 9, 1)
  assert "batch_schedule" not in shared.flag_values()  # as in older records


def test_both_flags_are_one_line():
  both = "batch_size=128 and batch_schedule=0:64: expected one of the two"
  with (
    flagsaver.as_parsed(batch_schedule="0:64", batch_size="128"),
    pytest.raises(InputError, match=both),
  ):
    shared.flag_values()
