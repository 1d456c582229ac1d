"""How commands run and end, and their argument parsers."""

import argparse
import contextlib
import functools
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ecg_jax import errors

Main = Callable[[Sequence[str]], int]
"""Command-line arguments -> exit code."""

_SMALLER_STEPS = (
  'set a smaller --config.batch_size or --config.jobs_per_device, or'
  ' --config.remat True'
)

FREE_MEMORY = 'free some, or use that of the host with JAX_PLATFORMS=cpu'
"""Advice of a command without --config that runs out of memory."""

DEBUG = 'print the traceback of a mistake too, not only of a defect'
"""Help text of --debug."""


def command(
  memory: str = _SMALLER_STEPS,
) -> Callable[[Main], Callable[..., int]]:
  """Decorates the `main` of a command, so that it ends as all commands do.

  Args:
    memory: Advice when the command runs out of memory.

  Returns:
    A decorator: the function that it makes never raises, but reports errors
    and returns the exit code of `run_command`. Without arguments it takes those
    of this process, as an installed command does.
  """

  def decorate(main: Main) -> Callable[..., int]:
    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
      arguments = sys.argv[1:] if arguments is None else arguments
      return run_command(
        lambda: main(arguments), debug='--debug' in arguments, memory=memory
      )

    return wrapped

  return decorate


def run_command(
  run: Callable[[], int], *, debug: bool, memory: str = _SMALLER_STEPS
) -> int:
  """Runs a command and reports its errors on stderr.

  A mistake of the user (see `explain`) is one sentence. Any other error is a
  defect, here or in a layer or config of the user's own: its traceback is
  printed.

  Args:
    run: The command; returns its exit code.
    debug: Whether to print the traceback of a mistake too.
    memory: Advice when the command runs out of memory.

  Returns:
    The exit code: the command's, 2 after an InputError, 3 after a
    PartialFailure, 130 after Ctrl-C, 143 after SIGTERM, 1 after any other
    error.
  """
  _open_streams()
  _use_single_precision()
  try:
    try:
      code = run()
    except errors.Help as text:
      print_text(str(text))
      code = 0
    _write('')
    return code
  except (Exception, KeyboardInterrupt) as error:
    message, code = explain(error, memory)
    with contextlib.suppress(OSError):  # stderr may be closed.
      if debug or is_defect(error):
        traceback.print_exception(error)
      print(message, file=sys.stderr)
    return code


def _open_streams() -> None:
  """Opens standard streams that are closed, as for a daemon, to nowhere.

  Otherwise the next file that is opened would be taken for one of them.
  """
  for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _use_single_precision() -> None:
  """Makes float32 the widest type of JAX, whatever JAX_ENABLE_X64 says.

  Otherwise the environment would decide the types of the weights, and so what
  a run is and which runs are readable.
  """
  jax = sys.modules.get('jax')
  if jax is None:  # It reads the environment when it is imported.
    os.environ['JAX_ENABLE_X64'] = '0'
  else:
    jax.config.update('jax_enable_x64', False)


def print_text(text: str) -> None:
  """Prints to stdout; characters that it does not support become escapes.

  A reader that closes the pipe early, like `head`, is no error.

  Raises:
    InputError: It cannot be written, for example since a disk is full.
  """
  encoding = sys.stdout.encoding or 'utf-8'
  _write(text.encode(encoding, 'backslashreplace').decode(encoding) + '\n')


def _write(text: str) -> None:
  """Writes a text, and what is left in the buffer, to stdout."""
  try:
    sys.stdout.write(text)
    sys.stdout.flush()
  except OSError as error:
    # What is left in the buffer goes nowhere when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      raise errors.InputError(
        f'The output cannot be written ({error.strerror}): write it to'
        ' another place.'
      ) from error


def explain(
  error: BaseException, memory: str = _SMALLER_STEPS
) -> tuple[str, int]:
  """The sentence that reports an error, and the exit code."""
  match error:
    case (
      errors.InputError()
      | errors.TrainingError()
      | errors.PartialFailure()
      | errors.Interrupted()
    ):
      return str(error), error.exit_code
    case KeyboardInterrupt():
      return 'Interrupted (SIGINT).', 128 + signal.SIGINT
  if _is_out_of_memory(error):
    return f'Out of memory ({str(error).splitlines()[0]}): {memory}.', 1
  return f'Failed ({type(error).__name__}: {error}).', 1


def _is_out_of_memory(error: BaseException) -> bool:
  return 'RESOURCE_EXHAUSTED' in str(error)  # XLA's status code.


def is_defect(error: BaseException) -> bool:
  """Whether an error, or the one that a PartialFailure reports, is a defect."""
  if isinstance(error, errors.PartialFailure):
    return error.__cause__ is not None and is_defect(error.__cause__)
  if isinstance(error, errors.ConfigError):
    return True
  # A reader that closed the pipe is no defect either.
  mistakes = errors.InputError | errors.TrainingError
  mistakes |= KeyboardInterrupt | BrokenPipeError
  return not (isinstance(error, mistakes) or _is_out_of_memory(error))


def path_argument(text: str) -> pathlib.Path:
  """A path of the command line, its `~` expanded where the shell did not."""
  if not text:  # pathlib takes it for the current folder.
    raise argparse.ArgumentTypeError('an empty path')
  return pathlib.Path(os.path.expanduser(text))


def refuse_empty(values: Mapping[str, object]) -> None:
  """Raises InputError where a flag is empty, as with an unset variable.

  It would stand for the default, or a path for the current folder.
  """
  for name, value in values.items():
    if value == '':
      raise errors.InputError(
        f'--{name} is empty: give it a value, or leave it out.'
      )


def without_run_flag(arguments: Sequence[str]) -> list[str]:
  """Arguments whose RUN_FOLDER may be spelled `--run RUN_FOLDER`, as it was."""
  return [x.removeprefix('--run=') for x in arguments if x != '--run']


class ArgumentParser(argparse.ArgumentParser):
  """Takes --debug, and reports wrong arguments in one sentence."""

  def __init__(self, **options: Any):
    super().__init__(**options)
    self.add_argument('--debug', action='store_true', help=DEBUG)

  def error(self, message: str) -> NoReturn:
    """Raises InputError."""
    raise errors.InputError(f'{message[:1].upper()}{message[1:]}: see --help.')
