"""The API server: every request of the operator besides kopf's watch, and the only writes."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp

from aligntune.api import labels
from aligntune.api.status import AlignTuneJobStatus
from aligntune_operator.clock import timestamp
from aligntune_operator.observe import AlignTuneJobState, Key, Object, owner
from aligntune_operator.status.events import Posting

MANAGER = {"fieldManager": labels.FIELD_MANAGER}
STRICT = {"fieldValidation": "Strict"}
"""A field of a manifest's affinity that is misspelt is refused, instead of dropped."""
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30)
VERSIONED = re.compile(r"/v\d+\w*$")
LEASES = "apis/coordination.k8s.io/v1"
LIST_CHUNK = 500
SILENT_WATCH = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=90)
"""Of a watch: the API server sends a bookmark every minute if nothing else happens."""
LONGEST_MESSAGE = 1024


class ApiError(Exception):
    """The API server did not do what it was asked; trying again later may help."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None if it does not say."""


class GoneError(ApiError):
    """The object is not there, or is another one of the same name."""


class ConflictError(ApiError):
    """The object has changed meanwhile, or the name is taken."""


class RefusedError(ApiError):
    """The API server will not have this object: schema, admission, quota or rights."""


class ExpiredError(ApiError):
    """The API server has forgotten what came after that resource version."""


ERRORS: Mapping[int, type[ApiError]] = {
    HTTPStatus.NOT_FOUND: GoneError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.FORBIDDEN: RefusedError,
    HTTPStatus.UNPROCESSABLE_ENTITY: RefusedError,
    HTTPStatus.BAD_REQUEST: RefusedError,
    HTTPStatus.GONE: ExpiredError,
}


class NotLeadingError(Exception):
    """This process may not write any more: another may have begun to."""


class Kind(NamedTuple):
    """A kind of object that the operator lists."""

    api: str
    plural: str
    selector: Mapping[str, str]
    accept: str = "application/json"
    """`METADATA` where no more of each object is wanted."""


METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

ALIGN_TUNE_JOBS = Kind(f"apis/{labels.API_VERSION}", labels.PLURAL, {})
JOBS = Kind("apis/batch/v1", "jobs", {"labelSelector": labels.JOB_NAME})
PODS = Kind("api/v1", "pods", {"labelSelector": labels.JOB_NAME})
OTHERS_EVENTS = Kind("api/v1", "events", {"fieldSelector": f"involvedObject.kind!={labels.KIND}"})

