"""Deadlines begin at the API server's timestamps, so its clock is the one that counts."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from aligntune_operator.clock import ServerClock

NOW = datetime(2026, 11, 1, 12, 0, 0, 400_000, tzinfo=UTC)
"""On this machine."""


def date(at: datetime) -> str:
    return format_datetime(at, usegmt=True)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_off_is_corrected_to_within_a_second(hours: int) -> None:
    clock = ServerClock(lambda: NOW)
    clock.correct(date(NOW + timedelta(hours=hours)), 0.1)
    assert abs(clock() - NOW - timedelta(hours=hours)) <= timedelta(seconds=1)


def test_dates_without_fractions_leave_a_right_clock_alone() -> None:
    clock = ServerClock(lambda: NOW)
    clock.correct(date(NOW), 0.1)
    assert clock() == NOW


def test_a_slow_answer_tells_little() -> None:
    clock = ServerClock(lambda: NOW)
    clock.correct(date(NOW - timedelta(seconds=20)), 25)
    assert clock() == NOW


def test_a_clock_that_was_set_right_again_is_believed_again() -> None:
    times = [NOW + timedelta(hours=1), NOW, NOW]
    clock = ServerClock(lambda: times.pop(0))
    clock.correct(date(NOW), 0.1)
    clock.correct(date(NOW), 0.1)
    assert abs(clock() - NOW) <= timedelta(seconds=1)


@pytest.mark.parametrize("nothing", ["", "yesterday"])
def test_an_answer_without_a_date_changes_nothing(nothing: str) -> None:
    clock = ServerClock(lambda: NOW)
    clock.correct(nothing, 0.1)
    assert clock() == NOW
