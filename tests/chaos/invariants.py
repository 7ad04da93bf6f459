"""What must hold after every fault, whatever it was."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aligntune.api.labels import ATTEMPT
from tests.chaos.world import EXPECTED, FINAL, World
from tests.cluster.control_plane import audit_log

OVER = ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")
CHILDREN = (("pods", "api/v1"), ("jobs", "apis/batch/v1"), ("services", "api/v1"))


@dataclass
class Attempt:
    """A Job that the API server's audit log tells of; numbers are lines of the log."""

    name: str
    number: int
    created: int
    let_go: int | None = None
    """When it was over, or asked to be deleted."""


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

    attempts = attempts_of(audit_log(world.control_plane.state), world.namespace)
    assert list(doubled(attempts)) == []
    for name, one in found.items():
        created = attempts[one["metadata"]["uid"]][-1].number
        assert created == one["status"]["attempts"]["current"], f"{name}: {created} attempts"
        assert created == 1 or not name.startswith("steady"), f"{name}: {created} attempts"
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

    Also those of AlignTuneJobs that are gone.
    """
    for uid, mine in attempts.items():
        numbers = [attempt.number for attempt in mine]
        if numbers != list(range(1, len(mine) + 1)):
            yield f"{uid}: attempts {numbers}"
        for earlier, later in pairwise(mine):
            if earlier.let_go is None or earlier.let_go > later.created:
                yield f"{uid}: {later} beside {earlier}"


def _at_their_ends(world: World) -> bool:
    found = world.align_tune_jobs()
    return set(found) == set(world.names) and all(
        one.get("status", {}).get("phase") in FINAL for one in found.values()
    )


def attempts_of(log: Path, namespace: str) -> dict[str, list[Attempt]]:
    """The Jobs that were ever created in a namespace, by the UID of their AlignTuneJob."""
    found: dict[str, list[Attempt]] = defaultdict(list)
    by_name: dict[str, Attempt] = {}
    for place, event in enumerate(events_of(log)):
        reference, answer = event.get("objectRef", {}), event.get("responseObject") or {}
        done = 200 <= event.get("responseStatus", {}).get("code", 0) < 300
        if reference.get("namespace") != namespace or not done:
            continue
        if event["verb"] == "create":
            metadata = answer["metadata"]
            attempt = Attempt(metadata["name"], int(metadata["labels"][ATTEMPT]), place)
            found[metadata["ownerReferences"][0]["uid"]].append(attempt)
            by_name[attempt.name] = attempt
            continue
        known = [by_name[name] for name in (reference.get("name"),) if name in by_name]
        if event["verb"] == "deletecollection":
            known = list(by_name.values())
        for attempt in known:
            if event["verb"].startswith("delete") or _is_over(answer):
                attempt.let_go = attempt.let_go or place
    return found


def events_of(log: Path) -> Iterator[dict[str, Any]]:
    """The audited requests.

    An API server that was killed in the middle of a line has left the beginning of one, behind
    which the next server's first line stands; one that runs may be in the middle of its last line.
    """
    for line in log.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line[line.rindex('{"kind":"Event",') :])


def _is_over(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return any(one["type"] in OVER and one["status"] == "True" for one in conditions)
