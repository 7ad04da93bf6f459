"""Events, written beside the reconciliations: they are for people, and no job waits for them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from aligntune_operator.cluster import ApiError, Cluster
from aligntune_operator.observe import AlignTuneJobState
from aligntune_operator.status.events import Event

MOST_WAITING = 20_000
"""Events that wait to be written; more are dropped. 20,000: the lives of 5,000 jobs at once."""

WRITERS = 2
"""Events under way at the same time: few, since Jobs and statuses need the API server more."""

Tell = Callable[[AlignTuneJobState, Event, datetime], None]
"""Takes in an Event, and when it happened."""

logger = logging.getLogger(__name__)


class Recorder:
    """Holds what is to be told until it is written.

    Args:
        cluster: Where Events are written.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: asyncio.Queue[tuple[AlignTuneJobState, Event, datetime]] = asyncio.Queue(
            MOST_WAITING
        )

    def tell(self, about: AlignTuneJobState, event: Event, at: datetime) -> None:
        """Queues an Event."""
        try:
            self._waiting.put_nowait((about, event, at))
        except asyncio.QueueFull:
            logger.warning("%s: an Event is dropped, too many wait: %s", about.key, event)

    async def write_forever(self) -> None:
        """Writes one after the other; several may do so side by side.

        Raises:
            NotLeadingError: This replica may not write any more.
        """
        while True:
            about, event, at = await self._waiting.get()
            try:
                await self._cluster.create_event(about, event, at)
            except ApiError as error:
                logger.warning("%s: an Event could not be written: %s", about.key, error)
