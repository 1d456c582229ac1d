"""The exceptions that commands explain to their users."""

import signal


class InputError(Exception):
  """What was given cannot be used.

  The message is one sentence: what is wrong, with the value, and what to do.
  Commands print it to stderr without a traceback and exit with code 2.
  """


class Help(Exception):  # noqa: N818
  """What --help prints; the command ends with code 0."""


class TrainingError(Exception):
  """Training went wrong; the message is a sentence that says where: code 1."""


class PartialFailure(Exception):  # noqa: N818
  """Some jobs or files of a command failed, the others are done: code 3."""


class Interrupted(KeyboardInterrupt):
  """A signal ended a training, which can go on: code 128 + its number."""

  def __init__(self, number: int = signal.SIGINT):
    self.number = number

  def __str__(self) -> str:
    name = signal.Signals(self.number).name
    return f'Interrupted ({name}): start again with the same command to go on.'
