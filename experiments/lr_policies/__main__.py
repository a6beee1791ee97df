"""`python -m experiments.lr_policies`."""

from experiments._shared import study
from experiments.lr_policies.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
