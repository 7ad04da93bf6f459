"""What people's tools ask of the API server."""

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Self

from kubernetes import client, watch
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError

from aligntune.api.exit_codes import ExitCode
from aligntune.api.labels import GROUP, JOB_NAME, PLURAL, TRAINER_CONTAINER, VERSION
from aligntune.cluster.connection import Connection
from aligntune.cluster.errors import ClusterError, refused

FIELD_MANAGER = "aligntune"
"""Owner of the fields that a person sets with these tools."""

TIMEOUT = (10, 30)
"""Seconds to connect, and between two bytes of an answer."""
STREAM_TIMEOUT = (10, 86_400)
"""The same for a log that is followed: a rank may be silent for long."""
WATCH_SECONDS = 60
"""How long one watch lasts before everything is listed again."""
ENDED_WELL = (0, 128 + signal.SIGKILL)
"""Exit codes of a command that has printed all there was; one that follows a log is killed when the
container ends."""

Object = dict[str, Any]


class Cluster:
    """A namespace of a cluster; whatever goes wrong there is a `ClusterError`."""

    def __init__(self, connection: Connection) -> None:
        self.namespace = connection.namespace
        self._connection = connection
        self._objects = client.CustomObjectsApi(connection.api)
        self._core = client.CoreV1Api(connection.api)
        self._batch = client.BatchV1Api(connection.api)

    def within(self, namespace: str) -> Self:
        """The same cluster, seen from another namespace."""
        return type(self)(self._connection._replace(namespace=namespace))

    def jobs(self, *, everywhere: bool = False, selector: str = "") -> list[Object]:
        """The AlignTuneJobs of the namespace, or of all."""
        with self._sentences():
            if everywhere:
                page = self._objects.list_cluster_custom_object(
                    GROUP, VERSION, PLURAL, label_selector=selector, _request_timeout=TIMEOUT
                )
            else:
                page = self._objects.list_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL,
                    label_selector=selector, _request_timeout=TIMEOUT,
                )  # fmt: skip
        items: list[Object] = page["items"]
        return items

    def get(self, name: str) -> Object:
        """An AlignTuneJob."""
        with self._sentences():
            found: Object = self._objects.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=TIMEOUT
            )
        return found

    def changes(self, name: str = "") -> Iterator[list[Object]]:
        """The AlignTuneJobs of the namespace, or the one of that name, anew after every change."""
        selected = {"field_selector": f"metadata.name={name}"} if name else {}
        where = (GROUP, VERSION, self.namespace, PLURAL)
        while True:
            with self._sentences():
                page = self._objects.list_namespaced_custom_object(
                    *where, **selected, _request_timeout=TIMEOUT
                )
            known = {item["metadata"]["uid"]: item for item in page["items"]}
            yield list(known.values())
            with self._sentences(expired_is_fine=True):
                events = watch.Watch().stream(
                    self._objects.list_namespaced_custom_object, *where, **selected,
                    resource_version=page["metadata"]["resourceVersion"],
                    timeout_seconds=WATCH_SECONDS,
                )  # fmt: skip
                for event in events:
                    body = event["object"]
                    if event["type"] == "DELETED":
                        known.pop(body["metadata"]["uid"], None)
                    else:
                        known[body["metadata"]["uid"]] = body
                    yield list(known.values())

    def apply(self, body: Mapping[str, Any], *, force: bool, dry_run: bool) -> Object:
        """Server-side apply; a field that the API server does not know is an error."""
        with self._sentences():
            # read here: the client takes the 201 of a new object for an answer without a body
            answer = self._objects.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, body["metadata"]["name"], dict(body),
                field_manager=FIELD_MANAGER, field_validation="Strict", force=force,
                dry_run="All" if dry_run else None,
                _content_type="application/apply-patch+yaml",
                _preload_content=False, _request_timeout=TIMEOUT,
            )  # fmt: skip
            self._check(answer)
            applied: Object = json.loads(answer.read())
        return applied

    def set_suspend(self, name: str, *, suspend: bool) -> Object:
        """Suspends a job, or lets it go on."""
        with self._sentences():
            patched: Object = self._objects.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, {"spec": {"suspend": suspend}},
                field_manager=FIELD_MANAGER, field_validation="Strict",
                _content_type="application/merge-patch+json", _request_timeout=TIMEOUT,
            )  # fmt: skip
        return patched

    def delete(self, name: str, uid: str) -> None:
        """Deletes the very job that was looked at; the garbage collector removes its pods."""
        with self._sentences():
            self._objects.delete_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name,
                body={"preconditions": {"uid": uid}, "propagationPolicy": "Background"},
                _request_timeout=TIMEOUT,
            )  # fmt: skip

    def batch_jobs(self, name: str) -> list[Object]:
        """The Jobs of an AlignTuneJob that are still there."""
        with self._sentences():
            page = self._batch.list_namespaced_job(
                self.namespace, label_selector=f"{JOB_NAME}={name}", _request_timeout=TIMEOUT
            )
        return self._plain(page.items)

    def pods(self, name: str) -> list[Object]:
        """The pods of an AlignTuneJob that are still there."""
        with self._sentences():
            page = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_NAME}={name}", _request_timeout=TIMEOUT
            )
        return self._plain(page.items)

    def create_pod(self, body: Object) -> str:
        """Creates a pod; its name."""
        with self._sentences():
            created = self._core.create_namespaced_pod(
                self.namespace, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT
            )
        return str(created.metadata.name)

    def delete_pod(self, name: str) -> None:
        """Deletes a pod at once."""
        with self._sentences():
            self._core.delete_namespaced_pod(
                name, self.namespace, grace_period_seconds=0, _request_timeout=TIMEOUT
            )

    def pod_changes(self, name: str, seconds: int) -> Iterator[Object]:
        """A pod, as it is and after every change, for so many seconds."""
        with self._sentences():
            events = watch.Watch().stream(
                self._core.list_namespaced_pod, self.namespace,
                field_selector=f"metadata.name={name}", timeout_seconds=seconds,
            )  # fmt: skip
            for event in events:
                yield event["raw_object"]

    def log(
        self,
        pod: str,
        *,
        container: str = TRAINER_CONTAINER,
        follow: bool = False,
        tail: int | None = None,
    ) -> Iterator[str]:
        """The lines of a container's log; it is connected when this returns."""
        with self._sentences():
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, follow=follow, tail_lines=tail,
                _preload_content=False, _request_timeout=STREAM_TIMEOUT,
            )  # fmt: skip
            self._check(answer)
        return self._read(answer.stream())

    def run_in(self, pod: str, command: Sequence[str]) -> Iterator[str]:
        """The lines that a command prints in the training container of a running pod; it runs when
        this returns.
        """
        # a client of its own: opening a websocket changes the client's methods for a moment
        own = client.CoreV1Api(client.ApiClient(self._connection.api.configuration))
        with self._sentences():
            socket = stream(
                own.connect_get_namespaced_pod_exec, pod, self.namespace,
                container=TRAINER_CONTAINER, command=list(command), stdout=True, stderr=True,
                _preload_content=False,
            )  # fmt: skip
        return self._read(_output(socket, pod))

    def _read(self, pieces: Iterator[bytes]) -> Iterator[str]:
        with self._sentences():
            yield from _lines(pieces)

    def _check(self, answer: Any) -> None:  # noqa: ANN401 - urllib3's, unread
        if answer.status >= HTTPStatus.BAD_REQUEST:
            said = answer.read().decode(errors="replace")
            raise refused(self._connection.server, answer.status, said)

    def _plain(self, items: object) -> list[Object]:
        plain: list[Object] = self._connection.api.sanitize_for_serialization(items)
        return plain

    @contextmanager
    def _sentences(self, *, expired_is_fine: bool = False) -> Iterator[None]:
        server = self._connection.server
        try:
            yield
        except client.ApiException as error:
            if expired_is_fine and error.status == HTTPStatus.GONE:
                return
            raise _told(server, error) from error
        except HTTPError as error:
            raise ClusterError(
                f"{server} cannot be reached ({_reason(error)}): is the cluster up, and is this"
                " the right --context?",
                ExitCode.TEMPORARY,
            ) from error


