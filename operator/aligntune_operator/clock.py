"""What time it is for the API server, whose timestamps begin every deadline of a job."""

from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

RESOLUTION = timedelta(seconds=1)
"""An HTTP date has no fractions."""


def timestamp(at: datetime) -> str:
    """A time in UTC as Kubernetes writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


class ServerClock:
    """This machine's clock, corrected where the `Date` of the API server's answers disproves it.

    With a clock an hour ahead every pod that is told to end would count as lost at once, and the
    next attempt would begin beside it; with one behind, a lost node would be noticed an hour late.

    Args:
        clock: This machine's.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._correction = timedelta(0)

    def __call__(self) -> datetime:
        """The time now."""
        return self._clock() + self._correction

    def correct(self, date: str, took_seconds: float) -> None:
        """Takes in an answer: it was written at `date`, while it was waited for."""
        try:
            written = parsedate_to_datetime(date)
        except ValueError:
            return
        received = self._clock()
        asked = received - timedelta(seconds=took_seconds)
        least, most = written - received, written + RESOLUTION - asked
        self._correction = min(max(self._correction, least), most)