CREATED: Mapping[str, tuple[str, str]] = {
    "Job": ("apis/batch/v1", "jobs"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Service": ("api/v1", "services"),
}
"""Kind -> its API and plural."""


class Change(NamedTuple):
    """What a watch tells."""

    type: str
    """ADDED, MODIFIED, DELETED; or BOOKMARK, of which only the version counts."""
    object: Object

    @property
    def version(self) -> int:
        """The resource version to go on from after a break."""
        return int(self.object["metadata"]["resourceVersion"])


Observer = Callable[[str, str, int], None]
"""Told of each request: verb, resource, status code."""

CorrectClock = Callable[[str, float], None]
"""Told of each answer: its HTTP date, and how many seconds it was waited for."""


class Cluster:
    """A small client for the kinds that the operator writes or lists.

    Args:
        session: With the operator's credentials.
        server: URL of the API server.
        observer: Told of each request.
        may_write: Asked before each write.
        correct_clock: Told of each answer.
        timeout: Of each request.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        observer: Observer,
        may_write: Callable[[], bool],
        *,
        correct_clock: CorrectClock = lambda *_: None,
        timeout: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> None:
        self._session = session
        self._server = server.rstrip("/")
        self._observer = observer
        self._may_write = may_write
        self._correct_clock = correct_clock
        self._timeout = timeout

    async def create(self, manifest: Object) -> Object:
        """Creates an object of an attempt, or takes over what an earlier life has created.

        Raises:
            ConflictError: The name is taken by somebody else's object, or by one that is being
                deleted.
            RefusedError: The API server will not have it.
        """
        api, plural = CREATED[manifest["kind"]]
        metadata = manifest["metadata"]
        path = f"{api}/namespaces/{metadata['namespace']}/{plural}"
        try:
            return await self._request("POST", path, plural, manifest, params=MANAGER | STRICT)
        except ConflictError:
            try:
                found = await self._request("GET", f"{path}/{metadata['name']}", plural)
            except GoneError:
                found = {"metadata": {}}
            theirs, ours = owner(found), owner(manifest)
            being_deleted = "deletionTimestamp" in found["metadata"]
            if being_deleted or not theirs or not ours or theirs["uid"] != ours["uid"]:
                raise
            return found

    async def delete_job(self, key: Key, name: str, uid: str) -> Object:
        """Deletes a Job; it stays visible until the last of its pods is gone.

        Returns:
            The Job, which is being deleted now.
        """
        return await self._delete(
            f"apis/batch/v1/namespaces/{key.namespace}/jobs/{name}", uid, "jobs"
        )

    async def delete_align_tune_job(self, key: Key, uid: str) -> None:
        """Deletes the AlignTuneJob; the garbage collector removes its children."""
        await self._delete(_path(key), uid, labels.PLURAL, "Background")

    async def write_status(self, state: AlignTuneJobState, status: AlignTuneJobStatus) -> Object:
        """Replaces the status of the very version of the object that it was computed from.

        Raises:
            ConflictError: The object has changed meanwhile.
            GoneError: It is not there any more.
        """
        body = {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "metadata": {
                "name": state.key.name,
                "namespace": state.key.namespace,
                "uid": state.uid,
                "resourceVersion": str(state.resource_version),
            },
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        return await self._request(
            "PUT",
            f"{_path(state.key)}/status",
            f"{labels.PLURAL}/status",
            body,
            params=MANAGER,
        )

    async def create_event(self, posting: Posting) -> None:
        """Publishes an Event about an AlignTuneJob; doing so again changes nothing."""
        key, event = posting.key, posting.event
        time = timestamp(posting.at)
        digest = hashlib.sha256(repr(posting).encode()).hexdigest()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{key.name}.{digest[:16]}",
                "namespace": key.namespace,
            },
            "involvedObject": {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "name": key.name,
                "namespace": key.namespace,
                "uid": posting.uid,
                "resourceVersion": str(posting.resource_version),
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:LONGEST_MESSAGE],
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
            "source": {"component": labels.FIELD_MANAGER},
            "reportingComponent": labels.FIELD_MANAGER,
        }
        # A conflict: it was written before, and the answer was lost.
        with suppress(ConflictError):
            await self._request("POST", f"api/v1/namespaces/{key.namespace}/events", "events", body)

    async def newest_events(self, namespace: str) -> Mapping[str, tuple[str, str]]:
        """UID -> when, and `Reason: message`, of the newest Event about each object.

        Those about AlignTuneJobs are left out.
        """
        newest: dict[str, tuple[str, str]] = {}

        def take(event: Object) -> None:
            uid = event["involvedObject"].get("uid", "")
            newest[uid] = max(newest.get(uid, ("", "")), _when_and_what(event))

        await self.list(OTHERS_EVENTS, namespace, take)
        return newest

    async def exists(self, namespace: str, api: str, plural: str, name: str) -> bool:
        """Whether an object is there to stay; True where the operator may not look.

        Args:
            namespace: Its namespace.
            api: Its API; without a version, in the one that the API server prefers.
            plural: Its resource.
            name: Its name.
        """
        try:
            if not VERSIONED.search(api):
                group = await self._request("GET", api, plural)
                api = f"apis/{group['preferredVersion']['groupVersion']}"
            found = await self._request(
                "GET", f"{api}/namespaces/{namespace}/{plural}/{name}", plural
            )
        except GoneError:
            return False
        except RefusedError:
            return True
        return "deletionTimestamp" not in found["metadata"]

    async def list(self, kind: Kind, namespace: str | None, take: Callable[[Object], None]) -> int:
        """Hands every object of a kind to `take`, in chunks.

        Args:
            kind: What to list.
            namespace: Where; None for everywhere.
            take: Called with each object.

        Returns:
            The resource version that the list is of.
        """
        path = _collection(kind, namespace)
        params = {"limit": str(LIST_CHUNK), **kind.selector}
        while True:
            page = await self._request("GET", path, kind.plural, params=params, accept=kind.accept)
            for item in page["items"] or ():  # null in an empty list of metadata
                take(item)
            token = page["metadata"].get("continue")
            if not token:
                return int(page["metadata"]["resourceVersion"])
            params["continue"] = token

    async def node_labels(self, label: str) -> Sequence[Mapping[str, str]]:
        """The labels of each node that has this one."""
        found = []
        nodes = Kind("api/v1", "nodes", {"labelSelector": label}, METADATA)
        await self.list(nodes, None, lambda node: found.append(node["metadata"]["labels"]))
        return found

    async def watch(self, kind: Kind, namespace: str | None, version: int) -> AsyncIterator[Change]:
        """What changes after a resource version, until the API server ends it.

        Args:
            kind: What to watch.
            namespace: Where; None for everywhere.
            version: That of a list, or of the last change seen.

        Raises:
            ExpiredError: That version is too old: list again.
            ApiError: The watch was refused, or broke.
        """
        params = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": str(version)}
        url = f"{self._server}/{_collection(kind, namespace)}"
        rest = b""
        try:
            async with self._session.get(
                url, params=params | dict(kind.selector), timeout=SILENT_WATCH
            ) as response:
                self._observer("WATCH", kind.plural, response.status)
                if not response.ok:
                    raise await _error(response)
                async for piece in response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        change = Change(**json.loads(line))
                        if change.type == "ERROR":
                            raise _watch_error(change.object)
                        yield change
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(0, f"the API server does not answer: {error!r}") from error

    async def read_lease(self, namespace: str, name: str) -> Object:
        """A Lease.

        Raises:
            GoneError: There is none.
        """
        path = f"{LEASES}/namespaces/{namespace}/leases/{name}"
        return await self._request("GET", path, "leases")

    async def write_lease(self, namespace: str, name: str, manifest: Object) -> Object:
        """Creates a Lease, or replaces the version that `manifest` was made from.

        Raises:
            ConflictError: It has changed, or was created, meanwhile.
        """
        folder = f"{LEASES}/namespaces/{namespace}/leases"
        known = "resourceVersion" in manifest["metadata"]
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": manifest["metadata"] | {"namespace": namespace, "name": name},
            "spec": manifest["spec"],
        }
        verb, path = ("PUT", f"{folder}/{name}") if known else ("POST", folder)
        return await self._request(verb, path, "leases", body, params=MANAGER)

    async def _delete(
        self, path: str, uid: str, resource: str, propagation: str = "Foreground"
    ) -> Object:
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        return await self._request("DELETE", path, resource, body)

    async def _request(
        self,
        verb: str,
        path: str,
        resource: str,
        body: Object | None = None,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
    ) -> dict[str, Any]:
        if verb != "GET" and not self._may_write():
            raise NotLeadingError(f"{verb} {resource}")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept} | ({"Content-Type": "application/json"} if data else {})
        clock = asyncio.get_running_loop().time
        asked = clock()
        try:
            async with self._session.request(
                verb,
                f"{self._server}/{path}",
                data=data,
                params=params,
                headers=headers,
                timeout=self._timeout,
            ) as response:
                self._observer(verb, resource, response.status)
                if response.ok:
                    self._correct_clock(response.headers.get("Date", ""), clock() - asked)
                    answer: dict[str, Any] = await response.json()
                    return answer
                raise await _error(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._observer(verb, resource, 0)
            raise ApiError(0, f"the API server does not answer: {error!r}") from error


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    text = (await response.text())[:4096]
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = response.reason or "no reason given"
    wait = response.headers.get("Retry-After", "")
    return ERRORS.get(response.status, ApiError)(
        response.status, message[:LONGEST_MESSAGE], float(wait) if wait.isdigit() else None
    )


def _watch_error(status: Object) -> ApiError:
    """The error that a watch ends with."""
    code = status.get("code", 0)
    return ERRORS.get(code, ApiError)(code, str(status.get("message"))[:LONGEST_MESSAGE])


def _when_and_what(event: Object) -> tuple[str, str]:
    """An Event's time, in a form that sorts, and its text; the newer API has other time fields."""
    series = event.get("series") or {}
    when = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    what = f"{event.get('reason', '')}: {event.get('message', '')}"
    return when or "", what[:LONGEST_MESSAGE]


def _collection(kind: Kind, namespace: str | None) -> str:
    scope = f"namespaces/{namespace}/" if namespace else ""
    return f"{kind.api}/{scope}{kind.plural}"


def _path(key: Key) -> str:
    return f"apis/{labels.API_VERSION}/namespaces/{key.namespace}/{labels.PLURAL}/{key.name}"
