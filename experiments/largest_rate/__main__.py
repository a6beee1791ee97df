"""`python -m experiments.largest_rate`."""

from experiments._shared import study
from experiments.largest_rate.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
