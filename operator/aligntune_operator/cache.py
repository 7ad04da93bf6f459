"""What the operator last saw of every AlignTuneJob, Job and pod, by AlignTuneJob."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar

from aligntune.api import labels
from aligntune_operator.observe import (
    NODE_LOST_TIMEOUT,
    AlignTuneJobState,
    Explanation,
    Hindrance,
    JobState,
    Key,
    Object,
    Observed,
    PodState,
    Poll,
    align_tune_job_state,
    job_state,
    key_of,
    observe,
    pod_state,
)
from aligntune_operator.stages import cycle

State = TypeVar("State", AlignTuneJobState, JobState, PodState)


class Store(Generic[State]):
    """Objects of one kind by UID, and the UIDs of each AlignTuneJob.

    Watches and the answers to the operator's own writes may tell of the same change, in either
    order, so an older version never replaces a newer one. Resource versions of one kind compare as
    integers since Kubernetes 1.35 (KEP-5504), and did on every etcd-backed server before.
    """

    def __init__(self) -> None:
        self._by_uid: dict[str, tuple[Key, State]] = {}
        self._uids: defaultdict[Key, set[str]] = defaultdict(set)

    def seen(self, key: Key, state: State) -> bool:
        """Takes in a state that `knows` has denied, also where it now belongs to another
        AlignTuneJob.

        Returns:
            Whether anything that decisions depend on is new.
        """
        known = self._by_uid.get(state.uid)
        self.gone(state.uid)
        self._by_uid[state.uid] = (key, state)
        self._uids[key].add(state.uid)
        return known is None or known != (
            key,
            replace(state, resource_version=known[1].resource_version),
        )

    def knows(self, body: Object) -> bool:
        """Whether it has seen this version of an object, or a newer one."""
        metadata = body["metadata"]
        known = self._by_uid.get(metadata["uid"])
        return known is not None and known[1].resource_version >= int(metadata["resourceVersion"])

    def gone(self, uid: str) -> None:
        """Forgets an object, if it is known."""
        known = self._by_uid.pop(uid, None)
        if known is None:
            return
        self._uids[known[0]].discard(uid)
        if not self._uids[known[0]]:
            del self._uids[known[0]]

    def of(self, key: Key) -> Iterator[State]:
        """The objects that belong to an AlignTuneJob."""
        return (self._by_uid[uid][1] for uid in self._uids.get(key, ()))

    def items(self) -> list[tuple[Key, State]]:
        """Every object with the AlignTuneJob that it belongs to."""
        return list(self._by_uid.values())

    def retain(self, namespace: str | None, uids: set[str], version: int) -> set[Key]:
        """Forgets what a complete list of that version did not show; returns whom it belonged to.

        Args:
            namespace: The one that was listed; None for all.
            uids: Those that the list showed.
            version: The list's resource version; objects seen since are newer.
        """
        vanished = {
            uid: key
            for uid, (key, state) in self._by_uid.items()
            if uid not in uids
            and state.resource_version <= version
            and namespace in (None, key.namespace)
        }
        for uid in vanished:
            self.gone(uid)
        return set(vanished.values())


class Cache:
    """All that decisions are made from.

    Args:
        node_lost_timeout: How long after its grace period a deleted pod may go on existing.
    """

    def __init__(self, node_lost_timeout: timedelta = NODE_LOST_TIMEOUT) -> None:
        self._node_lost_timeout = node_lost_timeout
        self.objects: Store[AlignTuneJobState] = Store()
        self.jobs: Store[JobState] = Store()
        self.pods: Store[PodState] = Store()
        self._polls: dict[Key, Poll] = {}
        self._hindrances: dict[Key, Hindrance] = {}
        self._explanations: dict[Key, Explanation] = {}
        self._shortages: dict[Key, str] = {}
        self._followers: defaultdict[Key, set[Key]] = defaultdict(set)

    def object_seen(self, body: Object) -> Key | None:
        """Takes in an AlignTuneJob; it is returned if anything that matters is new."""
        if self.objects.knows(body):
            return None
        state = align_tune_job_state(body)
        new = self.objects.seen(state.key, state)
        for name in state.from_jobs:
            self._followers[Key(state.key.namespace, name)].add(state.key)
        return state.key if new else None

    def job_seen(self, body: Object) -> Key | None:
        """Takes in a Job; whose it is is returned if anything that matters is new."""
        if self.jobs.knows(body):
            return None
        key = _parent(body)
        return key if self.jobs.seen(key, job_state(body)) else None

    def pod_seen(self, body: Object) -> Key | None:
        """Takes in a pod; whose it is is returned if anything that matters is new."""
        if self.pods.knows(body):
            return None
        key = _parent(body)
        return key if self.pods.seen(key, pod_state(body, self._node_lost_timeout)) else None

    def object_gone(self, body: Object) -> Key:
        """Forgets an AlignTuneJob, but not another of the same name that has taken its place."""
        key = key_of(body)
        self.objects.gone(body["metadata"]["uid"])
        self._polls.pop(key, None)
        self._hindrances.pop(key, None)
        self._explanations.pop(key, None)
        self._shortages.pop(key, None)
        return key

    def job_gone(self, body: Object) -> Key:
        """Forgets a Job."""
        self.jobs.gone(body["metadata"]["uid"])
        return _parent(body)

    def pod_gone(self, body: Object) -> Key:
        """Forgets a pod."""
        self.pods.gone(body["metadata"]["uid"])
        return _parent(body)

    def object_written(self, body: Object) -> None:
        """Takes in the answer to a write, unless the object was deleted before it came."""
        uid = body["metadata"]["uid"]
        if any(known.uid == uid for known in self.objects.of(key_of(body))):
            self.object_seen(body)

    def polled(self, key: Key, poll: Poll) -> None:
        """Takes in what a progress endpoint said, and since when it says nothing."""
        before = self._polls.get(key)
        if poll.error:
            same = before is not None and before.pod_uid == poll.pod_uid
            since = before.silent_since if before is not None and same else None
            poll = replace(poll, silent_since=since or poll.at)
        if any(self.objects.of(key)):
            self._polls[key] = poll

    def hindered(self, key: Key, hindrance: Hindrance | None) -> None:
        """Remembers why the Job could not be created, or with None that it could."""
        self._hindrances.pop(key, None)
        if hindrance is not None:
            self._hindrances[key] = hindrance

    def explained(self, key: Key, explanation: Explanation | None) -> None:
        """Remembers why the newest attempt does not start, or with None that it is to be asked."""
        self._explanations.pop(key, None)
        if explanation is not None:
            self._explanations[key] = explanation

    def short_of_memory(self, state: AlignTuneJobState, shortage: str) -> None:
        """Remembers that a job does not fit its GPUs, unless it was deleted meanwhile."""
        if any(known.uid == state.uid for known in self.objects.of(state.key)):
            self._shortages[state.key] = shortage

    def observe(self, key: Key) -> Observed | None:
        """All that is known of one AlignTuneJob; None if there is none of that name.

        Jobs of an earlier AlignTuneJob of the same name, which the garbage collector is about to
        remove, are left out.
        """
        state = self._object(key)
        if state is None:
            return None
        return observe(
            state,
            tuple(self._jobs_of(state)),
            tuple(self.pods.of(key)),
            poll=self._polls.get(key),
            hindrance=self._hindrances.get(key),
            explanation=self._explanations.get(key),
            shortage=self._shortages.get(key, ""),
            sources=dict(self._sources(state)),
            cycle=tuple(cycle(key.name, partial(self._waits_for, key.namespace))),
        )

    def is_new(self, key: Key) -> bool:
        """Whether nothing has been done about an AlignTuneJob yet."""
        state = self._object(key)
        return (
            state is not None
            and state.status.observed_generation is None
            and not any(self._jobs_of(state))
        )

    def followers(self, key: Key) -> Iterator[Key]:
        """The AlignTuneJobs that wait for this one's model."""
        for follower in tuple(self._followers.get(key, ())):
            if key.name in self._waits_for(follower.namespace, follower.name):
                yield follower
            else:
                self._followers[key].discard(follower)

    def statuses(self) -> Iterator[AlignTuneJobState]:
        """Every AlignTuneJob."""
        return (state for _, state in self.objects.items())

    def running_pods(self) -> Iterator[tuple[Key, PodState]]:
        """The pod of each job that can be asked for progress: the running one of index 0."""
        for key, state in self.objects.items():
            ours = {job.uid for job in self._jobs_of(state)}
            for pod in self.pods.of(key):
                if pod.job_uid in ours and pod.running and pod.index == 0 and pod.ip:
                    yield key, pod

    def _object(self, key: Key) -> AlignTuneJobState | None:
        """The AlignTuneJob of that name: the newest, while the end of another is not seen yet."""
        states = self.objects.of(key)
        return max(states, key=lambda state: state.resource_version, default=None)

    def _sources(self, state: AlignTuneJobState) -> Iterator[tuple[str, AlignTuneJobState]]:
        for name in state.from_jobs:
            source = self._object(Key(state.key.namespace, name))
            if source is not None:
                yield name, source

    def _waits_for(self, namespace: str, name: str) -> tuple[str, ...]:
        state = self._object(Key(namespace, name))
        return state.from_jobs if state is not None else ()

    def _jobs_of(self, state: AlignTuneJobState) -> Iterator[JobState]:
        return (job for job in self.jobs.of(state.key) if job.owner_uid == state.uid)


def _parent(body: Object) -> Key:
    metadata = body["metadata"]
    return Key(metadata["namespace"], metadata["labels"][labels.JOB_NAME])
