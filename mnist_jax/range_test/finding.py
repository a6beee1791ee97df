"""The range test of any loss of any pytree under any optax optimiser.

S seeds, T updates, B examples a batch. The update is compiled once for each
shape of a batch; batches come one by one, so that no more than one is held.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from mnist_jax.range_test import batches as range_batches
from mnist_jax.range_test import recording as range_recording
from mnist_jax.range_test import rules
from mnist_jax.range_test.curve import Ramp, Recording
from mnist_jax.runtime.errors import InputError

LossFn = Callable[[Any, Any], Any]
# The rate -> an optax.GradientTransformation or what has its two methods; Any,
# since people hand over the transformation itself, and are told.
MakeOptimizer = Any

_WIDE = Ramp(1e-7, 10.0, 500)  # around the rates of all of optax's optimisers
_PROBES = 8  # updates, of which MultiSteps may leave out most
_EXPECTED = (
  "expected an optimizer that uses the rate it is given, and nothing after it "
  "that scales the rate away"
)
# Updates whose entries differ by a smaller part of the largest are the same
# but for rounding; half the rate, a power of two, scales them exactly.
_SAME = 0.05
# States that follow the count or the loss, and scale the rate by what they
# read there; by name, since optax does not export all of them.
_SCHEDULES = (
  "ScaleByScheduleState",
  "WrappedScheduleState",
  "ReduceLROnPlateauState",
)


def find(
  loss_fn: LossFn,
  params: PyTree,
  batches: Any,
  ramp: Ramp | None = None,
  *,
  make_optimizer: MakeOptimizer = optax.sgd,
  rule: str | None = None,
  has_aux: bool = False,
  value_and_grad: LossFn | None = None,
  dev_loss: Callable[[Any], Float[Array, ""]] | None = None,
  seeds: Sequence[int] | None = None,
) -> rules.RangeTest:
  """Raises the rate from update to update and reads one off the losses.

  `found.rate` is the rate or None, `found.reason` says why, `print(found)`
  shows what every rule says and `found.plot()` is the figure. It trains
  copies: params and what follows are as without it.

  Args:
    loss_fn: (params, batch) -> a scalar.
    params: Leaves are arrays of floats; with `seeds`, on a leading axis S.
    batches: An iterator, a list, a loader, a function of the step, or a pytree
      whose rows are batches (see `batches.stream`), of which T + 1 are taken;
      with `seeds`, every leaf of a batch has a leading axis S. A batch of
      another shape, such as a short last one, is compiled anew.
    ramp: 500 updates if None, from 1e-4 to 100 for plain SGD, and from 1e-7
      to 10 for any other optimiser.
    make_optimizer: The rate, which is traced, -> the transformation. What its
      state holds of the rate, as optax.inject_hyperparams does, is renewed
      before each update; an update that takes more arguments is given value=,
      grad= and value_fn=.
    rule: One of rules.RULES; if None "noise" for plain SGD on batches of at
      least 2 examples, where its rate is not above that of "descending", and
      "minimum/10" otherwise. For "noise", the leading axis of a batch's first
      leaf must be that of the examples and the loss a mean or sum over it.
    has_aux: Whether loss_fn returns (scalar, aux); aux is dropped.
    value_and_grad: What takes the place of jax.value_and_grad(loss_fn).
    dev_loss: params -> a scalar, over the same examples every time, which
      takes the place of the training loss.
    seeds: The names of the S runs, all made as one program.

  Raises:
    InputError: There are fewer batches than T + 1, or they or params hold
      something else than arrays; loss_fn or make_optimizer cannot be traced;
      the updates do not depend on the rate, or a schedule changes it.
  """
  if rule is not None:
    rules.check_rule(rule)
  check_params(params)
  params = jax.tree.map(jnp.asarray, params)
  plain, of_the_rate = _probed(make_optimizer, params)
  if ramp is None:
    ramp = range_recording.default_ramp("sgd") if plain else _WIDE
  taken = range_batches.stream(batches, ramp.steps + 1)
  first = next(taken)
  one = (params, first)
  if seeds is not None:
    _check_seeds(seeds, {"params": params, "batches[0]": first})
    one = jax.tree.map(lambda leaf: leaf[0], one)
  size = range_batches.size(one[1])
  step = _Step(
    loss_fn,
    value_and_grad or jax.value_and_grad(loss_fn, has_aux=has_aux),
    has_aux,
    make_optimizer,
    dev_loss,
    of_the_rate,
  )
  readable = plain and step.has_halves(*one)
  asked = rule or range_recording.default_rule("sgd" if readable else "", size)
  if asked == "noise":
    step = dataclasses.replace(step, noise_size=size)
  losses, noise, facts = _run(
    step, params, itertools.chain([first], taken), ramp, seeds is not None
  )
  recording = Recording(
    ramp.rates(),
    losses[:, 0],
    losses[:, 1:],
    noise[:, :-1].swapaxes(1, 2) if asked == "noise" else None,
    "train" if dev_loss is None else "dev",
    (0,) if seeds is None else tuple(seeds),
    _judged(ramp, facts[:, :-1]),
  )
  found = rules.judge(recording, rule=asked)
  if rule is None and asked == "noise" and not _bearable(found):
    return dataclasses.replace(found, rule="minimum/10")
  return found


def _bearable(found: rules.RangeTest) -> bool:
  """Whether "noise" has a rate, one at which the loss had yet to rise.

  Deep networks may lose their loss long before it is back at its start.
  """
  rate, most = found.rate, found.suggestion("descending").rate
  return rate is not None and most is not None and rate <= most


def check_params(params: PyTree) -> None:
  """Raises InputError unless every leaf, of at least one, is of floats."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  if not leaves:
    raise InputError("params: found no arrays, expected at least one")
  for path, leaf in leaves:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    if not jax.dtypes.issubdtype(dtype, np.inexact):
      name = type(leaf).__name__ if dtype == "O" else dtype
      raise InputError(
        f"params{jax.tree_util.keystr(path)}: found {name}, expected arrays of "
        "floats; let loss_fn close over the rest"
      )


