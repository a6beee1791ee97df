"""The bench: that its page is what was measured, and what it believes."""

import json
import sys

import numpy as np
import pytest

from benchmarks.bench import __main__ as command
from benchmarks.bench import (
  attempts,
  commands,
  figures,
  growth,
  ours,
  page,
  peers,
  problem,
  turns,
)
from experiments import claims

pytestmark = pytest.mark.once


def test_the_page_shows_the_committed_results():
  """Else: python -m benchmarks.bench --write"""
  for path, text in page.written(turns.ROOT).items():
    assert path.read_text("utf-8") == text, path


def part(rows, **more):
  return {
    "command": "python -m benchmarks.bench --part=some",
    "preset": "full",
    "date": "2026-11-27",
    "machine": "2 x Some Processor",
    "caches": {"L1": 32_768, "L2": 2_097_152},
    "wall_seconds": 61.2,
    "cores_used_by_others": 0.01,
    "versions": {"jax": "0.10.2"},
    "rows": rows,
  } | more


def row(name, seconds, losses=(0.5, 0.2), **more):
  return {
    "name": name,
    "facts": {"flops": 1e10, "units": 1.0},
    "seconds": list(seconds),
    "cpu": list(seconds),
    "first": 3.0,
    "memory": 400.0,
    "losses": list(losses),
    "failed": "",
  } | more


def parts():
  return {
    "training": part(
      [
        row(ours.SINGLE, [0.1, 0.2, 0.3]),
        row(ours.LOGISTIC, [0.1, 0.2, 0.3], (1.0, 0.9)),
        row("NumPy by hand", [0.4, 0.4, 0.4], (0.5, 0.200001)),
        row("flax NNX as in its tutorial", [0.1, 0.1, 0.1], (0.5, 0.3)),
        row("scikit-learn MLPClassifier", [0.6] * 3, (1.0, 0.9)),
        row("torch.compile", [], failed="No module named 'torch'"),
      ]
    ),
    "limits": part([row("large", [0.05, 0.05, 0.05])]),
  }


def test_what_a_gpu_measured_is_in_a_section_of_its_own(tmp_path):
  (tmp_path / "docs").mkdir()
  marks = [*page.TABLES, *(f"gpu-{name}" for name in page.ON_A_GPU)]
  speed = "".join(f"<!-- {m}: begin -->\n<!-- {m}: end -->\n" for m in marks)
  (tmp_path / "docs" / "speed.md").write_text(speed, "utf-8")
  folder = tmp_path / "results" / "bench_gpu"
  folder.mkdir(parents=True)
  found = parts()["training"] | {"machine": "1 x Some GPU"}
  (folder / "training.json").write_text(json.dumps(found), "utf-8")
  texts = page.written(tmp_path)
  speed = texts[tmp_path / "docs" / "speed.md"]
  before, _, own = speed.partition("<!-- gpu-training: begin -->")
  assert "1 x Some GPU" not in before
  assert "1 x Some GPU" in own.partition("<!-- gpu-sweeps: begin -->")[0]
  assert "../results/bench_gpu/training.png" in own
  assert "1 x Some GPU" in texts[folder / "README.md"]


def test_a_ratio_is_of_the_rounds_that_both_made():
  own = [1.0, 1.1, 0.9, 9.0, 9.0]
  middle, low, high = turns.ratio_interval([2.0, 2.2, 1.8], own)
  assert middle == pytest.approx(2.0)
  assert low <= middle <= high


def test_ratios_are_of_medians_and_a_missing_peer_is_told():
  text = page.block("training", parts())
  numpy, sklearn = (
    next(line for line in text.splitlines() if name in line)
    for name in ("NumPy", "scikit")
  )
  assert "400 (400 to 400) | 2.00 (1.33 to 4.00)" in numpy
  assert "| 25 | 12 % |" in numpy  # GFLOP/s, of 200
  assert "| 3.00 (2.00 to 6.00) |" in sklearn
  assert "Not measured: torch.compile: No module named 'torch'." in text
  assert "used 0.01 of its cores" in text


def test_a_time_of_another_training_is_not_shown():
  text = page.block("training", parts())
  (line,) = (line for line in text.splitlines() if "flax" in line)
  assert "NOT THE SAME TRAINING" in line
  assert "100" not in line


