"""How commands end, and their argument parsers."""

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ecg_jax.errors import (
  Help,
  InputError,
  Interrupted,
  PartialFailure,
  TrainingError,
)

_SMALLER_STEPS = 'set a smaller --config.batch_size, or --config.remat True'

FREE_MEMORY = 'free some, or use that of the host with JAX_PLATFORMS=cpu'
"""What helps a command without --config when it is out of memory."""


def run_command(
  command: Callable[[], int], *, debug: bool, memory: str = _SMALLER_STEPS
) -> int:
  """Runs a command and tells of its errors as every command does.

  Args:
    command: Returns its exit code.
    debug: Whether to print the traceback of an error.
    memory: What helps when it is out of memory.

  Returns:
    The exit code: the command's, 2 after an InputError, 3 after a
    PartialFailure, 130 after Ctrl-C, 143 after SIGTERM, 1 after any other
    error.
  """
  try:
    return command()
  except Help as text:
    print(text)
    return 0
  except (Exception, KeyboardInterrupt) as error:  # The last resort.
    if debug:
      traceback.print_exception(error)
    message, code = explain(error, memory)
  with contextlib.suppress(OSError):  # Nobody may be reading any more.
    print(message, file=sys.stderr)
  return code


def explain(
  error: BaseException, memory: str = _SMALLER_STEPS
) -> tuple[str, int]:
  """The sentence that tells of an error, and the exit code."""
  match error:
    case InputError():
      return str(error), 2
    case TrainingError():
      return str(error), 1
    case PartialFailure():
      return str(error), 3
    case Interrupted():
      return str(error), 128 + error.number
    case KeyboardInterrupt():
      return 'Interrupted (SIGINT).', 128 + signal.SIGINT
  name = type(error).__name__
  if 'RESOURCE_EXHAUSTED' in str(error):  # As XLA says it.
    return f'Out of memory ({str(error).splitlines()[0]}): {memory}.', 1
  return f'Failed ({name}: {error}): --debug prints the traceback.', 1


def path_argument(text: str) -> pathlib.Path:
  """A path of a command line, of which a shell may have left the `~`."""
  if not text:  # pathlib takes it for the current folder.
    raise argparse.ArgumentTypeError('an empty path')
  return pathlib.Path(os.path.expanduser(text))


class ArgumentParser(argparse.ArgumentParser):
  """Says what is wrong with the arguments in one sentence."""

  def error(self, message: str) -> NoReturn:
    """Raises InputError."""
    raise InputError(f'{message[:1].upper()}{message[1:]}: see --help.')
