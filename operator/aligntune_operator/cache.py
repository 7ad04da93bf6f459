"""What the operator last saw of every AlignTuneJob, Job and pod, by AlignTuneJob."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from aligntune_operator.stages import find_path
from aligntune_operator.status.conditions import finished

State = TypeVar("State", AlignTuneJobState, JobState, PodState)
Note = TypeVar("Note", Hindrance, Explanation, str)


class Store(Generic[State]):
    """Objects of one kind by UID, and the UIDs of each AlignTuneJob.

    Watches and the answers to the operator's own writes may tell of the same change, in either
    order, so an older version never replaces a newer one. Resource versions of one kind compare as
    integers since Kubernetes 1.35 (KEP-5504), and did on every etcd-backed server before.

    Args:
        on_forget: Told of the last state of each object that is gone, whoever noticed it.
    """

    def __init__(self, on_forget: Callable[[State], None]) -> None:
        self._on_forget: Callable[[State], None] = on_forget
        self._by_uid: dict[str, tuple[Key, State]] = {}
        self._uids: defaultdict[Key, set[str]] = defaultdict(set)
        self._lists = 0
        self._went: set[str] = set()
        """What went while a list is read."""

    @contextmanager
    def listing(self) -> Iterator[None]:
        """While a list is read: it may still show what is deleted meanwhile."""
        self._lists += 1
        try:
            yield
        finally:
            self._lists -= 1
            if not self._lists:
                self._went.clear()

    def take(self, key: Key, body: Object, parse: Callable[[Object], State]) -> bool:
        """Takes in an object, unless this version of it, a newer one, or its end is known.

        Args:
            key: The AlignTuneJob that it belongs to, which may have been another before.
            body: The object.
            parse: Trims it to what decisions depend on.

        Returns:
            Whether anything that they depend on is new.
        """
        metadata = body["metadata"]
        if metadata["uid"] in self._went:
            return False
        known = self._by_uid.get(metadata["uid"])
        if known is not None and known[1].resource_version >= int(metadata["resourceVersion"]):
            return False
        state = parse(body)
        self._drop(state.uid)
        self._by_uid[state.uid] = (key, state)
        self._uids[key].add(state.uid)
        return known is None or known != (
            key,
            replace(state, resource_version=known[1].resource_version),
        )

    def forget(self, uid: str) -> None:
        """Forgets an object, if it is known."""
        if self._lists:
            self._went.add(uid)
        known = self._drop(uid)
        if known is not None:
            self._on_forget(known)

    def has(self, uid: str) -> bool:
        """Whether an object is known."""
        return uid in self._by_uid

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
            self.forget(uid)
        return set(vanished.values())

    def _drop(self, uid: str) -> State | None:
        """The state of what was dropped; None if it was not known."""
        known = self._by_uid.pop(uid, None)
        if known is None:
            return None
        key, state = known
        self._uids[key].discard(uid)
        if not self._uids[key]:
            del self._uids[key]
        return state


class Cache:
    """All that decisions are made from.

    Args:
        node_lost_timeout: How long after its grace period a deleted pod may go on existing.
    """

    def __init__(self, node_lost_timeout: timedelta = NODE_LOST_TIMEOUT) -> None:
        self._node_lost_timeout = node_lost_timeout
        self.objects: Store[AlignTuneJobState] = Store(self._drop_notes)
        self.jobs: Store[JobState] = Store(self._drop_departed)
        self.pods: Store[PodState] = Store(self._keep_departed)
        # By UID, so that nothing said of a job reaches another that takes its name.
        self._polls: dict[str, Poll] = {}
        self._hindrances: dict[str, Hindrance] = {}
        self._explanations: dict[str, Explanation] = {}
        self._shortages: dict[str, str] = {}
        self._departed: defaultdict[str, dict[int, PodState]] = defaultdict(dict)
        """The last pods that are gone, by their Job, as long as that is there, and their index."""
        self._followers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._held: set[str] = set()

    def hold(self, namespace: str) -> None:
        """Shows nothing of a namespace until `release`: what is there is not known, or not yet."""
        self._held.add(namespace)

    def release(self, namespace: str) -> list[Key]:
        """Shows a namespace that is known now; returns the AlignTuneJobs to look at."""
        self._held.discard(namespace)
        return [key for key, _ in self.objects.items() if key.namespace == namespace]

    def take_object(self, body: Object) -> Key | None:
        """Takes in an AlignTuneJob; it is returned if anything that matters is new."""
        key = key_of(body)
        new = self.objects.take(key, body, align_tune_job_state)
        for name in self._waits_for(key.namespace, key.name):
            self._followers[Key(key.namespace, name)].add(key)
        return key if new else None

    def take_job(self, body: Object) -> Key | None:
        """Takes in a Job; whose it is is returned if anything that matters is new."""
        key = _parent(body)
        return key if self.jobs.take(key, body, job_state) else None

    def take_pod(self, body: Object) -> Key | None:
        """Takes in a pod; whose it is is returned if anything that matters is new."""
        key = _parent(body)
        parse = partial(pod_state, node_lost_timeout=self._node_lost_timeout)
        return key if self.pods.take(key, body, parse) else None

    def forget_object(self, body: Object) -> Key:
        """Forgets an AlignTuneJob, but not another of the same name that has taken its place."""
        self.objects.forget(body["metadata"]["uid"])
        return key_of(body)

    def forget_job(self, body: Object) -> Key:
        """Forgets a Job."""
        self.jobs.forget(body["metadata"]["uid"])
        return _parent(body)

    def forget_pod(self, body: Object) -> Key:
        """Forgets a pod, but for what its Job's end may yet be explained with."""
        self.take_pod(body)  # its last words
        self.pods.forget(body["metadata"]["uid"])
        return _parent(body)

    def take_written(self, body: Object) -> None:
        """Takes in the answer to a write, unless the object was deleted before it came."""
        uid = body["metadata"]["uid"]
        if any(known.uid == uid for known in self.objects.of(key_of(body))):
            self.take_object(body)

    def take_deleted_job(self, uid: str, answer: Object) -> None:
        """Takes in the answer to a Job's deletion: the Job, unless it was gone with that."""
        if answer["metadata"].get("uid") == uid and self.jobs.has(uid):
            self.take_job(answer)

    def take_poll(self, key: Key, poll: Poll) -> None:
        """Takes in what a progress endpoint said, and since when it says nothing."""
        state = self._object(key)
        if state is None:
            return
        before = self._polls.get(state.uid)
        if poll.error:
            same = before is not None and before.pod_uid == poll.pod_uid
            since = before.silent_since if before is not None and same else None
            poll = replace(poll, silent_since=since or poll.at)
        self._polls[state.uid] = poll

    def note_hindrance(self, uid: str, hindrance: Hindrance | None) -> None:
        """Remembers why the Job could not be created, or with None that it could."""
        self._remember(self._hindrances, uid, hindrance)

    def note_explanation(self, uid: str, explanation: Explanation | None) -> None:
        """Remembers why the newest attempt does not start, or with None that it is to be asked."""
        self._remember(self._explanations, uid, explanation)

    def note_shortage(self, uid: str, shortage: str) -> None:
        """Remembers that a job does not fit its GPUs."""
        self._remember(self._shortages, uid, shortage)

    def observe(self, key: Key) -> Observed | None:
        """All that is known of one AlignTuneJob; None if there is none of that name, or not yet."""
        state = self._object(key)
        if state is None or key.namespace in self._held:
            return None
        return observe(
            state,
            tuple(self._jobs_of(state)),
            tuple(self.pods.of(key)),
            predecessors=tuple(self._jobs_of_predecessors(state)),
            departed=tuple(self._departed_of(state)),
            poll=self._polls.get(state.uid),
            hindrance=self._hindrances.get(state.uid),
            explanation=self._explanations.get(state.uid),
            shortage=self._shortages.get(state.uid, ""),
            sources=dict(self._sources(state)),
            awaited=any(self._waits(follower) for follower in self.followers(key)),
            cycle=tuple(find_path(key.name, key.name, partial(self._waits_for, key.namespace))),
        )

    def is_new(self, key: Key) -> bool:
        """Whether nothing has been done about an AlignTuneJob yet."""
        state = self._object(key)
        return (
            state is not None
            and state.status.observed_generation is None
            and not any(self._jobs_of(state))
        )

    def has_begun(self, state: AlignTuneJobState) -> bool:
        """Whether an AlignTuneJob has had an attempt, be it one that no status tells of yet."""
        return state.status.attempts.current > 0 or any(self._jobs_of(state))

    def followers(self, key: Key) -> Iterator[Key]:
        """The AlignTuneJobs that wait for this one's model."""
        for follower in tuple(self._followers.get(key, ())):
            if key.name in self._waits_for(follower.namespace, follower.name):
                yield follower
            else:
                self._unfollow(key, follower)

    def align_tune_jobs(self) -> Iterator[AlignTuneJobState]:
        """Every AlignTuneJob."""
        return (state for key, state in self.objects.items() if key.namespace not in self._held)

    def running_pods(self) -> Iterator[tuple[Key, PodState]]:
        """The pod of each job that can be asked for progress: the running one of index 0."""
        for key, pod in self.pods.items():
            # First what a finished job is passed over for: most are, and this is asked often.
            if pod.running and pod.index == 0 and pod.ip and key.namespace not in self._held:
                state = self._object(key)
                ours = self._jobs_of(state) if state is not None else ()
                if any(job.uid == pod.job_uid for job in ours):
                    yield key, pod

    def _object(self, key: Key) -> AlignTuneJobState | None:
        """The AlignTuneJob of that name: the newest, while the end of another is not seen yet."""
        states = self.objects.of(key)
        return max(states, key=lambda state: state.resource_version, default=None)

    def _remember(self, notes: dict[str, Note], uid: str, note: Note | None) -> None:
        """Notes something of an AlignTuneJob, unless it was deleted meanwhile."""
        notes.pop(uid, None)
        if note is not None and self.objects.has(uid):
            notes[uid] = note

    def _drop_notes(self, state: AlignTuneJobState) -> None:
        for notes in (self._polls, self._hindrances, self._explanations, self._shortages):
            notes.pop(state.uid, None)
        for name in state.from_jobs:
            if name not in self._waits_for(state.key.namespace, state.key.name):
                self._unfollow(Key(state.key.namespace, name), state.key)

    def _unfollow(self, key: Key, follower: Key) -> None:
        self._followers[key].discard(follower)
        if not self._followers[key]:
            del self._followers[key]

    def _drop_departed(self, job: JobState) -> None:
        self._departed.pop(job.uid, None)

    def _keep_departed(self, pod: PodState) -> None:
        if self.jobs.has(pod.job_uid):
            self._departed[pod.job_uid][pod.index] = pod

    def _departed_of(self, state: AlignTuneJobState) -> Iterator[PodState]:
        for job in self._jobs_of(state):
            yield from self._departed.get(job.uid, {}).values()

    def _sources(self, state: AlignTuneJobState) -> Iterator[tuple[str, AlignTuneJobState]]:
        for name in state.from_jobs:
            source = self._object(Key(state.key.namespace, name))
            if source is not None:
                yield name, source

    def _waits(self, key: Key) -> bool:
        state = self._object(key)
        return state is not None and not state.deleting and not finished(state.status)

    def _waits_for(self, namespace: str, name: str) -> tuple[str, ...]:
        state = self._object(Key(namespace, name))
        return state.from_jobs if state is not None else ()

    def _jobs_of(self, state: AlignTuneJobState) -> Iterator[JobState]:
        return (job for job in self.jobs.of(state.key) if job.owner_uid == state.uid)

    def _jobs_of_predecessors(self, state: AlignTuneJobState) -> Iterator[JobState]:
        """Those of earlier AlignTuneJobs of the same name; nobody's were left there on purpose."""
        return (
            job for job in self.jobs.of(state.key) if job.owner_uid and job.owner_uid != state.uid
        )


def _parent(body: Object) -> Key:
    metadata = body["metadata"]
    return Key(metadata["namespace"], metadata["labels"][labels.JOB_NAME])
