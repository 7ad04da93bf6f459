"""Events on their way to the API server: written beside the work, and again where that failed."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from aligntune_operator.cluster import ApiError, Cluster, GoneError, RefusedError
from aligntune_operator.observe import Key
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.status.events import Posting

MOST_WAITING = 20_000
"""Events that wait at most, of about 1 kB each: those of 5,000 jobs that are created at once."""
OLDEST = timedelta(minutes=10)
"""Age at which an Event that could not be written is given up: what it told is in the status."""
YIELDS_FOR = timedelta(seconds=15)
"""Age until which an Event waits for new jobs to begin: who creates many waits for their pods."""
YIELD_SECONDS = 0.1
SENDERS = 2
"""Jobs whose Events are written at the same time."""

logger = logging.getLogger(__name__)


class Outbox:
    """Events that wait to be written, those of one job in their order.

    They are in memory alone: what waits when the process ends is lost.

    Args:
        rng: Spreads retries.
        clock: Tells the time.
        dropped: Told of each Event that is given up.
        others_first: Whether something waits that is more urgent.
    """

    def __init__(
        self,
        rng: random.Random,
        clock: Callable[[], datetime],
        dropped: Callable[[], None],
        *,
        others_first: Callable[[], bool],
    ) -> None:
        self._jobs = KeyedQueue[Key](rng)
        self._waiting: dict[Key, deque[Posting]] = {}
        self._count = 0
        self._clock = clock
        self._dropped = dropped
        self._others_first = others_first

    def __len__(self) -> int:
        """Events that wait."""
        return self._count

    def post(self, posting: Posting) -> None:
        """Takes an Event, unless too many wait."""
        if len(self) >= MOST_WAITING:
            self._give_up(posting, f"{MOST_WAITING} others wait")
            return
        self._waiting.setdefault(posting.key, deque()).append(posting)
        self._count += 1
        self._jobs.add(posting.key)

    async def send_forever(self, cluster: Cluster) -> None:
        """Writes what comes in.

        Raises:
            NotLeadingError: This process may not write any more.
        """
        async with asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(self._send(cluster))

    async def _send(self, cluster: Cluster) -> None:
        while True:
            key = await self._jobs.get()
            failure = None
            try:
                failure = await self._send_those_of(key, cluster)
            finally:
                self._jobs.done(key, failed=failure is not None)
            if failure is not None:
                self._jobs.retry(key, failure.retry_after)

    async def _send_those_of(self, key: Key, cluster: Cluster) -> ApiError | None:
        """Writes a job's Events; the error after which the rest is to be tried again."""
        waiting = self._waiting.get(key, deque())
        while waiting:
            age_limit = waiting[0].at + YIELDS_FOR
            while self._others_first() and self._clock() < age_limit:  # noqa: ASYNC110 - time ends it
                await asyncio.sleep(YIELD_SECONDS)
            try:
                await cluster.create_event(waiting[0])
            except (RefusedError, GoneError) as error:
                self._give_up(waiting[0], error)
            except ApiError as error:
                if self._clock() - waiting[0].at < OLDEST:
                    return error
                self._give_up(waiting[0], error)
            waiting.popleft()
            self._count -= 1
        self._waiting.pop(key, None)
        return None

    def _give_up(self, posting: Posting, why: object) -> None:
        self._dropped()
        logger.warning("%s: the Event %s is dropped: %s", posting.key, posting.event.reason, why)
