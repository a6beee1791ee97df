"""`python -m experiments.mutation_score`."""

from experiments._shared import app
from experiments.mutation_score import study

if __name__ == "__main__":
  study.define_flags()
  app.run(study.main, study.__doc__)