def _check_seeds(seeds: Any, trees: dict[str, PyTree]) -> None:
  """Raises InputError unless every leaf has an axis of the seeds in front."""
  if not isinstance(seeds, Sequence | np.ndarray | jax.Array) or not len(seeds):
    raise InputError(f"seeds is {seeds!r}, expected a list, such as range(4)")
  for name, tree in trees.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if leaf.shape[:1] != (len(seeds),):
        raise InputError(
          f"{name}{jax.tree_util.keystr(path)} is of shape {leaf.shape}, "
          f"expected a leading axis of {len(seeds)}, a row for each of seeds"
        )


def check_optimizer(make_optimizer: MakeOptimizer) -> None:
  """Raises InputError unless it can be called with a rate."""
  if not callable(make_optimizer):
    raise InputError(
      f"make_optimizer: found {type(make_optimizer).__name__}, expected a "
      "function of the rate, such as optax.adam"
    )


def traced(what: str, function: Any, *args: Any) -> Any:
  """The shapes that the function returns.

  Raises:
    InputError: The function cannot be traced; its cause is what it raised.
  """
  try:
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  except InputError:
    raise
  except Exception as error:  # whatever the caller's function raises
    line = (str(error).strip() or "no message").splitlines()[0][:200]
    if isinstance(error, jax.errors.ConcretizationTypeError):
      line = (
        "jax traces it: no `if`, no float() and no int() of what it is given"
      )
    raise InputError(f"{what}: {type(error).__name__}: {line}") from error
  if any(isinstance(each, jax.core.Tracer) for each in program.consts):
    raise InputError(
      f"{what}: it uses what an earlier call computed, such as a running mean "
      "that an object keeps: expected a pure function, which returns it beside "
      "the loss, with has_aux=True"
    )
  return shapes


def check_loss(
  loss_fn: LossFn, params: PyTree, batch: PyTree, where: str, has_aux: bool
) -> None:
  """Raises InputError unless it returns a float, or with has_aux a pair."""
  found = traced(f"loss_fn {where}", loss_fn, params, batch)
  pair = isinstance(found, tuple | list) and len(found) == 2
  loss = found[0] if has_aux and pair else found
  number = getattr(loss, "shape", None) == () and jax.dtypes.issubdtype(
    loss.dtype, np.floating
  )
  if (has_aux and not pair) or not number:
    expected = "a pair of a float and aux" if has_aux else "a float"
    shown = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", found)
    hint = ", or with an aux has_aux=True" if pair and not has_aux else ""
    raise InputError(
      f"loss_fn {where}: returned {shown}, expected {expected}{hint}"
    )


