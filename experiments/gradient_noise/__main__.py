"""`python -m experiments.gradient_noise`."""

from experiments._shared import study
from experiments.gradient_noise.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
