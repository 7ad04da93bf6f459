"""What people's tools ask of the API server."""

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeVar

from kubernetes import client, watch
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from aligntune.api.exit_codes import ExitCode
from aligntune.api.labels import GROUP, JOB_NAME, PLURAL, TRAINER_CONTAINER, VERSION
from aligntune.cluster.connection import Connection
from aligntune.cluster.errors import ClusterError, refusal
from aligntune.cluster.logs import unnumbered, unseen
from aligntune.cluster.patience import Tell, is_transient, patiently

FIELD_MANAGER = "aligntune"
"""Owner of the fields that a person sets with these tools."""

CONNECT_SECONDS = 10
TIMEOUT = (CONNECT_SECONDS, 30)
"""Seconds to connect, and between two bytes of an answer."""
STREAM_TIMEOUT = (CONNECT_SECONDS, 600)
"""The same for a log that is followed: a rank may be silent for minutes."""
WATCH_SECONDS = 60
"""How long one watch lasts before everything is listed again."""
POD_WATCH_SECONDS = 15
"""The same for a pod that is waited for, by a deadline."""
LATE_SECONDS = 5
"""How much later than it should a watch ends at most; silent for longer, its connection is dead."""
ENDED_WELL = (0, 128 + signal.SIGKILL)
"""Exit codes of a command that has printed all there was; one that follows a log is killed when the
container ends."""

Object = dict[str, Any]
Shown = TypeVar("Shown")
"""Which lines of a log were shown: the time of the last, or how many of each rank."""


class Cluster:
    """A namespace of a cluster; whatever goes wrong there is a `ClusterError`."""

    def __init__(self, connection: Connection) -> None:
        self.namespace = connection.namespace
        self._connection = connection
        self._objects = client.CustomObjectsApi(connection.api)
        self._core = client.CoreV1Api(connection.api)

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

    def changes(
        self, tell: Tell, name: str = "", watch_seconds: int = WATCH_SECONDS
    ) -> Iterator[list[Object]]:
        """The AlignTuneJobs of the namespace, or the one of that name, anew after every change.

        Args:
            tell: Told if the cluster, once it has answered, has to be waited for.
            name: The one; empty: all.
            watch_seconds: How long one watch lasts before everything is listed again.

        Raises:
            ClusterError: The cluster does not answer at first, or not any more for minutes.
        """
        where = (GROUP, VERSION, self.namespace, PLURAL)
        request = partial(self._objects.list_namespaced_custom_object, *where)
        return self._states(request, name, tell, watch_seconds)

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

    def pods(self, name: str) -> list[Object]:
        """The pods of an AlignTuneJob that are still there."""
        with self._sentences():
            page = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_NAME}={name}", _request_timeout=TIMEOUT
            )
        items: list[Object] = self._plain(page.items)
        return items

    def create_pod(self, body: Object) -> str:
        """Creates a pod; its name."""
        with self._sentences():
            created = self._core.create_namespaced_pod(
                self.namespace, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT
            )
        return str(created.metadata.name)

    def delete_pod(self, name: str) -> None:
        """Deletes a pod at once, unless somebody has."""
        try:
            with self._sentences():
                self._core.delete_namespaced_pod(
                    name, self.namespace, grace_period_seconds=0, _request_timeout=TIMEOUT
                )
        except ClusterError as error:
            if error.exit_code != ExitCode.NOT_FOUND:
                raise

    def pod_changes(self, tell: Tell, name: str) -> Iterator[Object]:
        """A pod, as it is and after every change; at least every few seconds.

        Raises:
            ClusterError: As `changes`, or the pod is deleted.
        """
        request = partial(self._core.list_namespaced_pod, self.namespace)
        for pods in self._states(request, name, tell, POD_WATCH_SECONDS):
            if not pods:
                raise ClusterError(f"pod {name} was deleted while it was waited for. Try again")
            yield pods[0]

    def log(self, pod: str, *, tail: int | None = None) -> Iterator[str]:
        """The lines of the training container's log; it is connected when this returns."""
        return self._log(pod, TRAINER_CONTAINER, tail=tail)

    def follow_log(
        self,
        tell: Tell,
        pod: str,
        *,
        container: str = TRAINER_CONTAINER,
        tail: int | None = None,
    ) -> Iterator[str]:
        """The lines of a container's log until it ends; connected when this returns.

        Where the connection is cut or silent for long, the log is read again, and what was shown of
        it is passed over.
        """

        def ask(shown: str) -> Iterator[tuple[str, str]]:
            newest = None if shown else tail
            return unseen(
                self._log(pod, container, tail=newest, follow=True, timestamps=True), shown
            )

        return _resume(ask, ask(""), "", tell)

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

    def follow_in(
        self, tell: Tell, pod: str, command: Callable[[Mapping[int, int]], Sequence[str]]
    ) -> Iterator[str]:
        """The lines that a command prints, as of `run_in`, each behind its rank and number.

        Where the connection is cut, the command is run again.

        Args:
            tell: Told if the cluster has to be waited for.
            pod: In which pod.
            command: It, where so many lines of each rank were shown before.
        """

        def ask(shown: Mapping[int, int]) -> Iterator[tuple[Mapping[int, int], str]]:
            return unnumbered(self.run_in(pod, command(shown)), shown)

        return _resume(ask, ask({}), {}, tell)

    def _states(
        self, request: Callable[..., Any], name: str, tell: Tell, watch_seconds: int
    ) -> Iterator[list[Object]]:
        """What a list holds, anew after every change."""
        selected = {"field_selector": f"metadata.name={name}"} if name else {}

        def ask() -> Object:
            with self._sentences():
                page: Object = self._plain(request(**selected, _request_timeout=TIMEOUT))
            return page

        page = ask()
        while True:
            known = {item["metadata"]["uid"]: item for item in page["items"]}
            yield list(known.values())
            changes = partial(
                watch.Watch().stream, request, **selected,
                resource_version=page["metadata"]["resourceVersion"],
                timeout_seconds=watch_seconds,
                _request_timeout=(CONNECT_SECONDS, watch_seconds + LATE_SECONDS),
            )  # fmt: skip
            for event in self._events(changes):
                body = event["raw_object"]
                if event["type"] == "DELETED":
                    known.pop(body["metadata"]["uid"], None)
                else:
                    known[body["metadata"]["uid"]] = body
                yield list(known.values())
            page = patiently(ask, tell)

    def _events(self, changes: Callable[[], Iterator[Object]]) -> Iterator[Object]:
        """Those of a watch, which ends as well where it is cut, silent or too old: the list that
        follows makes up for it.
        """
        try:
            with self._sentences():
                yield from changes()
        except ClusterError as error:
            if not is_transient(error):
                raise

    def _log(self, pod: str, container: str, *, tail: int | None, **how: bool) -> Iterator[str]:
        with self._sentences():
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, tail_lines=tail, **how,
                _preload_content=False, _request_timeout=STREAM_TIMEOUT,
            )  # fmt: skip
            self._check(answer)
        return self._read(answer.stream())

    def _read(self, pieces: Iterator[bytes]) -> Iterator[str]:
        with self._sentences():
            yield from _lines(pieces)

    def _check(self, answer: Any) -> None:  # noqa: ANN401 - urllib3's, unread
        if answer.status >= HTTPStatus.BAD_REQUEST:
            said = answer.read().decode(errors="replace")
            raise refusal(self._connection.server, answer.status, said)

    def _plain(self, answer: object) -> Any:  # noqa: ANN401 - of the shape of the answer
        return self._connection.api.sanitize_for_serialization(answer)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        server = self._connection.server
        try:
            yield
        except client.ApiException as error:
            raise _cluster_error(server, error) from error
        except (HTTPError, WebSocketException, OSError) as error:
            raise ClusterError(
                f"{server} cannot be reached ({_reason(error)}): is the cluster up, and is this"
                " the right --context?",
                ExitCode.TEMPORARY,
            ) from error


