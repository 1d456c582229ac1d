"""Exceptions that commands report in one sentence (`ecg_jax.cli`)."""

import signal


class InputError(Exception):
  """An argument, a file or a setting cannot be used: exit code 2.

  The message is one sentence: what is wrong, with the value, and what to do.
  """

  exit_code = 2


class ConfigError(InputError):
  """The program of a config has a defect, its cause: exit code 1.

  Commands print its traceback, which shows the line.
  """

  exit_code = 1


class Help(Exception):  # noqa: N818
  """The text that --help prints: exit code 0."""


class TrainingError(Exception):
  """Training failed; the message is a sentence that says where: exit code 1."""

  exit_code = 1


class PartialFailure(Exception):  # noqa: N818
  """Some jobs or files of a command failed, the others are done: exit code 3.

  Its cause, if it has one, is the error of the first that failed.
  """

  exit_code = 3


class Interrupted(KeyboardInterrupt):
  """A signal stopped a training that can resume: exit code 128 + its number."""

  def __init__(self, number: int = signal.SIGINT):
    self.number = number
    self.exit_code = 128 + number

  def __str__(self) -> str:
    name = signal.Signals(self.number).name
    return f'Interrupted ({name}): start again with the same command to go on.'
