"""What the Events of a namespace say about why pods do not start, read once for all who ask."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from aligntune_operator.cluster import Cluster

SHARED_FOR = timedelta(seconds=5)
"""How long what was read is told to others: the API server reads every Event of the namespace for
one that is asked about one object, so that a thousand jobs that wait would cost it a thousand times
as much."""


class Reading(NamedTuple):
    """The newest Events of a namespace."""

    at: datetime
    newest: Mapping[str, tuple[str, str]]
    """UID of an object -> when, and what."""


class Explanations:
    """The newest Events about Jobs and pods.

    Args:
        cluster: Whom to ask.
        clock: Tells the time.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._readings: dict[str, Reading] = {}
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def newest(self, namespace: str, uids: Iterable[str]) -> str:
        """`Reason: message` of the newest Event about any of these objects; empty if none.

        Raises:
            ApiError: The Events could not be read.
        """
        async with self._reading[namespace]:
            now = self._clock()
            self._readings = {
                name: reading
                for name, reading in self._readings.items()
                if now - reading.at < SHARED_FOR
            }
            if namespace not in self._readings:
                newest = await self._cluster.newest_events(namespace)
                self._readings[namespace] = Reading(now, newest)
            found = self._readings[namespace].newest
        return max((found[uid] for uid in uids if uid in found), default=("", ""))[1]
