import numpy as np
import pytest

from mnist_jax.range_test.throughput import BatchSizes, shown

SIZES = 2 ** np.arange(8)


def measured(
  seconds, fits=True, within=0.05, end="it is the last of sizes", limit=None
):
  seconds = np.atleast_2d(np.asarray(seconds, float))
  count = seconds.shape[1]
  return BatchSizes(
    SIZES[:count],
    seconds,
    1000 * SIZES[:count],
    np.broadcast_to(fits, count).copy(),
    end,
    within,
    limit,
  )


def test_the_fastest_is_where_examples_per_second_stop_growing():
  """A launch of 1 ms and a cost of 0.1 ms an example beyond the first 16."""
  seconds = 1e-3 * np.maximum(1.0, SIZES / 16)
  found = measured(seconds)
  assert (found.fastest, found.largest) == (16, 128)
  assert found.reason == (
    "16: the smallest within 5 % of the best, 1.6e+04 examples/s at 16; "
    "128 fits, nothing larger was tried: it is the last of sizes"
  )


@pytest.mark.parametrize(
  ("within", "fastest"), [(0.0, 64), (0.04, 32), (0.2, 8)]
)
def test_within_says_how_much_of_the_best_is_enough(within, fastest):
  speed = np.array([1, 2, 4, 8.5, 9, 9.7, 10, 9.9])
  assert measured(SIZES / speed, within=within).fastest == fastest


def test_one_hiccup_decides_nothing():
  even = 1e-3 * np.maximum(1.0, SIZES / 16)
  rounds = np.tile(even, (5, 1))
  rounds[2, 4] *= 50  # at the best size
  rounds[0, 7] /= 50  # at another
  rounds[1:, 0] = np.nan  # one that was run once
  found = measured(rounds)
  assert found.fastest == 16
  np.testing.assert_allclose(found.milliseconds, 1e3 * even)
  even_count = measured([even, even, 3 * even, 5 * even])
  np.testing.assert_allclose(even_count.milliseconds, 2e3 * even)


def test_it_says_where_examples_per_second_still_grow():
  found = measured(np.full(8, 1e-3))
  assert found.fastest == 128
  assert "still growing at the largest run" in found.reason


def test_what_was_not_run_is_not_the_fastest_but_may_fit():
  seconds = np.array([1, 1, np.nan, np.nan])
  found = measured(
    seconds, [True, True, True, False], end="8 needs 9 GiB of 8 GiB"
  )
  assert (found.fastest, found.largest) == (2, 4)
  assert "4 fits by the compiler's account, not run" in found.reason
  header, *rows, reason = str(found).splitlines()
  assert header.split()[:2] == ["batch", "ms"]
  assert rows[0].split() == ["1", "1000", "1", "0.977", "KiB"]
  assert rows[1].endswith("< fastest")
  assert rows[2].split("<")[0].split() == ["4", "not", "run", "3.91", "KiB"]
  assert rows[2].endswith("< largest that fits")
  assert "<" not in rows[3]
  assert reason == found.reason


def test_what_does_not_fit_is_not_the_fastest():
  found = measured([1, 1, 1], [True, True, False], end="4 ran out of memory")
  assert (found.fastest, found.largest) == (2, 2)
  assert "4   does not fit" in str(found)


@pytest.mark.parametrize("rounds", [0, 1])
def test_where_nothing_was_run_there_is_a_reason_alone(rounds):
  seconds = np.full((rounds, 1), np.nan)
  found = measured(seconds, False, end="batch 1 needs 9 GiB of 8 GiB")
  assert found.fastest is found.largest is None
  assert found.reason == "no size was run: batch 1 needs 9 GiB of 8 GiB"
  assert "1        not run" in str(found)
  assert str(found).endswith(found.reason)
  assert len(found.plot().axes) == 2


def test_what_was_run_and_does_not_fit_has_no_fastest():
  found = measured([1], False, end="batch 1 needs 9 GiB of 8 GiB")
  assert found.fastest is found.largest is None
  assert found.reason.startswith("no batch that fits was run; nothing larger")


def test_a_single_size_is_the_best_of_none():
  found = measured([1, np.nan], limit=3.0)
  assert found.reason == "only batch 1 was run in seconds=3; give more"
  alone = measured([1])
  assert alone.reason.startswith("1: 1 examples/s, the only size run; 1 fits")


@pytest.mark.parametrize(
  ("limit", "fits", "name"),
  [
    (None, True, "largest that fits"),
    (3.0, True, "largest tried"),
    (3.0, [True, True, False], "largest that fits"),
  ],
)
def test_the_largest_fits_or_was_only_tried(limit, fits, name):
  found = measured([1, 1, 1], fits, limit=limit)
  assert found.marks[name] == found.largest
  marked = [line for line in str(found).splitlines() if line.endswith(name)]
  assert len(marked) == 1


@pytest.mark.parametrize(
  ("memory", "text"),
  [(999, "999 B"), (1000, "0.977 KiB"), (3 * 2**40, "3 TiB")],
)
def test_bytes_as_people_read_them(memory, text):
  assert shown(memory) == text
