"""`python -m experiments.best_batch`."""

from experiments._shared import study
from experiments.best_batch.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
