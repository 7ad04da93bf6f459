"""What is known of one AlignTuneJob, its Jobs and pods: plain values, trimmed from API objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from aligntune.api import labels
from aligntune.api.conditions import Phase
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.progress import Outcome, Snapshot
from aligntune.api.status import AlignTuneJobStatus
from aligntune.core.backend_factory import check_supported
from aligntune.core.config.errors import mistakes
from aligntune.core.config.method import MODEL_FIELDS
from aligntune.core.errors import UnsupportedError

Object = Mapping[str, Any]

WITNESS_PATIENCE = timedelta(seconds=10)
"""How long after a Job's end its pods' last words are waited for: the watches are independent."""

NODE_LOST_TIMEOUT = timedelta(seconds=60)
"""How long after its grace period a deleted pod may go on existing: then its node is gone."""

LONGEST_NUMBER = 9
"""Digits of a number in a label or annotation; longer ones are not the operator's."""


class Key(NamedTuple):
    """Namespace and name of an AlignTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(body: Object) -> Key:
    """The key of an AlignTuneJob."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class AlignTuneJobState:
    """An AlignTuneJob as last seen; `spec` stays raw until a reconciliation needs it."""

    key: Key
    uid: str
    resource_version: int
    generation: int
    created: datetime
    deleting: bool
    spec: Mapping[str, Any]
    status: AlignTuneJobStatus
    queue_labels: Mapping[str, str] = field(default_factory=dict)
    """What Kueue is to know of it; empty where no queue manages it."""
    from_jobs: tuple[str, ...] = ()
    """AlignTuneJobs whose models it starts from, as far as it still waits for them."""
    unreadable: bool = False
    """The status is of a version that this one cannot read: nothing may be concluded from it."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A batch/v1 Job: one attempt."""

    name: str
    uid: str
    resource_version: int
    owner_uid: str
    """UID of its AlignTuneJob."""
    attempt: int
    created: datetime
    generation: int = 0
    """Its AlignTuneJob's when it was made; 0: not known."""
    image: str | None = None
    """The trainer's."""
    started: datetime | None = None
    """When it was last let go: anew each time that a queue resumes it."""
    suspended: bool = False
    """A queue holds it; it has no pods then, or they are stopping."""
    suspended_before: bool = False
    """It is or was suspended: its start is then the last time that it was let go."""
    suspended_since: datetime | None = None
    """When the Job controller took its pods for that; None: it has not, or has given new ones."""
    deleting: bool = False
    complete: bool = False
    failed_reason: str | None = None
    """Reason of the Failed condition; None while the Job has not failed."""
    failed_message: str = ""
    ended: datetime | None = None

    @property
    def active_since(self) -> datetime | None:
        """Since when it holds pods; None while a queue holds it.

        Let go, it is suspended in its status until the controller gives it pods and a new start.
        """
        waits = self.suspended and self.started is None
        if waits or self.suspended_since is not None:
            return None
        return self.let_go

    @property
    def let_go(self) -> datetime:
        """When it was last given pods: by its creation, or anew by a queue.

        The Job controller's own start is a moment after a creation, which is not worth a write of
        the status.
        """
        return (self.started if self.suspended_before else None) or self.created

    @property
    def over(self) -> bool:
        """Whether the attempt has ended by itself; its pods have all ended then.

        A Job that is being deleted fails because its pods are stopped, which is no end of its own.
        """
        return self.complete or (self.failed_reason is not None and not self.deleting)


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod of an attempt."""

    name: str
    uid: str
    resource_version: int
    job_uid: str
    index: int
    phase: str = "Pending"
    ip: str = ""
    running: bool = False
    """The trainer's container runs."""
    waiting: str = ""
    """Why the pod or its container does not run yet: `Reason: message`."""
    scheduled_at: datetime | None = None
    """When it was given a node; None: not yet."""
    disrupted: str = ""
    """Reason of the DisruptionTarget condition: evicted, preempted, its node drained or gone."""
    evicted: str = ""
    """What the kubelet says of its eviction."""
    lost_at: datetime | None = None
    """From when on a pod that is being deleted, and has not ended by then, counts as lost with its
    node. None: it is not being deleted."""
    terminated_reason: str = ""
    """The runtime's word for the end of the container: Completed, Error, OOMKilled."""
    exit_code: int | None = None
    message: str = ""
    """The termination message."""

    @property
    def started(self) -> bool:
        """Whether the trainer runs or has run."""
        return self.running or self.exit_code is not None or self.ended

    @property
    def ended(self) -> bool:
        """Whether nothing runs in it any more."""
        return self.phase in ("Succeeded", "Failed")

    def lost(self, now: datetime) -> bool:
        """Whether nobody is left to end it: its node is gone."""
        return not self.ended and self.lost_at is not None and now >= self.lost_at

    @property
    def outcome(self) -> Outcome | None:
        """The launcher's outcome, if the termination message is one."""
        try:
            return Outcome.model_validate_json(self.message)
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class Poll:
    """The last answer, or lack of one, of a pod's progress endpoint."""

    pod_uid: str
    at: datetime
    snapshot: Snapshot | None = None
    error: str = ""
    silent_since: datetime | None = None
    """The first of the failures in a row of which this is the last; None for an answer."""


