"""Whether the watches of this process still turn, for its liveness probe."""

from collections.abc import Callable

STILL_SECONDS = 600.0
"""How long a watch may do nothing before the process counts as dead. Each ends, or asks anew, long
before: after a minute and a half of silence, and after five minutes without an answer to a list."""


class Heartbeats:
    """When each watch last did anything: asked, was answered, or was refused.

    An API server that is away is no reason to restart a process, which would find it as little: a
    watch that asks in vain does turn. One that neither asks nor is told anything is stuck in this
    process, where nothing else would end it.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def beat(self, watch: str) -> None:
        """Takes in that a watch has turned."""
        self._last[watch] = self._clock()

    def alive(self) -> bool:
        """Whether every watch that ever turned has done so of late."""
        now = self._clock()
        return all(now - last < STILL_SECONDS for last in self._last.values())