def test_a_member_of_a_sweep_is_beside_a_run():
  rows = [
    row(ours.SINGLE, [0.2, 0.2]),
    row("sweep of 4", [0.4, 0.4], facts={"units": 4.0, "flops": 1.0}),
  ]
  text = page.block("sweeps", {"sweeps": part(rows)})
  assert "| sweep of 4 | 100 (100 to 100) | 2.00 (2.00 to 2.00) |" in text


def test_whole_commands_are_told_as_ours_over_theirs():
  rows = [
    row("experiments.train, 40 epochs, warm", [6.0]),
    row("NumPy script, 40 epochs, warm", [8.0]),
    row("PyTorch script, 40 epochs, warm", []) | {"failed": "no torch"},
  ]
  for each in rows[:2]:  # as `commands.in_turn` leaves them
    del each["failed"]
  text = page.block("commands", {"commands": part(rows)})
  assert "| NumPy script, 40 epochs, warm | 8 (8 to 8) | 0.75 (0.75" in text
  assert "| PyTorch script, 40 epochs, warm | no torch |" in text


def test_start_up_is_told_as_now_over_before_and_jax():
  seconds = {"now": 3.0, "before": 10.0}
  rows = [
    row(f"{name}, {when}", [taken])
    for name in [*page.AT_MOST, "import jax"]
    for when, taken in seconds.items()
  ]
  for each in rows:
    del each["failed"]
  text = page.block("startup", {"startup": part(rows)})
  assert "| experiments.train --epochs=1 | 3 (3 to 3) | 10 | 0.30" in text
  assert "beside import jax | 3 (3 to 3) | 3 | 1.00" in text


def test_an_attempt_is_beside_what_it_would_replace():
  rows = [row(name, [0.1], [0.5, 0.4]) for name in attempts.TRIED]
  by_name = {each["name"]: each for each in rows}
  by_name["batch 8"]["seconds"] = [0.5]
  by_name["bfloat16 in the first layer"]["losses"] = [0.5, 0.404]
  text = page.block("attempts", {"attempts": part(rows)})
  assert (
    "| batch 8, 4 updates a unit | 100 | 0.20 (0.20 to 0.20) | yes |" in text
  )
  assert "| no, 1e-02 |" in text


def test_a_part_is_drawn_with_the_contestants_that_were_measured(tmp_path):
  figures.draw(tmp_path, parts())
  assert (tmp_path / "training.png").stat().st_size > 10_000
  assert not (tmp_path / "growth.png").exists()


def test_what_was_measured_in_small_says_so():
  found = {"limits": part([row("large", [1.0])], preset="tiny")}
  assert "in small: no result" in page.block("limits", found)


def test_a_page_that_differs_from_the_results_is_found(tmp_path):
  """The command's own pages, from results that were made up."""
  (tmp_path / "results" / "bench").mkdir(parents=True)
  (tmp_path / "docs").mkdir()
  speed = (turns.ROOT / "docs" / "speed.md").read_text("utf-8")
  (tmp_path / "docs" / "speed.md").write_text(speed)
  for name, measured in parts().items():
    path = tmp_path / "results" / "bench" / f"{name}.json"
    path.write_text(json.dumps(measured))
  written = page.written(tmp_path)
  text = written[tmp_path / "docs" / "speed.md"]
  assert text != speed
  assert "NumPy by hand | 400" in text
  assert "NumPy by hand | 400" in written[path.parent / "README.md"]
  assert claims.BEGIN.format("sweeps") in text


def test_a_bend_is_where_the_fixed_cost_is_that_of_the_units():
  x = [1, 10, 100, 1000, 4000]
  t = [1e-3 + 1e-5 * at for at in x]
  fixed, more = growth.line(x, t)
  assert (fixed, more) == pytest.approx((1e-3, 1e-5))
  rows = [
    {"size": at, "seconds": s, "working_set": 2**22 * (at == 4000)}
    for at, s in zip(x, [*t[:4], 2 * t[4]], strict=True)
  ]
  text = growth.bends("batch", rows, {"L1": 32_768, "L2": 2_097_152})
  assert "where the curve bends" in text
  assert "at 4,000" in text
  assert "4 MiB an update, beyond L2" in text


