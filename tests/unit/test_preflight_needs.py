"""What a job names that must be there before it starts."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import AlignTuneJobStatus, Attempts, Source
from aligntune_operator.observe import AlignTuneJobState, Key, queue_labels
from aligntune_operator.preflight import folder_in_use, needs
from aligntune_operator.settings import Settings


def test_everything_that_others_must_have_made_is_looked_for_once_and_no_secret() -> None:
    spec = AlignTuneJobSpec.parse(
        {
            "sft": {"model": {"fromJob": "chat"}, "datasets": [{"name": "d"}]},
            "runtime": {
                "serviceAccountName": "trainer",
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "key", "secret": {"secretName": "key"}},
                    {"name": "settings", "configMap": {"name": "settings"}},
                ],
            },
            "hub": {"tokenSecret": {"name": "hf", "key": "token"}},
            "storage": {"claimName": "models"},
        }
    )
    lineage = [
        Source(job="chat", uid="1", claim_name="models", path="chat/model"),
        Source(job="judge", uid="2", repo_id="acme/judge"),
    ]
    found = needs(spec, lineage, {"kueue.x-k8s.io/queue-name": "gpu"}, Settings(_env_file=None))
    assert [(need.kind, need.name) for need in found] == [
        ("PersistentVolumeClaim", "data"),
        ("PersistentVolumeClaim", "models"),
        ("ServiceAccount", "trainer"),
        ("LocalQueue", "gpu"),
    ]


@pytest.mark.parametrize(("queue", "handed_on"), [("gpu", True), ("", False)])
def test_kueues_labels_are_handed_on_only_with_the_name_of_a_queue(
    queue: str, *, handed_on: bool
) -> None:
    """Helm's `default ""` leaves an empty one, for which Kueue would never let a Job go."""
    found = {"kueue.x-k8s.io/queue-name": queue, "kueue.x-k8s.io/priority-class": "high"}
    assert queue_labels(found) == (found if handed_on else {})


def writer(name: str, minute: int, *, folder: str = "chat", begun: bool = False) -> Any:
    spec = {
        "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
        "storage": {"claimName": "models", "subPath": folder},
    }
    status = AlignTuneJobStatus(attempts=Attempts(current=int(begun)))
    created = datetime(2026, 11, 1, 12, minute, tzinfo=UTC)
    return AlignTuneJobState(Key("ns", name), name, 1, 1, created, False, spec, status)


def has_begun(job: AlignTuneJobState) -> bool:
    return job.status.attempts.current > 0


@pytest.mark.parametrize(
    ("job", "other", "waits"),
    [
        (writer("b", 1), writer("a", 0), True),
        (writer("a", 0), writer("b", 1), False),
        (writer("a", 0), writer("b", 1, begun=True), True),
        (writer("b", 1), writer("a", 0, folder="other"), False),
        (writer("b", 1, folder=""), writer("a", 0, folder=""), False),
        (writer("b", 1), writer("b", 1), False),
        (writer("b", 1), replace(writer("a", 0), deleting=True), False),
        (writer("b", 1), replace(writer("a", 0), key=Key("other", "a")), False),
    ],
)
def test_two_jobs_never_write_to_one_folder_and_the_older_goes_first(
    job: AlignTuneJobState, other: AlignTuneJobState, *, waits: bool
) -> None:
    told = folder_in_use(job, AlignTuneJobSpec.parse(job.spec), [other], has_begun)
    assert told.startswith(f"spec.storage.subPath: AlignTuneJob {other.key.name}, which") == waits


def test_stages_with_one_folder_do_not_wait_for_each_other() -> None:
    """The last was created first; the one that all start from goes on."""
    first, middle, last = (
        writer("sft", 2),
        replace(writer("dpo", 1, folder="other"), from_jobs=("sft",)),
        replace(writer("grpo", 0), from_jobs=("dpo",)),
    )
    spec = AlignTuneJobSpec.parse(first.spec)
    assert folder_in_use(first, spec, [first, middle, last], has_begun) == ""
    assert folder_in_use(first, spec, [first, replace(last, from_jobs=())], has_begun) != ""


def test_a_job_is_kept_out_of_the_folder_whose_model_it_starts_from() -> None:
    source = Source(job="sft", uid="1", claim_name="models", path="chat/model")
    job = replace(writer("dpo", 1), status=AlignTuneJobStatus(lineage=[source]))
    told = folder_in_use(job, AlignTuneJobSpec.parse(job.spec), [], has_begun)
    assert told.startswith("spec.storage.subPath: the model of AlignTuneJob sft, which this job")
    elsewhere = writer("dpo", 1, folder="chat-dpo")
    moved = replace(job, spec=elsewhere.spec)
    assert folder_in_use(moved, AlignTuneJobSpec.parse(moved.spec), [], has_begun) == ""
