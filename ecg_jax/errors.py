"""The one exception that stands for a mistake the user can mend."""


class InputError(Exception):
  """What was given cannot be used.

  The message is one sentence: what is wrong, with the value, and what to do.
  Commands print it to stderr without a traceback and exit with code 2.
  """