@pytest.fixture(scope="module")
def task(tmp_path_factory, mnist):
  path = tmp_path_factory.mktemp("bench") / "problem.npz"
  problem.write(path, problem.make(mnist, 600, 2))
  return path


def test_we_and_numpy_by_hand_train_the_same(task):
  """In this process, two epochs, the last batch a short one."""
  given = problem.read(str(task))
  losses = []
  for make in (ours.single_run, peers.numpy_by_hand, peers.per_batch_optax):
    one = make(given)
    one.run(0)
    one.run(1)
    losses.append(problem.dev_loss(given, one.weights(), one.hidden))
  assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
  assert losses[0] < problem.dev_loss(given, given.weights) - 0.1


def test_contestants_take_turns_in_processes_of_their_own(task):
  """One trains; one is unknown, and the others go on without it."""
  entries = {
    "NumPy by hand": ("NumPy by hand", sys.executable, {}),
    "nobody": ("nobody:{}", sys.executable, {}),
    "elsewhere": ("NumPy by hand", "/nowhere/python", {}),
  }
  with turns.watched() as circumstances:
    found = turns.take_turns(entries, task, 2)
  numpy = found["NumPy by hand"]
  assert len(numpy.seconds) == len(numpy.cpu) == 2
  assert numpy.losses[1] < numpy.losses[0]
  assert 20 < numpy.memory < 500
  assert numpy.first > max(numpy.seconds)
  assert "nobody" in found["nobody"].failed
  assert "No such file" in found["elsewhere"].failed
  assert circumstances["cores_used_by_others"] >= 0


def test_commands_are_run_in_turn_and_one_that_fails_is_told(tmp_path):
  program = "open('log', 'a').write('{} ')"
  lines = {
    "one": [sys.executable, "-c", program.format(1)],
    "two": [sys.executable, "-c", program.format(2)],
    "bad": [sys.executable, "-c", "raise SystemExit('it has no flag')"],
  }
  given = [
    commands.Command(name, line, tmp_path, rounds=1 + (name == "two"))
    for name, line in lines.items()
  ]
  one, two, bad = commands.in_turn(given)
  assert (tmp_path / "log").read_text() == "1 2 1 2 2 "  # the first uncounted
  assert (len(one["seconds"]), len(two["seconds"])) == (1, 2)
  assert 0 < one["cpu"][0] < 10
  assert bad["failed"] == "it has no flag"
  commands.in_turn(given[:1], filled=True)
  assert (tmp_path / "log").read_text() == "1 2 1 2 2 1 "


def test_a_history_that_does_not_reach_back_is_told(tmp_path):
  with (
    pytest.raises(turns.Failed, match="no checkout of 0000000"),
    commands.checkout("0000000", tmp_path),
  ):
    pass


def test_arithmetic_of_an_update_is_that_of_its_products():
  forward = 784 * 64 + 64 * 16 + 16 * 10
  assert problem.flops() == 2 * (2 * forward + 64 * 16 + 16 * 10)


def test_growth_goes_on_where_it_stopped(tmp_path, monkeypatch):
  """Points in growth.jsonl are not run again."""
  asked = []

  def take_turns(self, entries, rounds):
    asked.extend(entries)
    if len(asked) == 3:
      raise KeyboardInterrupt
    facts = {"units": 4.0, "flops": 8e9, "working_set": 1.0}
    return [row("", [2.0], facts=facts)]

  monkeypatch.setattr(command.Bench, "take_turns", take_turns)
  size = command.SIZES["tiny"]
  bench = command.Bench(size, tmp_path, tmp_path, tmp_path, "python")
  with pytest.raises(KeyboardInterrupt):
    command.grown(bench)
  rows = command.grown(bench)
  assert len(set(asked)) == len(asked) - 1 == len(rows)
  assert {each["axis"] for each in rows} == set(growth.AXES)
  by_batch = next(each for each in rows if each["axis"] == "batch")
  assert (by_batch["seconds"], by_batch["rate"]) == (0.5, 4.0)
  assert not list(tmp_path.glob("*.jsonl"))


def test_sizes_of_checks_are_their_parameters():
  for width in growth.WIDTHS:
    shapes = ((785, width), (width + 1, 16), (17, 10))
    assert growth.size("parameters", width) == sum(
      int(np.prod(shape)) for shape in shapes
    )
