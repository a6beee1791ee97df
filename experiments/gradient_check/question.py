"""Is the backward of the chapter's network right? The answer, in seconds.

Section 12.3: every parameter on a batch of MNIST, three ways. Prints the
verdict, the place and the cause.
"""

import datetime
import sys
from pathlib import Path

import jax
from absl import flags

from experiments._shared import flags as shared
from experiments.gradient_check import measure
from mnist_jax import gradcheck
from mnist_jax.gradcheck import _layout as layout
from mnist_jax.gradcheck.faults import catalogue
from mnist_jax.gradcheck.network import check as network_gradcheck
from mnist_jax.model import mlp, objective
from mnist_jax.runtime import environment
from mnist_jax.runtime.errors import InputError
from mnist_jax.training import loop, run_directory

FLAGS = flags.FLAGS
RUNS = Path("runs/gradient_check")
_FAILED = (gradcheck.Verdict.WRONG, gradcheck.Verdict.NOT_FINITE)


def define_flags() -> None:
  flags.DEFINE_string("inject", None, "a fault to plant, or list")
  shared.list_in_help("inject")
  shared.use(
    *("hidden_sizes", "activations", "initializer", "l2", "dropout"),
    *("batch_size", "seed", *shared.DATA_FLAGS, "workdir", "overwrite"),
  )
  FLAGS.set_default("batch_size", 32)
  FLAGS.set_default("l2", 0.001)


def chapter_name(path: str) -> str:
  """W1 for "[0].w"."""
  layer, _, kind = path.strip("[").partition("].")
  return f"{kind.upper()}{int(layer) + 1}"


def blame(report: gradcheck.Report) -> str:
  """In which layer the mistake is, from which tensors are wrong."""
  wrong = [chapter_name(path) for path in report.wrong_tensors]
  if not wrong:
    return ""
  layers = [int(name[1:]) for name in wrong]
  text = f"wrong: {', '.join(wrong)}. Looked at from the output, layer "
  text += f"{max(layers)} is the first that is"
  if min(layers) < max(layers):
    text += ": the mistake is in its dZ, or before; the rest follows from it"
  return text


def check(
  params: mlp.Params,
  names: tuple[mlp.Activation, ...],
  batch: objective.Batch,
  masks: objective.Masks,
) -> tuple[dict[str, network_gradcheck.TermReport], bytes]:
  """Term by term, with the fault if one was asked for; the residuals as PNG."""
  from experiments.gradient_check import figures  # matplotlib: not for --help
  from mnist_jax import plotting

  l2 = FLAGS.l2 or None
  seam = network_gradcheck.value_and_grad_of("hand", names)
  subject = network_gradcheck.Subject(params, names, batch, l2, masks)
  candidates = None
  if FLAGS.inject:
    right = subject.gradient(seam)
    seam = catalogue.find(FLAGS.inject, names).value_and_grad(names)
    candidates = catalogue.known_mistakes(names)
    if not catalogue.differing(right, subject.gradient(seam)):
      raise InputError(
        f"--inject={FLAGS.inject} changes nothing here (l2 {FLAGS.l2:g}, "
        f"dropout {FLAGS.dropout:g}): expected a fault that does"
      )
  terms = network_gradcheck.check_network(
    params,
    names,
    batch,
    l2,
    masks,
    value_and_grad=seam,
    dropout_rate=FLAGS.dropout,
    candidates=candidates,
  )
  given = subject.gradient(seam)
  numeric = subject.numeric(measure.PLAIN_STEP)
  paths = layout.flatten(params, "params")[0].paths
  figure = figures.residual_map(
    [chapter_name(path) for path in paths],
    jax.tree.leaves(given),
    jax.tree.leaves(numeric),
  )
  return terms, plotting.render(figure, "png")


def table(terms: dict[str, network_gradcheck.TermReport]) -> str:
  """A line a term, then the whole report of the last, which has them all."""
  lines = [
    f"{'term':<9}{'verdict':<18}{'hand - numeric':>15}"
    f"{'jax.grad - numeric':>20}{'hand - jax.grad':>17}"
  ]
  lines += [
    f"{name:<9}{term.hand.verdict:<18}{term.hand.distance:>15.2e}"
    f"{term.autodiff.distance:>20.2e}{term.between:>17.2e}"
    for name, term in terms.items()
  ]
  last = list(terms.values())[-1].hand
  text = "\n".join([*lines, "", str(last)])
  place = blame(last)
  return f"{text}\n{place}" if place else text


def main(_: list[str]) -> None:
  names = tuple(FLAGS.activations)
  if FLAGS.inject == "list":
    for fault in catalogue.catalogue(names).values():
      print(f"{fault.name:<24}{fault.text}")
    return
  if FLAGS.inject:
    catalogue.find(FLAGS.inject, names)
  config = loop.TrainConfig(
    (784, *map(int, FLAGS.hidden_sizes), 10), names, FLAGS.initializer
  )
  dataset = shared.load_dataset()
  batch = measure.draw_batch(dataset.train, FLAGS.batch_size, FLAGS.seed)
  params = loop.init_state(config, FLAGS.seed).params
  masks = None
  if FLAGS.dropout:
    key = jax.random.key(FLAGS.seed)
    masks = mlp.dropout_masks(key, params, FLAGS.batch_size, FLAGS.dropout)
  recorded = {
    "flags": shared.flag_values(without=("workdir", "overwrite", "data_dir"))
    | {"inject": FLAGS.inject},
    "seed": FLAGS.seed,
    "data_digest": dataset.digest,
    **environment.describe(),
  }
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
  with run_directory.open_run(
    Path(FLAGS.workdir or RUNS / now), recorded, overwrite=FLAGS.overwrite
  ) as run:
    terms, picture = check(params, names, batch, masks)
    print(table(terms))
    run.write_bytes("report.txt", f"{table(terms)}\n".encode())
    run.write_json("report.json", {k: v.to_dict() for k, v in terms.items()})
    run.write_bytes("residual_map.png", picture)
    failed = any(t.hand.verdict in _FAILED for t in terms.values())
    print(f"written to {run.path}")
  if failed:
    sys.exit(1)
