"""Mistakes the user can mend, and how commands end."""

from collections.abc import Callable
import sys
import traceback


class InputError(Exception):
  """What was given cannot be used.

  The message is one sentence: what is wrong, with the value, and what to do.
  Commands print it to stderr without a traceback and exit with code 2.
  """


def run_command(command: Callable[[], int], *, debug: bool) -> int:
  """Runs a command and tells of its errors as every command does.

  Args:
    command: Returns its exit code.
    debug: Whether to print the traceback of an error.

  Returns:
    The exit code: the command's, 2 after an InputError, 1 after any other
    error, 130 after Ctrl-C.
  """
  try:
    return command()
  except KeyboardInterrupt:
    message, code = 'Interrupted: start again with the same command to go on.', 130
  except InputError as error:
    message, code = str(error), 2
  except Exception as error:  # The last resort of a command: nothing is hidden.
    message = (
      f'Failed ({type(error).__name__}: {error}): --debug prints the traceback.'
    )
    code = 1
  if debug:
    traceback.print_exc()
  print(message, file=sys.stderr)
  return code
