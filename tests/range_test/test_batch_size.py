import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_regression import squared

from mnist_jax import plotting
from mnist_jax.range_test import batch_size
from mnist_jax.range_test.batch_size import find_batch_size
from mnist_jax.runtime.errors import InputError

BATCH = np.ones((3, 3), np.float32), np.ones(3, np.float32)
SIZES = (1, 2, 8)


def find(loss_fn=squared, batch=BATCH, sizes=SIZES, seconds=600, **more):
  return find_batch_size(
    *(loss_fn, jnp.zeros(3), batch), sizes=sizes, seconds=seconds, **more
  )


def test_a_real_run_times_every_size():
  found = find(make_optimizer=optax.inject_hyperparams(optax.adam))
  assert found.sizes.tolist() == [1, 2, 8]
  assert found.seconds.shape == (5, 3)
  assert (found.seconds > 0).all()
  assert found.fits.all()
  assert found.largest == 8
  assert found.fastest in SIZES
  assert found.memory[2] > found.memory[0] > 4 * 3 * 3  # params, two moments
  figure = found.plot("mine")
  assert plotting.render(figure, "png").startswith(b"\x89PNG")
  _, labels = figure.axes[1].get_legend_handles_labels()
  assert labels == ["needed", "largest that fits: 8"]


def test_each_size_has_rows_of_the_batch_and_the_rest_as_it_is():
  seen = {}

  def note(x, scale):
    seen[len(x)] = np.asarray(x), np.asarray(scale)

  def loss(params, batch):
    jax.debug.callback(note, *batch)
    return jnp.mean((batch[0] - params) ** 2) * batch[1].sum()

  rows = np.float32([[0], [1], [2]])
  find(loss, (rows, np.float32([7, 8])), make_optimizer=optax.sgd)
  assert set(seen) == set(SIZES)
  for size, (x, scale) in seen.items():
    np.testing.assert_array_equal(x[:, 0], np.arange(size) % 3)
    np.testing.assert_array_equal(scale, [7, 8])


def test_no_update_needs_more_than_the_limit():
  every = find()
  limit = int(every.memory[1])
  found = find(memory_limit=limit)
  assert found.sizes.tolist() == [1, 2, 8]
  assert found.largest == 2
  assert found.fits.tolist() == [True, True, False]
  assert np.isnan(found.seconds[:, 2]).all()  # compiled, never run
  assert "nothing larger was tried: batch 8 needs" in found.reason
  none = find(memory_limit=1)
  assert none.fastest is none.largest is None
  needs = f"{int(none.memory[0])} B of 1 B"
  assert none.reason == f"no size was run: batch 1 needs {needs}"
  assert str(none).endswith(none.reason)


def test_the_first_size_is_run_in_any_case():
  found = find(seconds=1e-3)
  assert found.fastest == found.largest == 1
  assert found.reason == "only batch 1 was run in seconds=0.001; give more"
  assert str(found).splitlines()[1].endswith("< fastest, largest tried")


class Process:
  """One that holds 1 GiB for each example while it runs an update."""

  def __init__(self, monkeypatch):
    self.held = self.peak = 2**31
    measure = batch_size._Search.measure

    def measure_it(search, candidate):
      self.size = candidate.size
      measure(search, candidate)

    monkeypatch.setattr(batch_size._Search, "measure", measure_it)
    monkeypatch.setattr(batch_size, "_resident", self.resident)

  def resident(self):
    before, self.peak = self.peak, self.held + self.size * 2**30
    return self.held, before


def test_what_the_process_holds_beyond_the_account_counts(monkeypatch):
  process = Process(monkeypatch)
  found = find(sizes=(1, 2, 4, 8), memory_limit=7 * 2**30)
  assert found.fits.tolist() == [True, True, True, False]
  np.testing.assert_allclose(found.memory, 2**30 * found.sizes, rtol=1e-3)
  assert np.isnan(found.seconds[:, 3]).all()  # foreseen, and not run
  assert "8 needs 8 GiB of 7 GiB" in found.reason
  process.peak = process.held
  alone = find(sizes=(1,), memory_limit=2**29)
  assert alone.fastest is alone.largest is None


def test_an_update_that_runs_out_of_memory_ends_the_search():
  def loss(params, x):
    wide = jnp.ones((len(x), 2**45 if len(x) == 8 else 1)) * params.sum()
    return jnp.cumsum(wide, axis=0).var()

  # More than an address space holds: no system begins to give it.
  found = find(loss, np.ones(4, np.float32), memory_limit=2**62)
  assert found.largest == 2
  assert found.reason.endswith("was tried: batch 8 ran out of memory")
  assert np.isfinite(found.seconds[:, :2]).all()


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: of it", "INTERNAL"])
def test_one_that_runs_out_in_a_later_round_does_not_fit(monkeypatch, message):
  visit = batch_size._Search.visit

  def visit_once(search, candidate):
    if candidate.size == 8 and candidate.seconds:
      raise jax.errors.JaxRuntimeError(message)
    visit(search, candidate)

  monkeypatch.setattr(batch_size._Search, "visit", visit_once)
  if message == "INTERNAL":
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
      find()
  else:
    assert find().largest == 2


def test_another_error_of_the_device_is_not_taken_for_it(monkeypatch):
  def fail(*_):
    raise jax.errors.JaxRuntimeError("INTERNAL: broken")

  monkeypatch.setattr(batch_size._Search, "visit", fail)
  with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
    find()