def _probed(
  make_optimizer: MakeOptimizer, params: PyTree
) -> tuple[bool, PyTree]:
  """Whether it is plain SGD, and which leaves of its state hold the rate."""
  check_optimizer(make_optimizer)
  ones = jax.tree.map(jnp.ones_like, params)
  # Not 1, at which Adam and Lion take the step of plain SGD.
  grads = jax.tree.map(lambda leaf: 4 * leaf, ones)

  def init(rate: Any) -> PyTree:
    return make_optimizer(rate).init(ones)

  def update(rate: Any, state: PyTree) -> tuple[PyTree, PyTree]:
    return updates_of(
      make_optimizer(rate),
      grads,
      state,
      ones,
      value=jnp.float32(0),
      grad=grads,
      value_fn=lambda _: jnp.float32(0),
    )

  traced("make_optimizer", lambda rate: update(rate, init(rate)), 0.5)
  init, update = jax.jit(init), jax.jit(update)

  plain, moves, finite, reached = True, False, True, False
  # Noise may drown a small rate and a clip a large one, but not either.
  for rates in ((2.0**-20, 2.0**-19), (2.0, 4.0)):
    states = tuple(map(init, rates))
    for _ in range(_PROBES):
      changes, states = zip(*map(update, rates, states), strict=True)
      leaves = jax.tree.leaves(changes[0])
      plain &= all((leaf == -4 * rates[0]).all() for leaf in leaves)
      moves |= any(leaf.any() for leaf in leaves)
      finite &= all(jnp.isfinite(leaf).all() for leaf in leaves)
      reached |= bool(_differ(*changes))
  if moves and finite and not reached:
    raise InputError(
      "make_optimizer: the rate does not reach the updates, which are the same "
      f"at 2 and at 4: {_EXPECTED}"
    )

  def holds(one: Array, other: Array) -> bool:
    return not range_batches.is_key(one) and bool((one != other).any())

  return plain, jax.tree.map(holds, init(2.0), init(4.0))


