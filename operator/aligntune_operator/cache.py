"""What the operator last saw of every AlignTuneJob, Job and pod, by AlignTuneJob."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

from aligntune.api import labels
from aligntune_operator.observe import (
    AlignTuneJobState,
    JobState,
    Key,
    Object,
    Observed,
    PodState,
    Poll,
    align_tune_job_state,
    job_state,
    observe,
    pod_state,
)

State = TypeVar("State", JobState, PodState)


class Cache:
    """Holds trimmed states; fed by watches and by the answers to the operator's own writes.

    Both may tell of the same change, in either order, so an older version never replaces a newer
    one. Resource versions of one kind compare as integers since Kubernetes 1.35 (KEP-5504), and
    did on every etcd-backed server before.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, AlignTuneJobState] = {}
        self._jobs: defaultdict[Key, dict[str, JobState]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, PodState]] = defaultdict(dict)
        self._polls: dict[Key, Poll] = {}
        self._refusals: dict[Key, str] = {}

    def object_seen(self, body: Object) -> Key:
        """Takes in an AlignTuneJob."""
        state = align_tune_job_state(body)
        known = self._objects.get(state.key)
        if known is None or known.resource_version <= state.resource_version:
            self._objects[state.key] = state
        return state.key

    def object_written(self, body: Object) -> None:
        """Takes in the answer to a write, unless the object was deleted before it came."""
        known = self._objects.get(Key(body["metadata"]["namespace"], body["metadata"]["name"]))
        if known is not None and known.uid == body["metadata"]["uid"]:
            self.object_seen(body)

    def object_gone(self, body: Object) -> Key:
        """Forgets an AlignTuneJob, unless another of the same name has taken its place."""
        key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
        known = self._objects.get(key)
        if known is not None and known.uid == body["metadata"]["uid"]:
            self.forget(key)
        return key

    def forget(self, key: Key) -> None:
        """Forgets an AlignTuneJob that is not there any more."""
        self._objects.pop(key, None)
        self._polls.pop(key, None)
        self._refusals.pop(key, None)

    def job_seen(self, body: Object) -> Key:
        """Takes in a Job."""
        key, state = _parent(body), job_state(body)
        known = self._jobs[key].get(state.name)
        if known is None or known.resource_version <= state.resource_version:
            self._jobs[key][state.name] = state
        return key

    def pod_seen(self, body: Object) -> Key:
        """Takes in a pod."""
        key, state = _parent(body), pod_state(body)
        known = self._pods[key].get(state.name)
        if known is None or known.resource_version <= state.resource_version:
            self._pods[key][state.name] = state
        return key

    def job_gone(self, body: Object) -> Key:
        """Forgets a Job."""
        return _remove(self._jobs, body)

    def pod_gone(self, body: Object) -> Key:
        """Forgets a pod."""
        return _remove(self._pods, body)

    def polled(self, key: Key, poll: Poll) -> None:
        """Takes in what a progress endpoint said, if its job is still there."""
        if key in self._objects:
            self._polls[key] = poll

    def refused(self, key: Key, message: str) -> None:
        """Remembers, or with an empty message forgets, why the API server refused the Job."""
        self._refusals[key] = message

    def observe(self, key: Key) -> Observed | None:
        """All that is known of one AlignTuneJob; None if there is none of that name.

        Jobs of an earlier AlignTuneJob of the same name, which the garbage collector is about to
        remove, are left out.
        """
        state = self._objects.get(key)
        if state is None:
            return None
        jobs = tuple(job for job in self._jobs.get(key, {}).values() if job.owner_uid == state.uid)
        return observe(
            state,
            jobs,
            tuple(self._pods.get(key, {}).values()),
            self._polls.get(key),
            self._refusals.get(key, ""),
        )

    def statuses(self) -> Iterator[AlignTuneJobState]:
        """Every AlignTuneJob."""
        return iter(tuple(self._objects.values()))

    def running_pods(self) -> Iterator[tuple[Key, PodState]]:
        """The pod of each job that can be asked for progress: the running one of index 0."""
        for key, state in tuple(self._objects.items()):
            ours = {j.uid for j in self._jobs.get(key, {}).values() if j.owner_uid == state.uid}
            for pod in self._pods.get(key, {}).values():
                if pod.job_uid in ours and pod.running and pod.index == 0 and pod.ip:
                    yield key, pod


def _parent(body: Object) -> Key:
    metadata = body["metadata"]
    return Key(metadata["namespace"], metadata["labels"][labels.JOB_NAME])


def _remove(states: dict[Key, dict[str, State]], body: Object) -> Key:
    key, name = _parent(body), body["metadata"]["name"]
    known = states.get(key, {})
    if name in known and known[name].uid == body["metadata"]["uid"]:
        del known[name]
    if not known:
        states.pop(key, None)
    return key
