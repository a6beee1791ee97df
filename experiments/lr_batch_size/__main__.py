"""`python -m experiments.lr_batch_size`."""

from experiments._shared import study
from experiments.lr_batch_size.study import STUDY, __doc__

if __name__ == "__main__":
  study.main(STUDY, __doc__)
