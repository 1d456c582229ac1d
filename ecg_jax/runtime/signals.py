"""Ends on SIGTERM or Ctrl-C: with a save where that is quick, else at once.

Schedulers send SIGTERM and, some time later, kill. The first signal asks the
training loop to stop at the next edge of a chunk and to save. If that is not
done within some seconds, or with another signal a second or more later, the
process ends at once and the last checkpoint stands. Outside of the loop the
first signal ends the command as an error does.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

from ecg_jax.errors import InputError, Interrupted

GRACE_SECONDS = 15.0
"""For the chunks in flight, about 10, and the save after them."""

_SAME_SECONDS = 1.0  # Some wrappers send the same signal twice.

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Loop = Callable[[], contextlib.AbstractContextManager[Callable[[], bool]]]


@contextlib.contextmanager
def handled() -> Iterator[Loop]:
  """Handles the signals in this context, which the main thread must open.

  Yields:
    What opens the context of a loop that stops by itself: that gives a function
    which tells whether it has to, and raises Interrupted at its end if so.
  """
  received: list[int] = []
  in_loop = False

  def handle(number: int, frame: object) -> None:
    del frame
    received.append(number)
    if len(received) == 1 and not in_loop:
      raise Interrupted(number)

  @contextlib.contextmanager
  def loop() -> Iterator[Callable[[], bool]]:
    nonlocal in_loop
    in_loop = True
    try:
      yield lambda: bool(received)
    finally:
      in_loop = False
    if received:
      raise Interrupted(received[0])

  # Python calls a handler between two of its instructions only; a process that
  # waits for a program on the device has none. But the number of the signal is
  # written at once, for a thread to read.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  handlers = {number: signal.signal(number, handle) for number in _SIGNALS}
  wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  thread = threading.Thread(target=_end_in_time, args=(reader,), daemon=True)
  thread.start()
  try:
    yield loop
  except InputError:
    raise
  except Exception as error:
    # Raised within an import, Interrupted becomes another error; and within a
    # callback, none.
    if received:
      raise Interrupted(received[0]) from error
    raise
  else:
    if received:
      raise Interrupted(received[0])
  finally:
    signal.set_wakeup_fd(wakeup)
    for number, handler in handlers.items():
      signal.signal(number, handler)
    os.close(writer)
    thread.join()
    os.close(reader)


def _end_in_time(reader: int) -> None:
  """Ends the process some time after a signal, or with a second one.

  Unless the writing end of the pipe is closed before.
  """
  first, since = 0, 0.0
  while True:
    number = 0
    if select.select([reader], [], [], 0.1 if first else None)[0]:
      read = os.read(reader, 1)
      if not read:
        return
      number = read[0] if read[0] in _SIGNALS else 0
    if not first:
      first, since = number, time.monotonic()
      continue
    waited = time.monotonic() - since
    if waited > GRACE_SECONDS or (number and waited > _SAME_SECONDS):
      message = f'{Interrupted(first)} The last checkpoint stands.\n'
      try:
        os.write(2, message.encode())
      finally:  # Nobody may be reading any more.
        os._exit(128 + first)
