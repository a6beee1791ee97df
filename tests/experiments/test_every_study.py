"""Every study from its measurements to its figures, at its least size."""

import dataclasses
import importlib
import io
import json
import math
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments import adam_batch, chapter
from experiments._shared import study, tuning, workers
from mnist_jax import data
from mnist_jax.gradcheck.faults import catalogue

# What the quick preset is cut down to: one or two of everything. The studies
# that are not here run as commands, in test_commands and test_gradient_check.
LEAST = {
  "mutation_score": {"small_seeds": 2, "small_networks": (3,), "correct": 4},
  "saddle": {"epochs": 1, "examples": 200},
  "lr_comparison": {"epochs": 2, "crossing": 1},
  "schedule_budget": {"epochs": 3, "trials": 2},
  "lr_range_audit": {"batch_sizes": (16, 32), "rates": (0.2, 0.5), "few": 2},
  "lr_decay": {"epochs": 2, "rates": (0.2, 0.5)},
  "lr_policies": {"convex_updates": 200, "convex_examples": 200},
  "adaptive_rates": {"epochs": 1, "examples": 500},
  "line_fit": {},
  "gradient_noise": {"draws": 4, "pairs": 4},
  "lr_batch_size": {
    "batch_sizes": (32, 64, 128, 256, 512),
    "rates": (0.5, 1.0, 2.0, 4.0, 8.0),
  },
  "largest_rate": {
    "batch_sizes": (16, 64),
    "updates": 20,
    "epochs": 0.5,
    "edge_updates": 8,
    "examples": 150,
  },
  "grow_batch": {"base": 16},
  "best_batch": {"batches": (8, 16, 32), "sizes": (512,)},
  "updates_to_target": {
    "batches": (16, 64, 256),
    "targets": (1.8, 1.5, 1.2),
    "smooth_epochs": 3,
  },
  "critical_batch": {"factors": (1, 2, 4), "target_factors": (1, 2, 4)},
  "adam_batch": {"batches": (16, 64, 256)},
  "width_transfer": {"widths": (4, 16, 64)},
}
# Training examples, where the study's largest batch asks for more.
EXAMPLES = {
  "gradient_noise": 1100,
  "lr_batch_size": 1100,
  "updates_to_target": 2100,
}


@pytest.fixture
def few(mnist, request):
  """MNIST with so many examples that every step costs little."""

  def first(split):
    return data.Split(split.images[:500], split.labels[:500])

  count = EXAMPLES.get(request.node.callspec.params["name"], 600)
  return dataclasses.replace(
    data.take(mnist, count), dev=first(mnist.dev), test=first(mnist.test)
  )


@pytest.fixture(autouse=True)
def a_tenth_of_the_faults(monkeypatch):
  whole = catalogue.catalogue(("sigmoid", "tanh"))
  some = dict(list(whole.items())[::10])
  monkeypatch.setattr(catalogue, "catalogue", lambda activations: some)


@pytest.fixture(autouse=True)
def cases_in_this_process(monkeypatch):
  """Others would plant all faults; what they are given is pickled here too."""

  def finished(cases):
    return workers.in_turn(pickle.loads(pickle.dumps(dict(cases))))

  monkeypatch.setattr(workers, "finished", finished)


def study_of(name):
  package = chapter.program(name).stem == "__main__"
  path = f"experiments.{name}.study" if package else f"experiments.{name}"
  return importlib.import_module(path).STUDY


def check_claims(judged, names):
  assert [claim.claim for claim in judged] == list(names)
  for claim in judged:
    assert any(part.role in ("primary", "illustration") for part in claim.parts)
    assert claim.sentence.endswith(".")
    assert "nan" not in claim.sentence.lower().split()
    # Two seeds decide nothing.
    for part in claim.parts:
      if part.effect is not None and part.n < 30:
        assert part.verdict in ("undecided", "illustrated"), part.name
      if part.effect is not None:
        assert math.isfinite(part.effect.estimate), part.name


def numbers_in(content):
  """The numbers of a summary, a table or what JSON can hold."""
  if isinstance(content, pd.DataFrame):
    assert len(content)
    assert not content.duplicated().any()
    return content.select_dtypes("number").to_numpy(np.float64).ravel()
  found = []
  json.loads(json.dumps(content), parse_float=found.append)
  return np.array(found, np.float64)


def check_summary(summary):
  if isinstance(summary, pd.DataFrame):
    summary = {"summary.csv": summary}
  assert any(name.startswith("summary") for name in summary)
  for name, content in summary.items():
    assert not np.isinf(numbers_in(content)).any(), name
    if isinstance(content, pd.DataFrame):
      some = content.select_dtypes("number").dropna(axis=1, how="all")
      # line_fit keeps its fractions as text, beside how many points they have.
      assert len(some.columns), name


def artists(ax):
  """The lines, bands, bars and pictures in which some number is finite."""
  shown = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) > 1]
  shown += [band.vertices for c in ax.collections for band in c.get_paths()]
  shown += [image.get_array() for image in ax.images]
  shown += [patch.get_extents().get_points() for patch in ax.patches]
  return [array for array in shown if np.isfinite(array).any()]


def check_figures(figures):
  assert figures
  for name, figure in figures.items():
    assert figure.axes, name
    for ax in figure.axes:
      if not ax.axison:
        continue
      assert artists(ax), name
      # A colour bar has its label on one side only.
      assert ax.get_xlabel() or ax.get_ylabel() or ax.get_title(), name
    first = figure.axes[0]
    assert figure.get_suptitle() or first.get_title(), name
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=30)
    assert np.ptp(plt.imread(io.BytesIO(picture.getvalue()))[..., :3]) > 0.5


def test_every_study_is_run():
  assert {*LEAST, "seeds", "gradient_check"} == {*chapter.STUDIES}


@pytest.fixture(autouse=True)
def grids_end_where_they_end(monkeypatch):
  monkeypatch.setattr(tuning, "MOST", 0)
  monkeypatch.setattr(adam_batch, "MOST", 0)


@pytest.fixture(autouse=True)
def two_optimizers_for_five(monkeypatch):
  five, names = adam_batch.ARMS, (adam_batch.SGD, adam_batch.DEFAULT)
  two = {k: five[names[arm.beta2 is not None]] for k, arm in five.items()}
  monkeypatch.setattr(adam_batch, "ARMS", two)


@pytest.mark.once
@pytest.mark.parametrize("name", LEAST)
def test_measures_judges_draws_and_summarises(name, few, tmp_path):
  chosen = study_of(name)
  assert chosen.name == name
  values = study.preset_values(chosen, "quick")
  for option, value in LEAST[name].items():
    assert hasattr(values, option), option
    setattr(values, option, value)
  if hasattr(values, "seeds"):
    values.seeds = 2
  chosen.check(values)
  dataset = few if chosen.reads_data else None
  lab = study.Lab(dataset, tmp_path, overwrite=False)
  measured = chosen.measure(lab, values)
  check_claims(chosen.judge(measured, values), chapter.STUDIES[name])
  check_summary(chosen.summarise(measured, values))
  check_figures(chosen.figures(measured, values))
  plt.close("all")
