"""Events are written beside everything else."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from aligntune_operator.cluster import ApiError, NotLeadingError
from aligntune_operator.observe import align_tune_job_state
from aligntune_operator.recorder import MOST_WAITING, Recorder
from aligntune_operator.status.events import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHAT = align_tune_job_state(
    {
        "metadata": {
            "name": "chat",
            "namespace": "research",
            "uid": "u",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": NOW.isoformat(),
        },
        "spec": {},
    }
)


class Wire:
    """Stands where the API server does: refuses the first, and takes three."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def create_event(self, _: Any, event: Event, at: datetime) -> None:
        assert at == NOW
        if event.reason == "refused":
            raise ApiError(500, "no")
        if event.reason == "last":
            raise NotLeadingError("POST events")
        self.written.append(event.reason)


async def test_an_event_that_cannot_be_written_holds_up_no_other() -> None:
    wire = Wire()
    recorder = Recorder(wire)  # type: ignore[arg-type] # the wire is played
    for reason in ("refused", "Valid", "AttemptStarted", "last"):
        recorder.tell(CHAT, Event("Normal", reason, ""), NOW)
    [outcome] = await asyncio.gather(recorder.write_forever(), return_exceptions=True)
    assert isinstance(outcome, NotLeadingError)
    assert wire.written == ["Valid", "AttemptStarted"]


async def test_more_events_than_can_be_held_are_dropped_and_logged(caplog: Any) -> None:
    recorder = Recorder(Wire())  # type: ignore[arg-type] # the wire is played
    for _ in range(MOST_WAITING + 1):
        recorder.tell(CHAT, Event("Normal", "Valid", ""), NOW)
    assert "research/chat: an Event is dropped" in caplog.text