def updates_of(
  optimizer: Any, grads: PyTree, opt_state: PyTree, params: PyTree, **more: Any
) -> tuple[PyTree, PyTree]:
  """The updates and the next state, with those of `more` that it takes."""
  takes = inspect.signature(optimizer.update).parameters
  if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
    more = {name: value for name, value in more.items() if name in takes}
  updates, opt_state = optimizer.update(grads, opt_state, params, **more)
  return updates, opt_state


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
  """One update of one seed, and what it tells of loss and optimiser."""

  loss_fn: LossFn
  value_and_grad: LossFn
  has_aux: bool
  make_optimizer: MakeOptimizer
  dev_loss: Callable[[Any], Float[Array, ""]] | None
  of_the_rate: PyTree  # True at each leaf of the state that holds the rate
  noise_size: int | None = None  # B of the first batch; None: no noise

  def grads(self, params: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
    loss, grads = self.value_and_grad(params, batch)
    return (loss[0] if self.has_aux else loss), grads

  def loss(self, params: PyTree, batch: PyTree) -> Any:
    loss = self.loss_fn(params, batch)
    if self.has_aux:
      loss, _ = loss
    return loss

  def has_halves(self, params: PyTree, batch: PyTree) -> bool:
    """Whether the loss can be taken of half a batch."""
    try:
      jax.eval_shape(
        lambda *args: range_recording.gradient_noise(self.grads, *args),
        params,
        batch,
      )
    except Exception:  # whatever the loss raises of another shape
      return False
    return True

  def __call__(
    self, state: tuple[PyTree, PyTree], batch: PyTree, rate: Any
  ) -> tuple[Any, Any]:
    """The next state, and the loss, the noise and the `_facts` before it."""
    params, opt_state = state
    loss, grads = self.grads(params, batch)

    def updates(rate: Any, rewind: bool = False) -> tuple[PyTree, PyTree]:
      optimizer = self.make_optimizer(rate)
      fresh, now = optimizer.init(params), opt_state
      now = jax.tree.map(
        lambda own, old, new: new if own else old, self.of_the_rate, now, fresh
      )
      if rewind:
        now = jax.tree.map(
          lambda old, new: new if _is_schedule(old) else old,
          now,
          fresh,
          is_leaf=_is_schedule,
        )
      return updates_of(
        optimizer,
        grads,
        now,
        params,
        value=loss,
        grad=grads,
        value_fn=lambda params: self.loss(params, batch),
      )

    change, next_state = updates(rate)
    facts = _facts(change, updates(rate / 2)[0], updates(rate, True)[0])
    noise = jnp.zeros(2)
    size = range_batches.size(batch)
    if self.noise_size and size > 1:
      # All estimates for batches of one size.
      noise = jnp.stack(
        range_recording.gradient_noise(self.grads, params, batch)
      ) * jnp.array([1.0, size / self.noise_size])
    if self.dev_loss is not None:
      loss = self.dev_loss(params)
    params = optax.apply_updates(params, change)
    return (params, next_state), (loss, noise, facts)


def _is_schedule(node: Any) -> bool:
  return type(node).__name__ in _SCHEDULES


def _differ(one: PyTree, other: PyTree) -> Bool[Array, ""]:
  def each(a: Array, b: Array) -> Bool[Array, ""]:
    largest = jnp.maximum(jnp.abs(a), jnp.abs(b)).max(initial=0)
    return (jnp.abs(a - b) > _SAME * largest).any()

  return jnp.array(jax.tree.leaves(jax.tree.map(each, one, other))).any()


def _facts(
  change: PyTree, at_half: PyTree, rewound: PyTree
) -> Bool[Array, "4"]:
  """Whether an update is zero; is a number elsewhere; depends on the rate; and
  depends on how far a schedule is."""
  leaves = jax.tree.leaves(change)
  zero = jnp.array([(leaf == 0).all() for leaf in leaves]).all()
  finite = jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()
  return jnp.stack(
    [zero, finite & ~zero, _differ(change, at_half), _differ(change, rewound)]
  )


def _judged(ramp: Ramp, facts: Any) -> str | None:
  """A note on how far the rate reaches the updates, or None.

  Args:
    facts: Of each seed and update, bool [S, T, 4].

  Raises:
    InputError: It never does, or not as it is in the ramp.
  """
  known, reached, scheduled = (facts[:, :, i].any(axis=0) for i in (1, 2, 3))
  if facts[..., 0].all():
    raise InputError(
      "every update is zero, at every rate: expected a loss that depends on "
      "params, and an optimizer that changes them"
    )
  if (known & scheduled).any():
    raise InputError(
      "make_optimizer: a schedule of its own scales the updates (from update "
      f"{np.flatnonzero(known & scheduled)[0]} on), so that they are not made "
      "at the ramp's rates: expected an optimizer at a constant rate"
    )
  reached &= known
  if 10 * reached.sum() < known.sum():
    raise InputError(
      f"make_optimizer: the rate reaches {reached.sum()} of {known.sum()} "
      f"updates, the others are the same at half of it: {_EXPECTED}"
    )
  last = np.flatnonzero(reached)[-1:]
  if last.size and 10 * known[last[0] + 1 :].sum() > known.sum():
    return (
      f"from rate {ramp.rates()[last[0]]:.3g} on the updates no longer depend "
      "on the rate: something after it in the optimizer bounds them"
    )
  return None


def _run(
  step: _Step,
  params: PyTree,
  batches: Iterable[PyTree],
  ramp: Ramp,
  many: bool,
) -> Any:
  """Losses [S, T + 1], noises [S, T + 1, 2] and facts [S, T + 1, 4].

  Each loss comes from a batch that is yet to be trained on; the last batch
  only measures, at any rate.
  """

  def start(params: PyTree) -> PyTree:
    return params, step.make_optimizer(ramp.low).init(params)

  over = (lambda f, *axes: jax.vmap(f, axes)) if many else (lambda f, *_: f)
  state = jax.jit(over(start, 0))(params)
  update = jax.jit(over(step, 0, 0, None))
  checked, seen = set(), []
  rates = [*ramp.rates().tolist(), ramp.high]
  for t, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
    shapes = str(jax.tree.map(lambda leaf: leaf.shape, batch))
    if shapes not in checked:
      checked.add(shapes)
      where = f"on batch {t}, of shape {shapes}"
      one = (params, batch)
      if many:
        one = jax.tree.map(lambda leaf: leaf[0], one)
      check_loss(step.loss_fn, *one, where, step.has_aux)
      traced(f"the update {where}", update, state, batch, rate)
    # A Python number, as people hand it over: its type gives way to params'.
    state, found = update(state, batch, rate)
    seen.append(jax.device_get(found))
  stacked = jax.tree.map(lambda *parts: np.stack(parts), *seen)
  return jax.tree.map(
    lambda leaf: leaf.swapaxes(0, 1) if many else leaf[None], stacked
  )
