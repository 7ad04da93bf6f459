from typing import Any

from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key

KEY = Key("ns", "chat")


def align_tune_job(uid: str = "uid", version: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ns",
            "name": "chat",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2026-11-01T12:00:00Z",
        },
        "spec": {},
        "status": status,
    }


def child(name: str, version: int = 1, owner: str = "uid", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"{name}-uid",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-01T12:00:00Z",
            "labels": {"aligntune.io/job-name": "chat"} | labels,
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
    }


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job(version=9, phase="Running"))
    cache.object_seen(align_tune_job(version=10, phase="Succeeded"))
    cache.object_seen(align_tune_job(version=9, phase="Running"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.status.phase == "Succeeded"


def test_the_end_of_an_earlier_job_of_the_same_name_changes_nothing() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job(uid="first", version=1))
    cache.object_seen(align_tune_job(uid="second", version=5))
    cache.object_gone(align_tune_job(uid="first", version=6))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.uid == "second"


def test_jobs_of_an_earlier_job_of_the_same_name_are_not_ours() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job(uid="second"))
    cache.job_seen(child("chat-1", owner="first"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.jobs == ()


def test_the_answer_to_a_write_does_not_bring_a_deleted_object_back() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job())
    cache.object_gone(align_tune_job(version=2))
    cache.object_written(align_tune_job(version=3))
    assert cache.observe(KEY) is None


def test_forged_labels_do_no_harm() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job())
    cache.job_seen(child("forged", owner="", **{"aligntune.io/attempt": "many"}))
    cache.pod_seen(child("forged", **{"batch.kubernetes.io/job-completion-index": "first"}))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.jobs == ()
    assert list(cache.running_pods()) == []


def test_a_status_of_another_version_counts_as_empty() -> None:
    cache = Cache()
    cache.object_seen(align_tune_job(phase="Dreaming", invented={"a": 1}))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.status.phase == "Pending"