class Clock:
  """Seconds that pass as the programs are made and run, and not else."""

  def __init__(self, monkeypatch, compiling, a_visit):
    self.now = 0.0
    compile_it, visit = batch_size._Search.compile, batch_size._Search.visit

    def slow_compile(search, size):
      self.now += compiling
      return compile_it(search, size)

    def slow_visit(search, candidate):
      visit(search, candidate)
      self.now += a_visit * candidate.size
      candidate.cost = a_visit * candidate.size

    monkeypatch.setattr(batch_size._Search, "compile", slow_compile)
    monkeypatch.setattr(batch_size._Search, "visit", slow_visit)
    clock = types.SimpleNamespace(
      monotonic=lambda: self.now, perf_counter=time.perf_counter
    )
    monkeypatch.setattr(batch_size, "time", clock)


@pytest.mark.parametrize(
  ("compiling", "a_visit", "run"), [(8, 0.01, 3), (0.1, 1, 3), (0.1, 0, 5)]
)
def test_it_ends_in_the_time_it_has(
  monkeypatch, capsys, compiling, a_visit, run
):
  clock = Clock(monkeypatch, compiling, a_visit)
  found = find(sizes=(1, 2, 4, 8, 16), seconds=30)
  assert clock.now <= 30
  timed = np.isfinite(found.seconds).sum(axis=0)
  assert np.count_nonzero(timed) == run
  assert (timed[:run] >= 3).all()  # one hiccup does not decide
  progress = capsys.readouterr().err
  assert ("batch size: " in progress) == (clock.now > 5)
  if compiling == 8:
    assert "batch 8 would not have ended in seconds=30" in found.reason
  assert ("largest tried" in found.marks) == (run < 5)


def test_an_aux_is_computed_and_a_gradient_by_hand_taken():
  def with_aux(params, batch):
    return squared(params, batch), batch[0] @ params

  assert find(with_aux, has_aux=True).largest == 8

  def by_hand(params, batch):
    raise InputError("taken")

  with pytest.raises(InputError, match="taken"):
    find(value_and_grad=by_hand)


class Model:
  """It keeps a running mean, as what trains outside of jax does."""

  def __init__(self):
    self.mean = 0.0

  def __call__(self, params, batch):
    self.mean = 0.9 * self.mean + 0.1 * batch[0].mean()
    return squared(params, batch) + self.mean


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("given", "message"),
  [
    (
      {"batch": iter([BATCH])},
      "batch: found list_iterator, expected one",
    ),
    ({"batch": lambda step: BATCH}, "batch: found function, expected one"),
    (
      {"batch": (np.ones(()), 3)},
      r"batch: found shapes \(\), \(\), expected a",
    ),
    ({"batch": {}}, "batch: found no arrays, expected a leading axis"),
    ({"batch": "abc"}, "batch holds str, expected arrays"),
    ({"loss_fn": Model()}, "an earlier call .* has_aux=True"),
    ({"loss_fn": lambda p, b: (squared(p, b), 1)}, "has_aux=True"),
    (
      {"loss_fn": lambda p, b: b[1].reshape(8).sum() * p.sum()},
      r"loss_fn on a batch of 1, of shape \(\(1, 3\), \(1,\)\): TypeError",
    ),
    ({"make_optimizer": optax.sgd(0.1)}, "expected a function of the rate"),
    ({"sizes": ()}, "sizes is"),
    ({"sizes": (2, 1)}, "sizes is"),
    ({"sizes": (0, 1)}, "sizes is"),
    ({"sizes": [1.5]}, r"sizes is \[1.5\], expected a list of whole numbers"),
    ({"sizes": 64}, "sizes is 64, expected a list"),
    ({"seconds": 0}, "seconds is 0"),
    ({"seconds": "3"}, "seconds is '3', expected a number above 0"),
    ({"memory_limit": 0}, "memory_limit is 0"),
    ({"memory_limit": "8GB"}, "memory_limit is '8GB', expected a number of"),
    ({"within": 1}, "within is 1"),
    ({"within": "1"}, "within is '1'"),
    (
      {"batch": [BATCH] * 3},
      r"batch is a list of 3: expected one batch, such as batches\[0\] \(loss",
    ),
  ],
)
def test_what_cannot_be_is_one_line(given, message):
  with pytest.raises(InputError, match=message) as error:
    find(**given)
  assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_sizes_may_be_an_array_and_a_batch_a_list():
  found = find(batch=list(BATCH), sizes=np.array([2, 3]))
  assert found.sizes.tolist() == [2, 3]


def test_params_that_are_no_floats_are_named():
  with pytest.raises(InputError, match=r"params\['mean'\]: found Model"):
    find_batch_size(squared, {"mean": Model()}, BATCH)


def test_the_limit_is_the_devices_or_half_of_what_the_host_has(monkeypatch):
  class Device:
    def memory_stats(self):
      return {"bytes_limit": 1000, "bytes_in_use": 300}

  limits = [10, 8]
  monkeypatch.setattr(batch_size, "_host_limits", lambda: iter(limits))
  assert batch_size._free() == 4
  limits.clear()
  with pytest.raises(InputError, match="memory_limit is None"):
    batch_size._free()
  monkeypatch.setattr(jax, "devices", lambda: [Device()])
  assert batch_size._free() == 700


def test_the_host_tells_what_it_has():
  assert 2**20 < min(batch_size._host_limits()) < 2**60
