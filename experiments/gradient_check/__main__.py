"""`python -m experiments.gradient_check`."""

from experiments._shared import app
from experiments.gradient_check import study

if __name__ == "__main__":
  study.define_flags()
  app.run(study.main, study.__doc__)
