"""A queue of keys: kopf neither coalesces nor retries what its event handlers do, so this does."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_IN_A_ROW = 7
"""Keys that come first and are taken before one that has to wait is: none waits for ever."""


class KeyedQueue(Generic[K]):
    """Every key is worked on by one worker at a time, and waits in the queue at most once.

    A key added while it is worked on is queued again afterwards, so no change is ever missed.

    Args:
        rng: Spreads retries.
        comes_first: Whether a key that is added goes before those that are not.
        others_at_once: Most keys that do not come first and are worked on at the same time; None:
            as many as there are workers.
        closed: Whether keys are passed over until `open`: nobody works on them yet, and what they
            are of may be deleted before anybody does.
        first_retry_seconds: Wait before the first retry of a key; it doubles each time.
        longest_retry_seconds: Upper bound of that wait.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        comes_first: Callable[[K], bool] = lambda _: False,
        others_at_once: int | None = None,
        closed: bool = False,
        first_retry_seconds: float = 0.2,
        longest_retry_seconds: float = 60.0,
    ) -> None:
        self._first_lane: deque[K] = deque()
        self._lane: deque[K] = deque()
        self._in_a_row = 0
        self._ready = asyncio.Semaphore(0)
        """Counts keys that may be taken: all that come first, and of the others `_released`."""
        self._released = 0
        self._others: set[K] = set()
        """Keys of `_lane` that are worked on."""
        self._others_at_once = others_at_once
        self._comes_first = comes_first
        self._closed = closed
        self._waiting: set[K] = set()
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._rng = rng
        self._first = first_retry_seconds
        self._longest = longest_retry_seconds

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._first_lane) + len(self._lane)

    def has_first(self) -> bool:
        """Whether a key that comes first waits for a worker."""
        return bool(self._first_lane)

    def stuck_seconds(self) -> float:
        """How long the key has been worked on that has been longest; 0 if none is."""
        now = asyncio.get_running_loop().time()
        return max((now - began for began in self._working.values()), default=0.0)

    def open(self, keys: Iterable[K]) -> None:
        """Queues these, and from now on whatever is added."""
        self._closed = False
        for key in keys:
            self.add(key)

    def add(self, key: K) -> None:
        """Queues a key now."""
        if self._closed:
            return
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            if self._comes_first(key):
                self._first_lane.append(key)
                self._ready.release()
            else:
                self._lane.append(key)
                self._release()

    def add_after(self, key: K, seconds: float) -> None:
        """Queues a key after `seconds`, unless an earlier time is already set."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(seconds, 0)
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    def retry(self, key: K, after_seconds: float | None = None) -> float:
        """Queues a key that failed, after `after_seconds` or with exponential backoff and jitter.

        Returns:
            The wait in seconds.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff = min(self._first * 2.0 ** min(failures - 1, 32), self._longest)
        seconds = after_seconds if after_seconds is not None else backoff
        seconds *= self._rng.uniform(1.0, 1.25)
        self.add_after(key, seconds)
        return seconds

    async def get(self) -> K:
        """Waits for a key and takes it; `done` must follow."""
        await asyncio.sleep(0)  # else workers that need not wait would let nobody else run
        await self._ready.acquire()
        key = self._next()
        self._waiting.discard(key)
        self._working[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: K, *, failed: bool = False) -> None:
        """Gives a key back; it is queued again if it was added meanwhile."""
        self._working.pop(key, None)
        if key in self._others:
            self._others.discard(key)
            self._release()
        if not failed:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _release(self) -> None:
        """Lets one more of those be taken that do not come first, if there is one and it may."""
        free = self._others_at_once is None or (
            self._released + len(self._others) < self._others_at_once
        )
        if free and self._released < len(self._lane):
            self._released += 1
            self._ready.release()

    def _next(self) -> K:
        if self._first_lane and (self._in_a_row < FIRST_IN_A_ROW or not self._released):
            self._in_a_row += 1
            return self._first_lane.popleft()
        self._in_a_row = 0
        self._released -= 1
        key = self._lane.popleft()
        self._others.add(key)
        return key

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)
