"""`python -m experiments.adaptive_rates`."""

from experiments._shared import study
from experiments.adaptive_rates.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
