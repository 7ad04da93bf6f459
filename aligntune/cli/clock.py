"""The time: the outermost shell reads the clock, and passes it in."""

from datetime import UTC, datetime


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)  # noqa: TID251 - the one place
