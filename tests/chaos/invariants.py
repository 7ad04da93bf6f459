"""What must hold after every fault, whatever it was."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

from aligntune.api.labels import ATTEMPT, JOB_NAME
from tests.chaos.world import EXPECTED, FINAL, World
from tests.cluster.control_plane import audit_log

OVER = ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")
FREE = {"Preempted", "NodeLost"}
LAST_CAUSE = {"wrong": "DataError"}
"""Why the last attempt of a job ends, by the beginning of its name; those of others succeed."""
CHILDREN = (("pods", "api/v1"), ("jobs", "apis/batch/v1"), ("services", "api/v1"))


Event = dict[str, Any]


@dataclass
class Attempt:
    """A Job that the API server's audit log tells of; numbers are lines of the log."""

    name: str
    number: int
    parent: str
    """Name of its AlignTuneJob."""
    created: int
    let_go: int | None = None
    """When it was over, or asked to be deleted."""


@dataclass
class PodRun:
    """A pod that ran; numbers are lines of the log."""

    name: str
    job: str
    """The Job that it belongs to: one attempt."""
    began: int
    ended: int | None = None


def check(world: World) -> None:
    """Waits until all jobs are at their ends, and then looks at the whole story."""
    world.until("every job is at its end", lambda: _at_their_ends(world))
    found = world.align_tune_jobs()
    wrong = {
        name: (one["status"]["phase"], one["status"].get("failure"))
        for name, one in found.items()
        if one["status"]["phase"] != EXPECTED[name.partition("-")[0]]
    }
    assert not wrong, f"wrong final status: {wrong}"

    log = audit_log(world.control_plane.state)
    attempts = attempts_of(log, world.namespace)
    ran = pods_that_ran(log, world.namespace)
    assert ran.keys() >= found.keys()
    beside = [*doubled(attempts), *overlapping(ran)]
    assert not beside, beside
    for name, one in found.items():
        told = one["status"]["attempts"]
        created = attempts[one["metadata"]["uid"]][-1].number
        assert created == told["current"], f"{name}: {created} attempts"
        struck = {number for job, number in world.struck if job == name}
        untrue = mistold(name, told, struck, world.lost_peer)
        assert not untrue, untrue
    for child in world.jobs():
        owners = [owner["uid"] for owner in child["metadata"].get("ownerReferences", ())]
        assert owners, f"{child['metadata']['name']} has no owner"

    for name in found:
        world.delete_job(name)
    for kind, api in CHILDREN:
        world.until(f"no {kind} left", lambda kind=kind, api=api: not world.every(kind, api))
    for replica in world.replicas:
        assert "Traceback" not in replica.log, replica.log
        assert " 422: " not in replica.log, replica.log


def doubled(attempts: dict[str, list[Attempt]]) -> Iterator[str]:
    """What is wrong with the attempts of each AlignTuneJob: one beside another, doubled, left out.

    Also those of AlignTuneJobs that are gone, beside those of others that have taken their names.
    """
    for uid, mine in attempts.items():
        numbers = [attempt.number for attempt in mine]
        if numbers != list(range(1, len(mine) + 1)):
            yield f"{uid}: attempts {numbers}"
    everyone = chain.from_iterable(attempts.values())
    for earlier, later in pairwise(sorted(everyone, key=lambda one: (one.parent, one.created))):
        beside = earlier.let_go is None or earlier.let_go > later.created
        if earlier.parent == later.parent and beside:
            yield f"{later} beside {earlier}"


def mistold(name: str, told: Event, struck: set[int], lost_peer: set[str]) -> str:
    """What is wrong with the causes and counters of a job that is over.

    Args:
        name: The job's, which says what its pods do.
        told: The attempts in its status.
        struck: Numbers of the attempts that a fault has ended.
        lost_peer: What a pod that loses its peer may be said to have ended of.
    """
    kind = name.partition("-")[0]
    reasons = {entry["attempt"]: entry["reason"] for entry in told["history"]}
    failed = {1} - struck if kind == "retried" else set[int]()
    if kind == "gang":  # how often it found no place, nobody can say beforehand
        failed, lost_peer = {*reasons} - {max(reasons)}, {"Unschedulable"}
    last = {LAST_CAUSE.get(kind, "Succeeded")}
    right = dict.fromkeys(range(1, len(struck | failed) + 2), last)
    right |= dict.fromkeys(failed, lost_peer) | dict.fromkeys(struck, FREE)
    as_it_was = (
        reasons.keys() == right.keys()
        and all(reason in right[number] for number, reason in reasons.items())
        and (told["restarts"], told["preemptions"]) == (len(failed), len(struck))
    )
    return "" if as_it_was else f"{name}, struck in {struck or 'none'}: {told}"