class Explanation(NamedTuple):
    """What the Events of a Job and its pods say about why they do not start."""

    at: datetime
    message: str
    """`Reason: message` of the newest; empty where there is none."""


class Hindrance(NamedTuple):
    """Why the Job could not be created when it was last tried."""

    kind: Literal["in use", "missing", "too large", "refused", "failed"]
    """Another job writes to its folder, what it names is not there, it needs more memory than its
    GPUs have, the API server will not have it, or it did not answer as it should: then the next try
    may pass."""
    message: str


@dataclass(frozen=True)
class Observed:
    """Everything that a decision about one AlignTuneJob may depend on, besides the time."""

    object: AlignTuneJobState
    spec: AlignTuneJobSpec | None
    """None when the spec is invalid; `errors` says why."""
    errors: tuple[str, ...] = ()
    unsupported: str = ""
    """Why this version cannot run a spec that is valid; empty if it can."""
    jobs: tuple[JobState, ...] = ()
    pods: tuple[PodState, ...] = ()
    predecessors: tuple[JobState, ...] = ()
    """Jobs of earlier AlignTuneJobs of the same name, which the garbage collector will remove."""
    departed: tuple[PodState, ...] = ()
    """Pods that are gone while their Job is there, as they were last seen: one of each index."""
    poll: Poll | None = None
    hindrance: Hindrance | None = None
    """Why the Job could not be created; None if it could, or was not tried."""
    explanation: Explanation | None = None
    """Why the newest attempt does not start, when that was last asked."""
    shortage: str = ""
    """What memory the job needs, by an estimate since it began, that its GPUs have not."""
    sources: Mapping[str, AlignTuneJobState] = field(default_factory=dict)
    """The jobs that this one starts from and still waits for; those that are not there are not in
    it."""
    awaited: bool = False
    """Whether another job has yet to start from this one's model."""

    @property
    def accepted(self) -> bool:
        """Whether this operator can run the job."""
        return self.spec is not None and not self.unsupported

    @property
    def outdated(self) -> list[JobState]:
        """Jobs of a spec that was edited before a status told of an attempt: they do not count."""
        if self.object.status.attempts.current:
            return []
        return [job for job in self.jobs if 0 < job.generation < self.object.generation]

    @property
    def job(self) -> JobState | None:
        """The Job of the newest attempt; None if there is none, or it is gone."""
        outdated = self.outdated
        attempts = (job for job in self.jobs if job not in outdated)
        job = max(attempts, key=lambda job: job.attempt, default=None)
        known = self.object.status.attempts.current
        return job if job is not None and job.attempt >= known else None

    def writers(self, now: datetime) -> list[PodState]:
        """Pods, of whichever attempt or predecessor, that may still write to the storage."""
        return [pod for pod in self.pods if not pod.ended and not pod.lost(now)]

    @property
    def running_predecessors(self) -> list[JobState]:
        """Jobs of earlier AlignTuneJobs of this name that may still be given pods."""
        return [job for job in self.predecessors if not job.over and not job.deleting]

    @property
    def current_pods(self) -> tuple[PodState, ...]:
        """The pods of the newest attempt, by their index in the gang."""
        job = self.job
        pods = [pod for pod in self.pods if job is not None and pod.job_uid == job.uid]
        # A queue that lets a Job go again gives it new pods, beside what is left of the old.
        newest = {pod.index: pod for pod in sorted(pods, key=_age)}
        return tuple(newest[index] for index in sorted(newest))

    @property
    def witnesses(self) -> tuple[PodState, ...]:
        """Who can tell how the newest attempt ended: its pods, and those of them that are gone.

        The Job controller lets go of a failed pod before it says that the Job has failed.
        """
        job, pods = self.job, self.current_pods
        there = {pod.index for pod in pods}
        gone = (
            pod
            for pod in self.departed
            if job is not None and pod.job_uid == job.uid and pod.index not in there
        )
        return (*pods, *gone)

    @property
    def started(self) -> int:
        """How many pods of the newest attempt run or have run."""
        return sum(pod.started for pod in self.current_pods)

    @property
    def all_started(self) -> bool:
        """Whether every pod of the newest attempt runs or has run, since a queue let it go.

        A pod may be gone before its Job has failed: the phase remembers that it ran.
        """
        status, job = self.object.status, self.job
        if job is None or self.spec is None:
            return False
        same = job.active_since is not None and job.active_since == status.attempts.active_since
        if same and status.phase == Phase.RUNNING:
            return True
        return self.started == self.spec.runtime.nodes

    @property
    def current_poll(self) -> Poll | None:
        """The last answer of a pod of the newest attempt; another pod's does not count."""
        current = {pod.uid for pod in self.current_pods}
        return self.poll if self.poll is not None and self.poll.pod_uid in current else None


