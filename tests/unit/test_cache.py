from datetime import UTC, datetime, timedelta
from typing import Any

from aligntune.api.progress import Snapshot
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Explanation, Hindrance, Key, Poll
from aligntune_operator.plan import AWAITED_INTERVAL, DeleteAlignTuneJob, Wait, plan

KEY = Key("ns", "chat")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
FINISHED = {
    "type": "Finished",
    "status": "True",
    "reason": "Trained",
    "message": "",
    "lastTransitionTime": "2026-11-01T11:00:00Z",
    "observedGeneration": 1,
}


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
        "spec": {
            "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
            "storage": {"ephemeral": True},
        },
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
    cache.take_object(align_tune_job(version=9, phase="Running"))
    cache.take_object(align_tune_job(version=10, phase="Succeeded"))
    cache.take_object(align_tune_job(version=9, phase="Running"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.status.phase == "Succeeded"


def test_the_end_of_an_earlier_job_of_the_same_name_changes_nothing() -> None:
    cache = Cache()
    cache.take_object(align_tune_job(uid="first", version=1))
    cache.take_object(align_tune_job(uid="second", version=5))
    cache.forget_object(align_tune_job(uid="first", version=6))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.uid == "second"


def test_jobs_of_an_earlier_job_of_the_same_name_are_not_ours() -> None:
    cache = Cache()
    cache.take_object(align_tune_job(uid="second"))
    cache.take_job(child("chat-1", owner="first"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.jobs == ()
    assert [job.name for job in observed.predecessors] == ["chat-1"]


def test_a_job_whose_owner_was_deleted_without_it_is_no_predecessors() -> None:
    cache = Cache()
    cache.take_object(align_tune_job(uid="second"))
    orphan = child("chat-1")
    del orphan["metadata"]["ownerReferences"]
    cache.take_job(orphan)
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.predecessors == ()


def test_the_answer_to_a_write_does_not_bring_a_deleted_object_back() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.forget_object(align_tune_job(version=2))
    cache.take_written(align_tune_job(version=3))
    assert cache.observe(KEY) is None


def test_forged_labels_do_no_harm() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.take_job(child("forged", owner="", **{"aligntune.io/attempt": "many"}))
    cache.take_pod(child("forged", **{"batch.kubernetes.io/job-completion-index": "first"}))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.jobs == ()
    assert list(cache.running_pods()) == []


def test_a_status_that_cannot_be_read_is_not_taken_for_an_empty_one() -> None:
    cache = Cache()
    cache.take_object(align_tune_job(phase="Dreaming"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.object.unreadable
    assert plan(observed, NOW) == []


def test_a_job_whose_label_was_changed_belongs_to_one_align_tune_job_only() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.take_job(child("chat-1", version=1))
    cache.take_job(child("chat-1", version=2, **{"aligntune.io/job-name": "other"}))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.jobs == ()


def test_what_changes_no_decision_is_no_news() -> None:
    cache = Cache()
    assert cache.take_object(align_tune_job(version=1)) == KEY
    assert cache.is_new(KEY)
    assert cache.take_object(align_tune_job(version=2, observedGeneration=1)) == KEY
    assert not cache.is_new(KEY)
    assert cache.take_object(align_tune_job(version=3, observedGeneration=1)) is None
    assert cache.take_job(child("chat-1", version=4)) == KEY
    assert cache.take_job(child("chat-1", version=5)) is None
    assert cache.take_job(child("chat-1", version=4, owner="other")) is None, "an older version"
    assert cache.take_pod(child("chat-1-0", version=6)) == KEY
    assert cache.take_pod(child("chat-1-0", version=7) | {"status": {"phase": "Running"}}) == KEY


def test_what_a_whole_list_does_not_show_is_gone_unless_it_is_newer() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.take_job(child("chat-1", version=5))
    cache.take_job(child("chat-2", version=15))
    assert cache.jobs.retain("other", set(), 10) == set()
    assert cache.jobs.retain(None, set(), 10) == {KEY}
    observed = cache.observe(KEY)
    assert observed is not None
    assert [job.name for job in observed.jobs] == ["chat-2"]


def test_the_first_failure_of_a_row_is_remembered_until_an_answer() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())

    def since(poll: Poll) -> datetime | None:
        cache.take_poll(KEY, poll)
        observed = cache.observe(KEY)
        assert observed is not None
        assert observed.poll is not None
        return observed.poll.silent_since

    later = NOW + timedelta(seconds=40)
    assert since(Poll("pod", NOW, error="silent")) == NOW
    assert since(Poll("pod", later, error="silent")) == NOW
    assert since(Poll("another", later, error="silent")) == later
    assert since(Poll("another", later, Snapshot())) is None


def cache_with_an_evicted_pod() -> tuple[Cache, dict[str, Any]]:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.take_job(child("chat-1", version=2))
    pod = child("chat-1-0", version=3, owner="chat-1-uid")
    pod["status"] = {"phase": "Failed", "reason": "Evicted"}
    cache.take_pod(pod)
    return cache, pod


def test_last_words_of_a_pod_outlive_it_as_long_as_its_job_is_there() -> None:
    cache, pod = cache_with_an_evicted_pod()
    cache.forget_pod(pod)

    def departed() -> list[str]:
        observed = cache.observe(KEY)
        assert observed is not None
        assert observed.pods == ()
        return [pod.terminated_reason for pod in observed.departed]

    assert departed() == ["Evicted"]
    cache.forget_job(child("chat-1", version=4))
    assert departed() == []
    cache.forget_pod(pod)
    cache.take_job(child("chat-1", version=2))
    assert departed() == [], "the pod was seen to go after its Job"


def test_the_last_words_of_a_pod_that_no_watch_saw_go_are_remembered() -> None:
    cache, _ = cache_with_an_evicted_pod()
    cache.pods.retain(None, set(), 9)
    observed = cache.observe(KEY)
    assert observed is not None
    assert [pod.terminated_reason for pod in observed.departed] == ["Evicted"]


def test_what_was_said_of_a_job_does_not_reach_another_that_takes_its_name() -> None:
    """The end of the first is not told by any watch: it is missing in a whole list."""
    cache = Cache()
    cache.take_object(align_tune_job(uid="first", version=1))
    cache.note_hindrance("first", Hindrance("missing", "no claim"))
    cache.note_explanation("first", Explanation(NOW, "FailedMount: no Secret"))
    cache.note_shortage("first", "too large")
    cache.take_poll(KEY, Poll("pod", NOW, error="silent"))
    cache.objects.retain(None, set(), 5)
    cache.take_object(align_tune_job(uid="second", version=9))
    cache.note_hindrance("first", Hindrance("failed", "answered late"))
    observed = cache.observe(KEY)
    assert observed is not None
    assert (observed.hindrance, observed.explanation, observed.poll) == (None, None, None)
    assert observed.shortage == ""
    cache.take_object(align_tune_job(uid="first", version=10))
    observed = cache.observe(KEY)
    assert observed is not None
    assert observed.hindrance is None, "it was kept of one that is gone"


def test_a_job_is_not_deleted_while_another_waits_to_start_from_its_model() -> None:
    """Another may wait for a second model yet, and would never start."""
    cache, follower = Cache(), align_tune_job("follower", 2)
    source = align_tune_job(completionTime="2026-11-01T11:00:00Z", conditions=[FINISHED])
    source["spec"] |= {"policy": {"ttlSecondsAfterFinished": 60}}
    follower["metadata"] |= {"name": "follower"}
    follower["spec"] = {"rl": {"model": {"fromJob": "chat"}, "rewardModel": {"fromJob": "judge"}}}
    for job in (source, follower):
        cache.take_object(job)
    awaited = cache.observe(KEY)
    assert awaited is not None
    assert not any(isinstance(action, DeleteAlignTuneJob) for action in plan(awaited, NOW))
    assert Wait(NOW + AWAITED_INTERVAL) in plan(awaited, NOW)
    cache.forget_object(follower)
    alone = cache.observe(KEY)
    assert alone is not None
    assert DeleteAlignTuneJob("uid") in plan(alone, NOW)


def running_pod(name: str, owner: str, index: str = "0") -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": index}
    container = {"name": "trainer", "state": {"running": {}}}
    status = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [container]}
    return child(name, owner=owner, **labels) | {"status": status}


def test_the_running_first_pod_of_a_jobs_own_attempt_is_asked_for_progress() -> None:
    cache = Cache()
    cache.take_object(align_tune_job())
    cache.take_job(child("chat-1"))
    cache.take_job(child("theirs", owner="another of this name"))
    cache.take_pod(running_pod("chat-1-0", "chat-1-uid"))
    cache.take_pod(running_pod("chat-1-1", "chat-1-uid", index="1"))
    cache.take_pod(running_pod("theirs-0", "theirs-uid"))
    cache.take_pod(running_pod("forged", "no Job's"))
    cache.take_pod(child("over", owner="chat-1-uid") | {"status": {"phase": "Succeeded"}})
    assert [(key, pod.name) for key, pod in cache.running_pods()] == [(KEY, "chat-1-0")]
    cache.hold("ns")
    assert list(cache.running_pods()) == []


def follower(version: int, *sources: str) -> dict[str, Any]:
    body = align_tune_job("follower", version)
    body["metadata"] |= {"name": "follower"}
    names = zip(("model", "rewardModel"), sources, strict=False)
    body["spec"] = {"rl": {model: {"fromJob": name} for model, name in names}}
    return body


def test_nothing_is_kept_of_what_nobody_waits_for_any_more() -> None:
    cache, chat, judge = Cache(), Key("ns", "chat"), Key("ns", "judge")
    cache.take_object(follower(1, "chat", "judge"))
    cache.take_object(follower(2, "judge"))
    assert list(cache.followers(chat)) == []
    assert list(cache.followers(judge)) == [Key("ns", "follower")]
    cache.take_object(follower(3, "judge") | {"metadata": align_tune_job("second", 4)["metadata"]})
    cache.forget_object(follower(5, "judge"))
    assert list(cache.followers(judge)) == [chat]
    cache.forget_object(align_tune_job("second", 6))
    assert cache._followers == {}


def test_one_that_takes_the_name_of_another_goes_on_waiting_for_the_same_model() -> None:
    cache, judge = Cache(), Key("ns", "judge")
    for uid in ("first", "second"):
        body = follower(1, "judge")
        body["metadata"] |= {"uid": uid}
        cache.take_object(body)
    cache.objects.forget("first")
    assert list(cache.followers(judge)) == [Key("ns", "follower")]
