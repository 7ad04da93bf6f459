"""The wall clock: the outermost shells read it, and pass the time in."""

from datetime import UTC, datetime


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)  # noqa: TID251 - the one place
