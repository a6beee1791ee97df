"""The exceptions that are no bugs: a wrong input, a process that is gone."""


class InputError(ValueError):
  """A mistake in what the user gave: a flag, a file, a run directory.

  Its message is one line that names the file or flag, what was found and what
  was expected. The experiments print it and exit with code 2; every other
  exception is a bug and keeps its traceback.
  """


class LostPeerError(RuntimeError):
  """A process of a job of several did not come; the message names it.

  The experiments print it and exit with code 4.
  """
