"""The import ladder and its fences, read off the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "mnist_jax").glob("[a-z]*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))

# A module imports only from rungs below its own (errors and files are below
# them all).
LADDER = [
  "errors files precision",
  "batches mlp losses metrics optimizers schedules idx plots digit_image "
  "statistics checkpoint records environment events compilation sharding "
  "finite_differences error_bars diagnosis range_curve chunks roughness "
  "checks",
  "objective schedule_config tfds_source run_figures decisions slopes tables "
  "range_rules gradcheck_coverage gradcheck_report ridge",
  "data verdicts study_figures gradcheck_inputs gradcheck_comparison "
  "gradcheck_beside "
  "faulty_backward "
  "ridge_figures "
  "batch_curves batch_scaling "
  "range_figures policy_parity policy_figures robbins_monro",
  "train convex sparse_features gradcheck_verdict fault_terms mutation_verdict "
  "check_figures check_judgement noise noise_figures saddle "
  "batch_figures scaling_tables",
  "batch_schedule",
  "gradcheck network_differences settings gradient_faults range_test "
  "curvature noise_scale trajectory scaling_figures",
  "network_gradcheck sweep_plan sweep_program minima",
  "training_checks check_grads_peer sweep_block sweep_results rate_columns "
  "target_runs",
  "runner sweep mutation_score check_study rate_tuning",
]
RUNG = {name: i for i, rung in enumerate(LADDER) for name in rung.split()}
FENCES = {
  "tensorflow_datasets": {"tfds_source"},
  "tensorflow": {"tfds_source"},
  "array_record": {"tfds_source"},
  "orbax": {"checkpoint"},
  "matplotlib": {"plots"},
  "tensorboardX": {"events"},
  "torch": {"policy_parity"},
  "absl": {
    "checkpoint",
    "tfds_source",
  },  # to quieten it; flags are fenced below
}


def imports(path):
  """Dotted names of all imports in a file, those inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
  for name in imports(path):
    head, _, rest = name.partition(".")
    if head == "mnist_jax":
      yield rest.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_only_from_rungs_below(path):
  assert path.stem in RUNG, "give the new module a rung"
  for name in ours(path):
    assert RUNG[name] < RUNG[path.stem], f"{path.stem} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_fences(path):
  for name in imports(path):
    assert not name.startswith("experiments")
    for fenced, allowed in FENCES.items():
      if f"{name}.".startswith(f"{fenced}."):
        assert path.stem in allowed, f"{path.stem} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_gradcheck_knows_no_model(path):
  own = {
    name
    for name in RUNG
    if name.startswith("gradcheck")
    or name in ("finite_differences", "diagnosis", "error_bars", "precision")
  }
  if path.stem in own:
    assert set(ours(path)) <= own


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_share_only_what_is_shared(path):
  shared = {"common", "progress", "study"}
  if path.stem == "chapter":  # runs them all and ends with the table
    shared.add("claims")
  for name in imports(path):
    if name.startswith("experiments."):
      assert name.split(".")[1] in shared
    assert not name.startswith("matplotlib")


def test_no_work_at_import():
  """Top levels hold definitions, constants and docstrings, no loose calls."""
  for path in MODULES:
    for node in ast.parse(path.read_text()).body:
      loose = isinstance(node, ast.Expr) and not isinstance(
        node.value, ast.Constant
      )
      assert not loose, f"{path.stem}:{node.lineno}"