def _age(pod: PodState) -> tuple[bool, int]:
    return not pod.ended and pod.lost_at is None, pod.resource_version


def observe(
    state: AlignTuneJobState,
    jobs: tuple[JobState, ...] = (),
    pods: tuple[PodState, ...] = (),
    *,
    predecessors: tuple[JobState, ...] = (),
    departed: tuple[PodState, ...] = (),
    poll: Poll | None = None,
    hindrance: Hindrance | None = None,
    explanation: Explanation | None = None,
    shortage: str = "",
    sources: Mapping[str, AlignTuneJobState] | None = None,
    awaited: bool = False,
    cycle: tuple[str, ...] = (),
) -> Observed:
    """Puts the parts together, and validates the spec as the trainer will."""
    # Of a job that this version cannot run it tells no more: it may be another's that runs it.
    barely = Observed(state, None, jobs=jobs, pods=pods)
    errors: tuple[str, ...] = ()
    if cycle:
        errors = (f"fromJob: these jobs wait for each other: {' -> '.join(cycle)}",)
    try:
        spec = AlignTuneJobSpec.parse(state.spec)
    except ValidationError as error:
        errors = tuple(map(str, mistakes(error, AlignTuneJobSpec, "spec")))
    if errors:
        return replace(barely, errors=errors)
    try:
        check_supported(spec.backend, spec.method)
    except UnsupportedError as error:
        return replace(barely, spec=spec, unsupported=str(error))
    return replace(
        barely,
        spec=spec,
        predecessors=predecessors,
        departed=departed,
        poll=poll,
        hindrance=hindrance,
        explanation=explanation,
        shortage=shortage,
        sources=sources or {},
        awaited=awaited,
    )


def owner(body: Object) -> Object | None:
    """The ownerReference of the AlignTuneJob or Job that controls an object."""
    references = body["metadata"].get("ownerReferences", ())
    return next((r for r in references if r.get("controller")), None)


