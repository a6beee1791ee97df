"""Checks the backward of the chapter's network, and the chapter's claims on it.

  python -m experiments.gradient_check                      # seconds
  python -m experiments.gradient_check --inject=dw2_sign    # break it yourself
  python -m experiments.gradient_check --preset=full        # G1, G2, G3, G5

Prints the check of every parameter on a batch of MNIST: the verdict, the place
and the cause. With --inject=NAME the backward has that fault; --inject=list
shows all names. With --preset it is a study, which measures the error against
the step (G1), in training (G2, G5) and with depth (G3), and judges the claims.
Exit code 1: the gradient is wrong, as it is with a fault in it.
"""

import sys

from experiments._shared import app
from experiments._shared import flags as shared
from experiments.gradient_check import question

if __name__ == "__main__":
  if shared.asks_for_study(sys.argv):
    # A second of imports, which the answer need not pay.
    from experiments._shared import study as studies
    from experiments.gradient_check import study

    studies.main(study.STUDY, study.__doc__)
  question.define_flags()
  app.run(question.main, __doc__)
