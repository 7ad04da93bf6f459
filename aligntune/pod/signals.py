"""The launcher's signals, as bytes on a pipe instead of code that runs in between."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@contextmanager
def caught_signals() -> Iterator[int]:
    """Catch SIGTERM, SIGINT and SIGCHLD; the descriptor given becomes readable when one comes.

    SIGUSR1 is ignored, which child processes inherit: asking a rank for its stacks must not kill
    one that has not registered for it yet. Only the main thread may enter.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    before = {number: signal.signal(number, _noticed) for number in CAUGHT}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    fd_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


def pending_signals(fd: int) -> bytes:
    """The numbers of the signals that came since the last call, in order."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def _noticed(number: int, frame: FrameType | None) -> None:
    """Nothing to do: Python writes the number to the pipe, but only for signals with a handler."""