def align_tune_job_state(body: Object) -> AlignTuneJobState:
    """Trims an AlignTuneJob."""
    metadata = body["metadata"]
    status, unreadable = AlignTuneJobStatus(), False
    try:
        status = AlignTuneJobStatus.model_validate(body.get("status") or {})
    except ValidationError:
        unreadable = True
    from_jobs = _from_jobs(body["spec"])
    if {source.job for source in status.lineage} == set(from_jobs):
        from_jobs = ()
    else:
        # It was settled for another spec, which could still be edited then.
        status = status.model_copy(update={"lineage": []})
    return AlignTuneJobState(
        key=key_of(body),
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        generation=metadata["generation"],
        created=_time(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        spec=body["spec"],
        status=status,
        queue_labels=queue_labels(metadata.get("labels", {})),
        from_jobs=from_jobs,
        unreadable=unreadable,
    )


def _from_jobs(spec: Object) -> tuple[str, ...]:
    """The names of the jobs whose models a spec asks for, read without validating the rest."""
    methods = (spec.get(name) or {} for name in ("sft", "rl"))
    models = (method.get(name) or {} for method in methods for name in map(to_camel, MODEL_FIELDS))
    return tuple(dict.fromkeys(model["fromJob"] for model in models if model.get("fromJob")))


def queue_labels(found: Mapping[str, str]) -> dict[str, str]:
    """Those of an AlignTuneJob's labels that are for Kueue; none without a queue's name."""
    if not found.get(labels.QUEUE_NAME):
        return {}
    return {name: value for name, value in found.items() if name.startswith(labels.QUEUE_PREFIX)}


def job_state(body: Object) -> JobState:
    """Trims a Job."""
    metadata, status = body["metadata"], body.get("status", {})
    spec = body.get("spec", {})
    containers = spec.get("template", {}).get("spec", {}).get("containers", ())
    conditions = {c["type"]: c for c in status.get("conditions", ()) if c["status"] == "True"}
    failed, complete = conditions.get("Failed"), conditions.get("Complete")
    suspended = conditions.get("Suspended")
    end = failed or complete
    parent = owner(body)
    return JobState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        owner_uid=parent["uid"] if parent else "",
        attempt=_number(metadata["labels"].get(labels.ATTEMPT, "")),
        created=_time(metadata["creationTimestamp"]),
        generation=_number(metadata.get("annotations", {}).get(labels.GENERATION, "")),
        image=next((c["image"] for c in containers if c["name"] == labels.TRAINER_CONTAINER), None),
        started=_time(status["startTime"]) if "startTime" in status else None,
        suspended=bool(spec.get("suspend")),
        suspended_since=_time(suspended["lastTransitionTime"]) if suspended else None,
        suspended_before=any(c["type"] == "Suspended" for c in status.get("conditions", ())),
        deleting="deletionTimestamp" in metadata,
        complete=complete is not None,
        failed_reason=failed.get("reason", "") if failed else None,
        failed_message=failed.get("message", "") if failed else "",
        ended=_time(end["lastTransitionTime"]) if end else None,
    )


def pod_state(body: Object, node_lost_timeout: timedelta = NODE_LOST_TIMEOUT) -> PodState:
    """Trims a pod.

    Args:
        body: The pod.
        node_lost_timeout: How long after its grace period it may go on existing.
    """
    metadata, status = body["metadata"], body.get("status", {})
    container: Object = next(
        (
            c["state"]
            for c in status.get("containerStatuses", ())
            if c["name"] == labels.TRAINER_CONTAINER
        ),
        {},
    )
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    disrupted = conditions.get("DisruptionTarget", {})
    scheduled = conditions.get("PodScheduled", {})
    terminated = container.get("terminated") or {}
    job = owner(body)
    return PodState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        job_uid=job["uid"] if job else "",
        index=_number(metadata["labels"].get(labels.COMPLETION_INDEX, "")),
        phase=status.get("phase", "Pending"),
        ip=status.get("podIP", ""),
        running="running" in container,
        waiting=_waiting(container.get("waiting"), scheduled),
        scheduled_at=_time(scheduled["lastTransitionTime"])
        if scheduled.get("status") == "True" and "lastTransitionTime" in scheduled
        else None,
        disrupted=disrupted.get("reason", "") if disrupted.get("status") == "True" else "",
        evicted=status.get("message", "") if status.get("reason") == "Evicted" else "",
        lost_at=_time(metadata["deletionTimestamp"]) + node_lost_timeout
        if "deletionTimestamp" in metadata
        else None,
        terminated_reason=terminated.get("reason", "") or status.get("reason", ""),
        exit_code=terminated.get("exitCode"),
        message=terminated.get("message", "") or status.get("message", ""),
    )


def _waiting(container: Object | None, scheduled: Object) -> str:
    blocked = scheduled if scheduled.get("status") == "False" else container
    if not blocked or blocked.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return ""
    return f"{blocked['reason']}: {blocked.get('message', '')}".removesuffix(": ")


def _number(text: str) -> int:
    """A label's or annotation's number; 0 for those that somebody else has set."""
    return int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER else 0


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