def overlapping(ran: Mapping[str, list[PodRun]]) -> Iterator[str]:
    """Pods of two attempts of one AlignTuneJob that ran at the same time.

    Not those of two that had the same name: the Job controller may give a Job a pod that is gone
    already, and no operator sees it come.
    """
    for name, runs in ran.items():
        for earlier, later in combinations(sorted(runs, key=lambda run: run.began), 2):
            beside = earlier.ended is None or earlier.ended > later.began
            one, other = earlier.job.rpartition("-"), later.job.rpartition("-")
            if beside and one[0] == other[0] and one[2] != other[2]:
                yield f"{name}: {later} beside {earlier}"


def pods_that_ran(log: Path, namespace: str) -> dict[str, list[PodRun]]:
    """The pods that ever ran in a namespace, by the name of their AlignTuneJob.

    One has stopped running when its status says so, or when its kubelet removes it: the deletion
    after the one that told it to end. One that was told to end before does not begin to run,
    though kwok may say so of one of whose deletion it has not heard.
    """
    found: dict[str, dict[str, PodRun]] = defaultdict(dict)
    told_to_end: set[str] = set()
    for place, event in enumerate(events_of(log, namespace)):
        pod = event.get("responseObject") or {}
        if not _done(event, "pods", namespace) or pod.get("kind") != "Pod":
            continue
        metadata, phase = pod["metadata"], pod["status"]["phase"]
        uid, runs = metadata["uid"], found[metadata["labels"][JOB_NAME]]
        told = "deletionTimestamp" in metadata or uid in told_to_end
        if phase == "Running" and uid not in runs and not told:
            runs[uid] = PodRun(metadata["name"], metadata["ownerReferences"][0]["name"], place)
        removed = event["verb"] == "delete" and uid in told_to_end
        if uid in runs and runs[uid].ended is None and (phase in FINAL or removed):
            runs[uid].ended = place
        if "deletionTimestamp" in metadata:
            told_to_end.add(uid)
    return {name: list(runs.values()) for name, runs in found.items()}


def _done(event: Event, resource: str, namespace: str) -> bool:
    reference, code = event.get("objectRef", {}), event.get("responseStatus", {}).get("code", 0)
    where = (reference.get("resource"), reference.get("namespace"))
    return where == (resource, namespace) and 200 <= code < 300


def _at_their_ends(world: World) -> bool:
    found = world.align_tune_jobs()
    return set(found) == set(world.names) and all(
        one.get("status", {}).get("phase") in FINAL for one in found.values()
    )


def attempts_of(log: Path, namespace: str) -> dict[str, list[Attempt]]:
    """The Jobs that were ever created in a namespace, by the UID of their AlignTuneJob.

    The first that is heard of a Job stands for its creation: the Job controller may be told of
    before that is, and an API server that is killed may not have written down what it did last.
    """
    found: dict[str, list[Attempt]] = defaultdict(list)
    by_name: dict[str, Attempt] = {}
    seen: set[str] = set()
    for place, event in enumerate(events_of(log, namespace)):
        reference, answer = event.get("objectRef", {}), event.get("responseObject") or {}
        if not _done(event, "jobs", namespace):
            continue
        metadata = answer["metadata"] if answer.get("kind") == "Job" else {}
        if metadata and metadata["uid"] not in seen:
            named = metadata["labels"]
            attempt = Attempt(metadata["name"], int(named[ATTEMPT]), named[JOB_NAME], place)
            found[metadata["ownerReferences"][0]["uid"]].append(attempt)
            by_name[attempt.name] = attempt
            seen.add(metadata["uid"])
        known = [by_name[name] for name in (reference.get("name"),) if name in by_name]
        if event["verb"] == "deletecollection":
            known = list(by_name.values())
        for attempt in known:
            if event["verb"].startswith("delete") or _is_over(answer):
                attempt.let_go = attempt.let_go or place
    return found


def events_of(log: Path, namespace: str) -> Iterator[Event]:
    """The audited requests that name a namespace: the log of a long soak has half a gigabyte.

    An API server that was killed in the middle of a line has left the beginning of one, behind
    which the next server's first line stands; one that runs may be in the middle of its last line.
    """
    named = f'"namespace":"{namespace}"'
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if named in line and line.endswith("\n"):
                yield json.loads(line[line.rindex('{"kind":"Event",') :])


def _is_over(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return any(one["type"] in OVER and one["status"] == "True" for one in conditions)
