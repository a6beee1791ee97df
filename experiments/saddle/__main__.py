"""`python -m experiments.saddle`."""

from experiments._shared import study
from experiments.saddle.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
