"""Stopping on request: SIGTERM asks, the end of the step, or of an evaluation's batch, answers."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Preemption:
    """Remembers that somebody asked this process to stop.

    The ranks of a gang are signalled at different moments, or one alone is. So nobody acts on the
    flag by itself: at the end of each step, and before each batch of an evaluation, the ranks
    compare, and all stop at the same one.
    """

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Stop at the end of the step, or of the batch that is evaluated."""
        self.requested = True

    def answered(self) -> None:
        """All of them stop; what is begun later is not stopped by the same request."""
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as a request. Only the main thread can; others change nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
