"""What the Events of a namespace say about why pods do not start, read once for all who ask."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple
from weakref import WeakValueDictionary

from aligntune_operator.cluster import Cluster

SHARED_FOR = timedelta(seconds=5)
"""How long what was read is told to others, or for as long as the reading took, if that is longer:
the API server reads every Event of the namespace for one that is asked about one object, so that a
thousand jobs that wait would cost it a thousand times as much."""


class Reading(NamedTuple):
    """The newest Events of a namespace."""

    shared_until: datetime
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
        self._locks = WeakValueDictionary[str, asyncio.Lock]()
        """By namespace, as long as anybody holds one or waits for it."""

    async def newest(self, namespace: str, uids: Iterable[str]) -> str:
        """`Reason: message` of the newest Event about any of these objects; empty if none.

        Raises:
            ApiError: The Events could not be read.
        """
        async with self._locks.setdefault(namespace, asyncio.Lock()):
            asked = self._clock()
            self._readings = {
                name: reading
                for name, reading in self._readings.items()
                if asked < reading.shared_until
            }
            if namespace not in self._readings:
                newest = await self._cluster.newest_events(namespace)
                read = self._clock()
                shared_until = read + max(SHARED_FOR, read - asked)
                self._readings[namespace] = Reading(shared_until, newest)
            found = self._readings[namespace].newest
        return max((found[uid] for uid in uids if uid in found), default=("", ""))[1]
