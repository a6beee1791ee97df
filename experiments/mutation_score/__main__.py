"""`python -m experiments.mutation_score`."""

from experiments._shared import study
from experiments.mutation_score.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
