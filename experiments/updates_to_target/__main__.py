"""`python -m experiments.updates_to_target`."""

from experiments._shared import study
from experiments.updates_to_target.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
