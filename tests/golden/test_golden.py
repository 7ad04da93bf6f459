"""Golden pairs: what was observed of a job, and the objects, actions, status and Events from it.

Each folder is a case. `job.yaml` is the manifest; `observed.yaml`, where there is one, holds the
Jobs, pods and progress seen, and the time. Everything else is the expected output, rewritten by
`make golden`.
"""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aligntune.api.progress import Snapshot
from aligntune.core.config.base import Section
from aligntune_operator.observe import (
    Explanation,
    Hindrance,
    Observed,
    Poll,
    align_tune_job_state,
    job_state,
    observe,
    pod_state,
)
from aligntune_operator.plan import CreateJob, plan
from aligntune_operator.render.job import job
from aligntune_operator.render.shared import shared_objects
from aligntune_operator.settings import Settings
from aligntune_operator.status.events import events
from aligntune_operator.status.reduce import reduce_status

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/job.yaml"))
UID = "0b2c5a52-5f0e-4d7c-9a6e-6f0c3a1d2e4f"
CREATED = "2026-11-01T12:00:00Z"


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path) if path.exists() else {}


def observed_in(case: Path) -> tuple[Observed, datetime]:
    seen = load(case / "observed.yaml")
    manifest = load(case / "job.yaml")
    manifest["metadata"] |= {
        "uid": UID,
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": CREATED,
        "namespace": manifest["metadata"].get("namespace", "default"),
    }
    manifest["status"] = seen.get("status", {})
    poll = seen.get("poll")
    return observe(
        align_tune_job_state(manifest),
        tuple(job_state(body) for body in seen.get("jobs", ())),
        tuple(pod_state(body) for body in seen.get("pods", ())),
        predecessors=tuple(job_state(body) for body in seen.get("predecessors", ())),
        departed=tuple(pod_state(body) for body in seen.get("departed", ())),
        poll=poll
        and Poll(
            pod_uid=poll["podUid"],
            at=datetime.fromisoformat(poll["at"]),
            snapshot=Snapshot.parse(poll["snapshot"]) if "snapshot" in poll else None,
            error=poll.get("error", ""),
            silent_since=datetime.fromisoformat(poll["silentSince"])
            if "silentSince" in poll
            else None,
        ),
        hindrance=Hindrance(**seen["hindrance"]) if "hindrance" in seen else None,
        explanation=Explanation(
            datetime.fromisoformat(seen["explanation"]["at"]), seen["explanation"]["message"]
        )
        if "explanation" in seen
        else None,
        shortage=seen.get("shortage", ""),
        sources={
            body["metadata"]["name"]: align_tune_job_state(body) for body in seen.get("sources", ())
        },
    ), datetime.fromisoformat(seen.get("now", "2026-11-01T12:00:01Z"))


def plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, Section) else value


def outputs(case: Path) -> dict[str, Any]:
    observed, now = observed_in(case)
    before = observed.object.status
    after = reduce_status(observed, now)
    actions = plan(observed, now)
    written: dict[str, Any] = {
        "actions": [{type(action).__name__: asdict(action)} for action in actions],
        "status": plain(after),
        "events": [event._asdict() for event in events(before, after)],
    }
    created = [action for action in actions if isinstance(action, CreateJob)]
    if created and observed.spec is not None:
        key = observed.object.key
        settings = Settings(_env_file=None, **load(case / "observed.yaml").get("settings", {}))
        written["objects"] = [
            *shared_objects(key, UID, observed.spec, settings),
            job(
                key,
                UID,
                observed.spec,
                created[0].attempt,
                settings,
                generation=observed.object.generation,
                earlier=before.attempts,
                lineage=before.lineage,
                queue_labels=observed.object.queue_labels,
            ),
        ]
    return written


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_observed_leads_to_exactly_this(
    case: Path, request: pytest.FixtureRequest
) -> None:
    written = outputs(case)
    stale = {file.stem for file in case.glob("*.yaml")} - {"job", "observed", *written}
    assert not stale, f"{case.name}: nothing of this is made: {stale}"
    for name, value in written.items():
        file = case / f"{name}.yaml"
        if request.config.getoption("--rewrite-golden"):
            YAML().dump(value, file)
        assert load(file) == load_back(value), f"{file} differs; see `make golden`"


def load_back(value: Any) -> Any:
    """The value as a YAML file would give it back."""
    from io import StringIO

    stream = StringIO()
    YAML().dump(value, stream)
    return YAML(typ="safe").load(stream.getvalue())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_status_that_was_written_changes_nothing_more(case: Path) -> None:
    from dataclasses import replace

    observed, now = observed_in(case)
    after = reduce_status(observed, now)
    again = replace(observed, object=replace(observed.object, status=after))
    assert reduce_status(again, now) == after
