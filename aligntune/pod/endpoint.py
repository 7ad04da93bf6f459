"""The pod's HTTP endpoint: /progress for the operator, /metrics for Prometheus, /healthz."""

import logging
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_LATEST

from aligntune.api.causes import Cause
from aligntune.api.progress import Snapshot
from aligntune.api.run import JobIdentity
from aligntune.pod.attempt import CannotStartError
from aligntune.pod.exposition import exposition
from aligntune.pod.gpus import ReadGpus

LOOPBACK = "127.0.0.1"
ALL_INTERFACES = ""
MAX_CONNECTIONS = 16
"""Requests served at once; more are hung up on. 16: a prober, a scraper, the operator, and room."""
CONNECTION_TIMEOUT_SECONDS = 5.0
"""Longest wait for a client's next bytes."""

_log = logging.getLogger(__name__)


class Endpoint:
    """Serves the newest published snapshot from its own thread while in its `with` block."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        job: JobIdentity,
        snapshot: Snapshot,
        read_gpus: ReadGpus = tuple,
    ) -> None:
        """Listen on `port`; 0 takes a free one. `read_gpus` is called for `/metrics`.

        Raises:
            CannotStartError: the port is taken.
        """
        self.snapshot = snapshot
        """What `/progress` and `/metrics` show; replaced as a whole."""
        self.healthy = True
        """Whether the ranks live: what `/healthz` tells."""
        self.job = job
        self.read_gpus = read_gpus
        try:
            self._server = _Server(host, port, self)
        except OSError as error:
            raise CannotStartError(
                Cause.CONFIG_ERROR,
                f"port {port}: {(error.strerror or str(error)).lower()}."
                " Choose another, or 0 for a free one.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """A threading server with a limit, on IPv4 and IPv6 alike where the host has both."""

    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if host == ALL_INTERFACES and socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that one looks up its own name and hangs where DNS does not answer.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  typeshed
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that hangs up early is its own affair."""
        _log.debug("request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_TIMEOUT_SECONDS
    server_version = "aligntune"
    sys_version = ""

    def do_GET(self) -> None:
        endpoint = self.server.endpoint
        match self.path.partition("?")[0]:
            case "/progress":
                body = endpoint.snapshot.model_dump_json(exclude_none=True).encode()
                self._answer(HTTPStatus.OK, "application/json", body)
            case "/metrics":
                body = exposition(endpoint.snapshot, endpoint.job, endpoint.read_gpus())
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, body)
            case "/healthz" if endpoint.healthy:
                self._answer(HTTPStatus.OK, "text/plain", b"ok\n")
            case "/healthz":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"no rank lives\n")
            case _:
                body = b"there are /progress, /metrics and /healthz\n"
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", body)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
        """No line per request: the container's log belongs to training."""