def _resume(
    ask: Callable[[Shown], Iterator[tuple[Shown, str]]],
    lines: Iterator[tuple[Shown, str]],
    shown: Shown,
    tell: Tell,
) -> Iterator[str]:
    """Lines until they end; where they break off, they are asked for anew.

    Args:
        ask: Asks for the lines after those that were shown, each with what is shown with it.
        lines: What it has answered first.
        shown: What was shown before.
        tell: Told if the cluster has to be waited for.
    """
    while True:
        try:
            for with_it, line in lines:
                shown = with_it
                yield line
        except ClusterError as error:
            if not is_transient(error):
                raise
            lines = patiently(partial(ask, shown), tell)
        else:
            return


def _cluster_error(server: str, error: client.ApiException) -> ClusterError:
    if error.status:
        return refusal(server, error.status, str(error.body or ""))
    # A websocket that was not opened: the answer is in the error behind this one.
    answer = error.__context__
    if status := getattr(answer, "status_code", None):
        body = getattr(answer, "resp_body", None) or b""
        return refusal(server, status, body.decode(errors="replace"))
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
        if not socket.peek_channel(ERROR_CHANNEL):  # on which the end of the command is told
            raise ClusterError(f"the connection to pod {pod} was cut. Try again")
        if socket.returncode == ExitCode.NOT_FOUND:
            raise ClusterError(
                f"pod {pod} does not have these files on its storage", ExitCode.NOT_FOUND
            )
        if socket.returncode not in ENDED_WELL:
            raise ClusterError(
                f"reading in pod {pod} ended with exit code {socket.returncode}", ExitCode.SOFTWARE
            )
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


def _reason(error: Exception) -> str:
    """The innermost cause, in few words."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(getattr(cause, "strerror", None) or cause).lower()
