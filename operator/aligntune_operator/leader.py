"""Leader election: of several replicas one acts, as long as it holds a Lease.

The algorithm is client-go's: a Lease counts as held for its duration after this process last saw it
change, so clocks need not agree. The Lease is renewed in a thread of its own, whatever the event
loop is busy with. A leader that could not renew in time, or was itself stopped past the Lease,
ends: what it believes may be old.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from aligntune_operator.cluster import (
    ApiError,
    Cluster,
    ConflictError,
    GoneError,
    NotLeadingError,
)
from aligntune_operator.observe import Object

LEASE_SECONDS = 15
RENEW_SECONDS = 10.0
"""How long a leader tries to renew before it gives up: less than the Lease, so that it has stopped
when another may begin."""
RETRY_SECONDS = 2.0
LOOK_SECONDS = 1.0
"""How often a replica that does not lead looks whether it may."""
ANSWER_SECONDS = 5.0
"""How long an answer about the Lease is waited for: a slow one leaves time for another try."""

logger = logging.getLogger(__name__)


class LeaseStore(Protocol):
    """One Lease object on the API server."""

    async def read(self) -> Object:
        """The Lease.

        Raises:
            GoneError: There is none.
        """

    async def write(self, manifest: Object) -> Object:
        """Creates it, or replaces the version that `manifest` was made from.

        Raises:
            ConflictError: It has changed meanwhile.
        """


@dataclass(frozen=True)
class Lease:
    """The Lease as it is on the API server."""

    cluster: Cluster
    namespace: str
    name: str

    async def read(self) -> Object:
        """See `Cluster.read_lease`."""
        return await self.cluster.read_lease(self.namespace, self.name)

    async def write(self, manifest: Object) -> Object:
        """See `Cluster.write_lease`."""
        return await self.cluster.write_lease(self.namespace, self.name, manifest)


class Seen(NamedTuple):
    """A Lease and when this process first saw it so."""

    version: str
    holder: str
    at: float


def is_free(seen: Seen, me: str, now: float, lease_seconds: float) -> bool:
    """Whether this process may take a Lease: it is its own, released, or has not changed so long.

    Args:
        seen: The Lease as last seen.
        me: This process.
        now: Monotonic seconds.
        lease_seconds: How long it counts after a change.
    """
    return seen.holder in ("", me) or now - seen.at > lease_seconds


@dataclass
class Leadership:
    """Whether this process may act.

    Read by the event loop, written by the renewing thread. A leader that was stopped for longer
    than the Lease finds out by itself, before anything is renewed or lost.
    """

    clock: Callable[[], float]
    lease_seconds: float = LEASE_SECONDS
    renewed_at: float | None = None
    """Monotonic seconds of the last renewal, before it was asked for; None while it is not held."""

    def holds(self) -> bool:
        """Whether the Lease is this process's, and certainly no other's."""
        renewed = self.renewed_at
        return renewed is not None and self.clock() - renewed < self.lease_seconds


class Elector:
    """Acquires the Lease, keeps it, and gives it back.

    Args:
        leadership: Told of each renewal.
        me: A name that no other process has.
        now: Wall clock, for people who read the Lease.
        sleep: Waits some seconds, or less when the process is to end.
    """

    def __init__(
        self,
        leadership: Leadership,
        me: str,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._leadership = leadership
        self._me = me
        self._now = now
        self._sleep = sleep
        self._seen: Seen | None = None
        self._fails = False

    async def acquire(self, store: LeaseStore, stopping: Callable[[], bool]) -> None:
        """Returns once the Lease is held, or `stopping` says so."""
        while not stopping() and not await self._try(store):
            await self._sleep(LOOK_SECONDS)

    async def hold(self, store: LeaseStore, stopping: Callable[[], bool]) -> None:
        """Renews the Lease until `stopping` says so, or it is lost."""
        while not stopping():
            await self._sleep(RETRY_SECONDS)
            renewed = await self._try(store)
            last = self._leadership.renewed_at
            late = last is None or self._leadership.clock() - last > RENEW_SECONDS
            if not renewed and late:
                self._leadership.renewed_at = None
                return

    async def release(self, store: LeaseStore) -> None:
        """Lets another take over at once."""
        if not self._leadership.holds():
            return
        self._leadership.renewed_at = None
        try:
            await store.write(self._manifest(await store.read(), holder=""))
        except ApiError as error:
            logger.warning("the Lease could not be released: %s", error)

    async def _try(self, store: LeaseStore) -> bool:
        """`_take`, and says when the API server begins to fail, and when that is over."""
        try:
            taken = await self._take(store)
        except ApiError as error:
            level = logging.DEBUG if self._fails else logging.WARNING
            logger.log(level, "the Lease cannot be reached (%s): trying on", error)
            self._fails = True
            return False
        if self._fails:
            logger.info("the Lease can be reached again")
        self._fails = False
        return taken

    async def _take(self, store: LeaseStore) -> bool:
        """Takes or renews the Lease if that may be done now."""
        began = self._leadership.clock()
        try:
            lease = await self._read(store)
            if lease is not None:
                self._look(lease)
            free = self._seen is None or is_free(
                self._seen, self._me, began, self._leadership.lease_seconds
            )
            if not free:
                return False
            self._look(await store.write(self._manifest(lease, holder=self._me)))
        except ConflictError:
            return False
        self._leadership.renewed_at = began
        return True

    async def _read(self, store: LeaseStore) -> Object | None:
        try:
            return await store.read()
        except GoneError:
            return None

    def _look(self, lease: Object) -> None:
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            holder = lease["spec"].get("holderIdentity") or ""
            self._seen = Seen(version, holder, self._leadership.clock())

    def _manifest(self, lease: Object | None, *, holder: str) -> dict[str, Any]:
        time = f"{self._now():%Y-%m-%dT%H:%M:%S.%fZ}"
        before = (lease or {}).get("spec", {})
        changes = int(before.get("leaseTransitions", 0))
        mine = before.get("holderIdentity") == holder
        return {
            "metadata": dict(lease["metadata"]) if lease else {},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(self._leadership.lease_seconds) if holder else 1,
                "acquireTime": before.get("acquireTime", time) if mine else time,
                "renewTime": time,
                "leaseTransitions": changes if mine or not holder else changes + 1,
            },
        }


class Election:
    """The election as the event loop sees it: who leads, and when that changes."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._won = asyncio.Event()
        self._lost = asyncio.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._leadership.holds()

    async def won(self) -> None:
        """Waits until this process leads."""
        await self._won.wait()

    async def lost(self) -> None:
        """Waits until this process leads no more.

        Raises:
            NotLeadingError: Then.
        """
        await self._lost.wait()
        raise NotLeadingError("the Lease is another's")

    def begin(
        self,
        me: str,
        now: Callable[[], datetime],
        open_lease: Callable[[], AbstractAsyncContextManager[LeaseStore]],
    ) -> None:
        """Starts to elect, in a thread of its own.

        Args:
            me: A name that no other process has.
            now: Wall clock, for people who read the Lease.
            open_lease: Opens the Lease's client inside that thread's event loop.
        """
        loop = asyncio.get_running_loop()
        elector = Elector(self._leadership, me, now, self._sleep)

        async def elect() -> None:
            async with open_lease() as lease:
                await elector.acquire(lease, self._stopping.is_set)
                loop.call_soon_threadsafe(self._won.set)
                await elector.hold(lease, self._stopping.is_set)
                if self._stopping.is_set():
                    await elector.release(lease)

        def run() -> None:
            try:
                asyncio.run(elect())
            finally:
                if not self._stopping.is_set():
                    # Also where it met a bug: nobody leads without renewing.
                    loop.call_soon_threadsafe(self._won.set)
                    loop.call_soon_threadsafe(self._lost.set)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    async def _sleep(self, seconds: float) -> None:
        """Waits, in the election's own thread, and not beyond its end."""
        await asyncio.to_thread(self._stopping.wait, seconds)

    async def resign(self) -> None:
        """Ends the election; another may lead at once."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, LEASE_SECONDS)


def alone() -> Election:
    """An election with one candidate, that needs no Lease."""
    election = Election(Leadership(lambda: 0.0, renewed_at=0.0))
    election._won.set()  # noqa: SLF001 - its own module
    return election
