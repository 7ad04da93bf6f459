"""How long a cluster that was there, and does not answer now, is asked again."""

import time
from collections.abc import Callable
from typing import TypeVar

from aligntune.api.exit_codes import ExitCode
from aligntune.cluster.errors import ClusterError

WAITS = (1, 2, 4, 8, 15, 30, 30, 30, 30, 30, 30, 30)
"""Seconds before each time of asking: four minutes in all, in which an API server restarts."""

Answer = TypeVar("Answer")
Tell = Callable[[str], None]
"""Tells the person what is done on their behalf."""


def is_transient(error: ClusterError) -> bool:
    """Whether asking again may mend it."""
    return error.exit_code == ExitCode.TEMPORARY


def patiently(
    ask: Callable[[], Answer],
    tell: Tell,
    pause: Callable[[float], None] = time.sleep,  # noqa: TID251 - no condition is known to wait for
) -> Answer:
    """The answer of a cluster that was there a moment ago.

    Args:
        ask: Asks for it.
        tell: Told once that it is waited for.
        pause: Waits so many seconds.

    Raises:
        ClusterError: It does not answer in the end, or it refuses.
    """
    told = False
    for seconds in WAITS:
        pause(seconds)
        try:
            return ask()
        except ClusterError as error:
            if not is_transient(error):
                raise
            if not told:
                tell(f"{error}. It is asked again for {sum(WAITS) // 60} minutes")
                told = True
    return ask()
