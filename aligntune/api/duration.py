"""Lengths of time, as people read them."""

MINUTE, HOUR, DAY = 60, 3600, 86_400


def duration(seconds: int) -> str:
    """5400 as `1h30m`, in the two largest units, as kubectl shows ages."""
    if seconds >= DAY:
        return f"{seconds // DAY}d{seconds % DAY // HOUR}h"
    if seconds >= HOUR:
        return f"{seconds // HOUR}h{seconds % HOUR // MINUTE}m"
    if seconds >= MINUTE:
        return f"{seconds // MINUTE}m{seconds % MINUTE}s"
    return f"{seconds}s"