def _told(server: str, error: client.ApiException) -> ClusterError:
    if error.status:
        return refused(server, error.status, str(error.body or ""))
    # A websocket that was not opened: the answer is in the error behind this one.
    answer = error.__context__
    if status := getattr(answer, "status_code", None):
        body = getattr(answer, "resp_body", None) or b""
        return refused(server, status, body.decode(errors="replace"))
    return ClusterError(f"{server} does not let a command run there: {error.reason}. Try again")


def _output(socket: Any, pod: str) -> Iterator[bytes]:  # noqa: ANN401 - the client gives no type
    try:
        is_open = True
        while is_open:
            is_open = socket.is_open()
            if is_open:
                socket.update(timeout=1)
            for channel in (socket.read_stdout, socket.read_stderr):  # also what came with the end
                if text := channel(timeout=0):
                    yield text.encode()
        if socket.returncode == ExitCode.NOT_FOUND:
            raise ClusterError(
                f"pod {pod} does not have these files on its storage", ExitCode.NOT_FOUND
            )
        if socket.returncode not in ENDED_WELL:
            raise ClusterError(f"reading in pod {pod} ended with exit code {socket.returncode}")
    finally:
        socket.close()


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Whole lines from pieces that end anywhere."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _reason(error: HTTPError) -> str:
    """The innermost cause, in few words."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(getattr(cause, "strerror", None) or cause).lower()
