"""HTTP sessions to the API server, for kopf's watches and for the operator's own requests."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import aiohttp
import kopf

from aligntune.api import labels
from aligntune.api.kubeconfig import kubeconfig_files, login_plugin, read_kubeconfig, token_file
from aligntune.core.errors import ConfigError

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TOKEN_LIFETIME_SECONDS = 60
"""How long a token read from the file is used; the kubelet renews it long before it expires."""
REFUSED_SECONDS = 5.0
"""Wait before a refused watch is asked for again; by then the token may have been renewed."""
LONGEST_WAIT_SECONDS = 20.0

logger = logging.getLogger(__name__)


class Patience:
    """The waits, in seconds, between requests to an API server that fails; each spell begins anew.

    They never end: kopf ends with the last of them, and a start would with the first.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0), repeat(LONGEST_WAIT_SECONDS))


class Connection(NamedTuple):
    """How the API server is reached."""

    session: aiohttp.ClientSession
    """Carries the operator's credentials: for the API server alone."""
    watches: aiohttp.ClientSession
    """The same for kopf, which closes it as soon as it stops, while others still ask."""
    pods: aiohttp.ClientSession
    """Carries none: for the pods of tenants, and for the model hub."""
    server: str
    in_cluster: bool

    def for_kopf(self) -> kopf.AiohttpSession:
        """The session for watches as kopf wants it."""
        return kopf.AiohttpSession(server=self.server, aiohttp_session=self.watches)

    async def close(self) -> None:
        """Closes every session."""
        for session in (self.session, self.watches, self.pods):
            await session.close()


async def read_at_most(response: aiohttp.ClientResponse, longest: int) -> bytes | None:
    """The body; None if it has more than `longest` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > longest:
            return None
    return bytes(body)


class NoClusterError(Exception):
    """Neither a service account nor a kubeconfig says where the cluster is."""


@dataclass(frozen=True)
class Login:
    """Where the API server is, and as whom it is asked."""

    info: kopf.ConnectionInfo
    token: tuple[aiohttp.ClientMiddlewareType, ...]
    """Sends the token in a file, in place of the credentials in `info`; empty: there is none."""
    in_cluster: bool

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.info.server.rstrip("/")

    def session(self, *around: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Opens a session that carries the credentials.

        Args:
            *around: What each request goes through first.
        """
        # By which audit logs, and API priority and fairness, tell who asks.
        named = {"User-Agent": labels.FIELD_MANAGER}
        return aiohttp.ClientSession(
            # kopf's watches hold a connection each; the workers and the poller bound the rest.
            connector=aiohttp.TCPConnector(limit=0, ssl=self.info.as_ssl_context()),
            headers=named | ({} if self.token else self.info.as_http_headers()),
            middlewares=(*around, *self.token),
            trust_env=bool(self.info.trust_env),
            # A pod behind the API server's proxy could set cookies in the server's name.
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def log_in(settings: kopf.OperatorSettings) -> Login:
    """Logs in as the pod's service account, else as `KUBECONFIG` says.

    Raises:
        NoClusterError: Neither is there.
        ConfigError: The kubeconfig does not say it as the operator can use it.
    """
    account = kopf.login_with_service_account(settings=settings, logger=logger)
    info, file = (account, TOKEN_FILE) if account else _by_kubeconfig(settings)
    if info is None:
        raise NoClusterError(
            "no cluster: run in a pod with a service account, or set KUBECONFIG to a kubeconfig"
        )

    token = (rotating_token(file, time.monotonic),) if file else ()
    return Login(info, token, in_cluster=account is not None)


def connect(
    settings: kopf.OperatorSettings, beat: Callable[[str], None] = lambda _: None
) -> Connection:
    """Logs in, and opens every session of the operator.

    Args:
        settings: kopf's.
        beat: Called with the path of each collection that kopf asks for.

    Raises:
        NoClusterError: See `log_in`.
        ConfigError: See `log_in`.
    """
    login = log_in(settings)
    pods = aiohttp.ClientSession(
        # The poller bounds what it asks, and only one question is put to the hub at a time.
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    return Connection(
        login.session(),
        login.session(asks_until_answered(asyncio.sleep), beats(beat)),
        pods,
        login.server,
        login.in_cluster,
    )


def _by_kubeconfig(
    settings: kopf.OperatorSettings,
) -> tuple[kopf.ConnectionInfo | None, Path | None]:
    """What the current context of the kubeconfig says, which kopf reads without `tokenFile`, and
    that file; None: there is no kubeconfig, or it names no such file.
    """
    files = kubeconfig_files()
    if not os.environ.get("KUBECONFIG") and not files[0].exists():
        return None, None
    named = os.pathsep.join(map(str, files))
    configs = [read_kubeconfig(file) for file in files]
    if plugin := login_plugin(configs):
        raise ConfigError(
            f"{named}: its user is logged in by {plugin!r}, which the operator does not run: name a"
            " kubeconfig with a token or a certificate"
        )
    file = token_file(files, configs)
    if file is not None and not file.is_file():
        raise ConfigError(
            f"{named}: there is no tokenFile {file}: name the file that has the token"
        )
    try:
        return kopf.login_with_kubeconfig(settings=settings, logger=logger), file
    # what it says of a context, cluster or user that is not there, and of a list that is null
    except (kopf.LoginError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{named}: the current context names no cluster and user ({error}):"
            " `kubectl config use-context` sets another"
        ) from error


def asks_until_answered(sleep: Callable[[float], Awaitable[None]]) -> aiohttp.ClientMiddlewareType:
    """Asks again where the API server refuses the credentials, or a watch, or fails, until it does
    not.

    kopf would close its session under all other watches, and then neither watch nor end; of a
    server that fails it would log an error, and the whole answer, each time.
    """

    def in_vain(response: aiohttp.ClientResponse) -> bool:
        # A namespace that is deleted takes the operator's rights in it along, a CRD its collection.
        watch = response.url.path.endswith(f"/{labels.PLURAL}")
        of_a_watch = watch and response.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
        failed = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return of_a_watch or failed or response.status == HTTPStatus.UNAUTHORIZED

    async def ask(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        told = False
        while in_vain(response := await handler(request)):
            response.close()
            if not told:
                logger.warning(
                    "%s is answered with %d: asking on", request.url.path, response.status
                )
            told = True
            await sleep(REFUSED_SECONDS)
        return response

    return ask


def beats(beat: Callable[[str], None]) -> aiohttp.ClientMiddlewareType:
    """Tells when AlignTuneJobs are asked for: kopf's watch has no other sign of life."""

    async def ask(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.url.path.endswith(f"/{labels.PLURAL}"):
            beat(request.url.path)
        return await handler(request)

    return ask


def rotating_token(file: Path, clock: Callable[[], float]) -> aiohttp.ClientMiddlewareType:
    """Sends the token in `file` with each request, read anew every minute, and once it is refused:
    by then there may be another.
    """
    header, expires = "", 0.0

    async def authorise(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        nonlocal header, expires
        if clock() >= expires:
            header = f"Bearer {file.read_text().strip()}"  # noqa: ASYNC240 - a file in memory
            expires = clock() + TOKEN_LIFETIME_SECONDS
        request.headers["Authorization"] = header
        response = await handler(request)
        if response.status == HTTPStatus.UNAUTHORIZED:
            expires = 0.0
        return response

    return authorise
