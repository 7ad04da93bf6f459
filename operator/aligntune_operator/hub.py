"""The model hub: config.json files that anybody may read, for the shapes of models."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from urllib.parse import quote

import aiohttp
from yarl import URL

from aligntune.core.errors import ConfigError
from aligntune.core.memory.shape import ModelShape, shape_of
from aligntune_operator.memory import HubModel
from aligntune_operator.session import read_at_most

ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=5)
LONGEST_CONFIG = 1024 * 1024
"""Bytes; config.json files have some kB."""
MOST_REDIRECTS = 3
"""Within the hub: for a repository that was renamed, and for files that it has in a cache."""
MOST_KEPT = 1_000
"""Answers that are kept, those of models that are not there included."""

KEPT_FOR = timedelta(hours=1)
"""A branch may move; the shape of its model hardly does."""
SILENT_FOR = timedelta(minutes=1)
"""How long a hub is left alone that does not answer, or is too busy to."""

BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

logger = logging.getLogger(__name__)


class HubSilentError(Exception):
    """The hub does not answer now; it may later."""


class Hub:
    """What is known of the models on the hub.

    What it answers may be anybody's: it is bounded, parsed and checked.

    Args:
        session: Carries no credential, of the cluster or of the hub.
        endpoint: The hub's URL.
        clock: Tells the time.
    """

    def __init__(
        self, session: aiohttp.ClientSession, endpoint: str, clock: Callable[[], datetime]
    ) -> None:
        self._session = session
        self._endpoint = endpoint.rstrip("/")
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._kept: dict[HubModel, tuple[datetime, ModelShape | None]] = {}
        self._silent_until: datetime | None = None

    async def shape(self, model: HubModel) -> ModelShape | None:
        """The shape of a model; None if it is private, of another kind, or not to be had now."""
        async with self._one_at_a_time:
            now = self._clock()
            until, shape = self._kept.get(model, (now, None))
            if until > now:
                return shape
            if self._silent_until is not None and self._silent_until > now:
                return None
            try:
                shape = await self._ask(model)
            except (HubSilentError, aiohttp.ClientError, TimeoutError, ValueError) as error:
                logger.info("the hub at %s is left alone for a while: %r", self._endpoint, error)
                self._silent_until = self._clock() + SILENT_FOR
                return None
            self._kept.pop(model, None)
            self._kept[model] = now + KEPT_FOR, shape
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            return shape

    async def _ask(self, model: HubModel) -> ModelShape | None:
        path = f"{model.name}/resolve/{quote(model.revision, safe='')}/config.json"
        url = URL(f"{self._endpoint}/{path}", encoded=True)
        for _ in range(MOST_REDIRECTS + 1):
            async with self._session.get(
                url,
                timeout=ANSWER_TIMEOUT,
                allow_redirects=False,
                # A small answer may unpack to a large one.
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if response.status in BUSY or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise HubSilentError(response.status)
                if response.status == HTTPStatus.OK:
                    return _shape(await read_at_most(response, LONGEST_CONFIG), model)
                target = url.join(URL(response.headers.get("Location", "")))
            if target == url or target.origin() != url.origin():
                return None
            url = target
        return None


def _shape(body: bytes | None, model: HubModel) -> ModelShape | None:
    try:
        content = json.loads(body or b"")
        return shape_of(content, model.name) if isinstance(content, dict) else None
    except (ValueError, RecursionError, ConfigError) as error:
        logger.info("the memory of model %s cannot be told: %s", model.name, error)
        return None
