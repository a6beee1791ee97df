"""Checks of lists that a user gives."""

from collections.abc import Sequence

from mnist_jax.runtime.errors import InputError


def rising(flag: str, values: Sequence[float | int], fewest: int) -> None:
  """Raises InputError unless there are `fewest` values above 0 that rise.

  Args:
    flag: its name, without dashes.
  """
  given = list(values)
  if len(given) < fewest or given != sorted(set(given)) or given[0] <= 0:
    raise InputError(
      f"--{flag}={','.join(map(str, given))}: expected at least {fewest} "
      "numbers above 0 that rise"
    )
