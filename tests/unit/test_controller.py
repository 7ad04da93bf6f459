"""What one reconciliation writes, and in which order."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from aligntune.api.status import AlignTuneJobStatus
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import Cluster
from aligntune_operator.controller import MISSING_RETRY, Controller
from aligntune_operator.estimator import Estimator
from aligntune_operator.observe import AlignTuneJobState, Key
from aligntune_operator.settings import Settings

if TYPE_CHECKING:
    from aligntune_operator.hub import Hub

KEY = Key("ns", "chat")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Recorder(Cluster):
    """A stand-in for the API server, which takes everything."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.job: dict[str, Any] = {}
        self.object: dict[str, Any] = {
            "metadata": {
                "namespace": KEY.namespace,
                "name": KEY.name,
                "uid": "uid",
                "resourceVersion": "1",
                "generation": 1,
                "creationTimestamp": "2026-11-01T12:00:00Z",
            },
            "spec": {
                "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
                "storage": {"ephemeral": True},
            },
        }

    def _given(self) -> dict[str, str]:
        version = str(len(self.written) + 1)
        return {"uid": f"u{version}", "resourceVersion": version}

    def edit(self, field: str, value: Any) -> None:
        self.written.append(f"{field}: {value}")
        metadata = self.object["metadata"]
        changed = {
            "resourceVersion": self._given()["resourceVersion"],
            "generation": metadata["generation"] + 1,
        }
        self.object = self.object | {
            "metadata": metadata | changed,
            "spec": self.object["spec"] | {field: value},
        }

    async def create(self, manifest: Any) -> Any:
        self.written.append(manifest["kind"])
        created = {"creationTimestamp": "2026-11-01T12:00:00Z"} | self._given()
        self.job = dict(manifest) | {"metadata": manifest["metadata"] | created}
        return self.job

    async def delete_job(self, key: Key, name: str, uid: str) -> Any:
        assert (key, name, uid) == (KEY, self.job["metadata"]["name"], self.job["metadata"]["uid"])
        self.written.append("delete Job")
        changed = {
            "resourceVersion": self._given()["resourceVersion"],
            "deletionTimestamp": "2026-11-01T12:00:00Z",
        }
        return self.job | {"metadata": self.job["metadata"] | changed}

    async def write_status(self, state: AlignTuneJobState, status: AlignTuneJobStatus) -> Any:
        assert state.uid == "uid"
        self.written.append(f"status {status.phase}")
        self.attempts = status.attempts
        written = self._given() | {"uid": "uid"}
        told = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.object = self.object | {
            "metadata": self.object["metadata"] | written,
            "status": told,
        }
        return self.object


class Slow(Recorder):
    """The same, which tells only once it is let that a claim is there, and takes any status."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.object["spec"]["storage"] = {"claimName": "models", "subPath": "chat"}

    async def exists(self, *_: str) -> bool:
        self.asked.set()
        return await self.let.wait()

    async def write_status(self, state: AlignTuneJobState, status: AlignTuneJobStatus) -> Any:
        self.written.append(f"{state.key.name} {status.conditions[0].reason}")
        return {"metadata": {"namespace": "ns", "name": state.key.name, "uid": "not seen yet"}}


class World:
    """A controller of one AlignTuneJob that is new."""

    def __init__(self, cluster: Recorder | None = None) -> None:
        self.others_wait = False
        self.cluster, self.cache = cluster or Recorder(), Cache()
        no_hub = cast("Hub", None)  # no estimate is asked for
        self.cache.take_object(self.cluster.object)
        self.controller = Controller(
            self.cache,
            self.cluster,
            Settings(_env_file=None),
            lambda: NOW,
            estimator=Estimator(self.cluster, no_hub, lambda: NOW, random.Random(1)),
            post=lambda _: None,
            others_first=lambda: self.others_wait,
        )

    def edit(self, field: str, value: Any) -> None:
        """A person edits the spec; no watch tells of anything else."""
        self.cluster.edit(field, value)
        self.cache.take_object(self.cluster.object)


async def test_a_job_that_is_alone_is_told_at_once_that_it_starts() -> None:
    world = World()
    await world.controller.reconcile(KEY)
    assert world.cluster.written == ["Job", "status Starting"]


async def test_a_status_waits_for_other_new_jobs_but_not_beyond_its_next_turn() -> None:
    world = World()
    world.others_wait = True
    assert await world.controller.reconcile(KEY) == timedelta(0)
    assert world.cluster.written == ["Job"]
    assert not world.cache.is_new(KEY), "it does not come first again"
    await world.controller.reconcile(KEY)
    assert world.cluster.written == ["Job", "status Starting"]


async def test_a_suspension_is_in_the_status_before_the_pods_are_stopped_for_it() -> None:
    world = World()
    await world.controller.reconcile(KEY)
    world.edit("suspend", True)
    for _ in range(2):
        await world.controller.reconcile(KEY)
    assert world.cluster.written[2:5] == ["suspend: True", "status Starting", "delete Job"]
    assert world.cluster.attempts.history[0].reason == "Suspended"


async def test_a_suspension_taken_back_once_the_pods_are_being_stopped_stays_one() -> None:
    """Though no watch has told yet that they are."""
    world = World()
    await world.controller.reconcile(KEY)
    world.edit("suspend", True)
    for _ in range(2):
        await world.controller.reconcile(KEY)
    world.edit("suspend", False)
    await world.controller.reconcile(KEY)
    assert world.cluster.attempts.history[0].reason == "Suspended"


async def test_a_job_waits_for_a_younger_one_that_is_being_begun_in_the_same_folder() -> None:
    """Which came into the cache first, and of which no status tells yet."""
    cluster = Slow()
    world = World(cluster)
    begins = asyncio.create_task(world.controller.reconcile(KEY))
    await cluster.asked.wait()
    older = {"name": "other", "uid": "a"}
    world.cache.take_object(
        cluster.object | {"metadata": cluster.object["metadata"] | older, "status": {}}
    )
    other = Key("ns", "other")
    assert await asyncio.wait_for(world.controller.reconcile(other), 1) == MISSING_RETRY
    cluster.let.set()
    await begins
    await world.controller.reconcile(other)
    assert cluster.written == ["other FolderInUse", "Job", "chat Valid", "other FolderInUse"]


async def test_what_is_edited_before_a_status_tells_of_an_attempt_is_what_trains() -> None:
    """The API server still allows it then: nothing says yet that the spec is accepted."""
    world = World()
    world.others_wait = True
    await world.controller.reconcile(KEY)
    world.edit("backend", "unsloth")
    for _ in range(2):
        await world.controller.reconcile(KEY)
    world.cache.forget_job(world.cluster.job)
    for _ in range(2):
        await world.controller.reconcile(KEY)
    assert world.cluster.written == [
        *("Job", "backend: unsloth", "delete Job", "status Pending", "Job", "status Starting")
    ]
    config = world.cluster.job["spec"]["template"]["metadata"]["annotations"]["aligntune.io/config"]
    assert json.loads(config)["backend"] == "unsloth"
    assert [entry.attempt for entry in world.cluster.attempts.history] == [1]
