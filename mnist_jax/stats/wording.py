"""Effects in the words of a sentence: "0.28 point (0.20 to 0.36)"."""

from mnist_jax.stats.effects import Effect, as_ratio


def _number(value: float, digits: int) -> str:
  text = f"{value:.{digits}f}"
  return text.removeprefix("-") if float(text) == 0.0 else text


def amount(
  effect: Effect, unit: str = "", *, scale: float | int = 1, digits: int = 2
) -> str:
  """An effect with its unit and its interval.

  Args:
    unit: After the number; none where it is empty.
    scale: The factor from the effect to the unit: 100 from a fraction to
      points.
    digits: Behind the decimal point.
  """
  values = (effect.estimate, effect.low, effect.high)
  middle, low, high = (_number(scale * value, digits) for value in values)
  return f"{middle}{unit and ' '}{unit} ({low} to {high})"


def factor(effect: Effect, *, digits: int = 2) -> str:
  """An effect on a log scale as a ratio: "2.41 times (2.10 to 2.77)"."""
  middle, low, high = (_number(each, digits) for each in as_ratio(effect))
  return f"{middle} times ({low} to {high})"


def share(effect: Effect, *, digits: int = 0) -> str:
  """A fraction in percent: "97 % (85 to 100)"."""
  return amount(effect, "%", scale=100.0, digits=digits)
