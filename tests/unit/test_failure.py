"""The one cause of an attempt's end: what came first, and not what followed from it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aligntune.api.causes import Cause
from aligntune.api.progress import Outcome
from aligntune_operator.observe import Explanation, JobState, PodState, pod_state
from aligntune_operator.status.failure import classify, not_started, obstacle

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=20)
JOB = JobState(
    "job-1", "job", 1, "uid", 1, NOW, failed_reason="PodFailurePolicy", failed_message="exit code"
)
DISRUPTED = PodState(
    "spot", "spot", 1, "job", 1, phase="Running", running=True, disrupted="DeletionByTaintManager"
)
KILLED = PodState("pod", "pod", 1, "job", 0, phase="Failed", exit_code=137)


def told(cause: Cause) -> PodState:
    """A pod whose launcher says this of its end."""
    outcome = Outcome(result="Failed", reason=cause, message="why", exit_code=75)
    return replace(KILLED, exit_code=75, message=outcome.model_dump_json())


CONSEQUENCES = {
    "NcclError": told(Cause.NCCL_ERROR),
    "Stalled": told(Cause.STALLED),
    "Unknown": told(Cause.UNKNOWN),
    "137": KILLED,
}


@pytest.mark.parametrize("survivor", CONSEQUENCES.values(), ids=CONSEQUENCES)
def test_what_follows_from_a_peers_disruption_does_not_hide_it(survivor: PodState) -> None:
    assert classify(JOB, [survivor, DISRUPTED]).reason == Cause.PREEMPTED


@pytest.mark.parametrize("survivor", CONSEQUENCES.values(), ids=CONSEQUENCES)
def test_a_disruption_that_the_job_alone_remembers_is_not_hidden(survivor: PodState) -> None:
    job = replace(JOB, failed_message="Pod ns/spot has condition DisruptionTarget matching")
    assert classify(job, [survivor]).reason == Cause.PREEMPTED


@pytest.mark.parametrize("cause", [Cause.DATA_ERROR, Cause.CUDA_OUT_OF_MEMORY, Cause.DISK_FULL])
def test_a_pods_own_fault_is_the_cause_beside_a_disruption(cause: Cause) -> None:
    assert classify(JOB, [DISRUPTED, told(cause)]).reason == cause


def test_a_full_container_is_the_cause_beside_a_disruption() -> None:
    full = replace(KILLED, terminated_reason="OOMKilled")
    assert classify(JOB, [DISRUPTED, full]).reason == Cause.OUT_OF_MEMORY


def test_a_hang_is_the_cause_beside_what_its_peers_say_of_it() -> None:
    pods = [told(Cause.NCCL_ERROR), told(Cause.STALLED)]
    assert classify(JOB, pods).reason == Cause.STALLED


def test_a_pod_that_was_killed_by_itself_is_no_preemption() -> None:
    job = replace(JOB, failed_reason="BackoffLimitExceeded")
    stopped_then = replace(DISRUPTED, disrupted="", lost_at=NOW)
    assert classify(job, [KILLED, stopped_then]).reason == Cause.UNKNOWN


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ('ErrImagePull: failed to pull image "trainer:v9": not found', Cause.IMAGE_PULL_ERROR),
        ('ImagePullBackOff: Back-off pulling image "trainer:v9"', Cause.IMAGE_PULL_ERROR),
        ('CreateContainerConfigError: secret "hf" not found', Cause.CONFIG_ERROR),
    ],
)
def test_what_keeps_a_container_from_starting_is_the_cause(said: str, cause: Cause) -> None:
    waiting = replace(KILLED, phase="Pending", exit_code=None, waiting=said)
    failure = not_started([waiting], None, NOW, LATER)
    assert failure.reason == cause
    assert said in failure.message


MOUNT = 'FailedMount: MountVolume.SetUp failed for volume "files" : '


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (f'{MOUNT}secret "hf" not found', Cause.CONFIG_ERROR),
        (f"{MOUNT}references non-existent config key: rows", Cause.CONFIG_ERROR),
        (f"{MOUNT}rpc error: code = DeadlineExceeded", Cause.VOLUME_ERROR),
        ('FailedAttachVolume: Multi-Attach error for volume "files"', Cause.VOLUME_ERROR),
        ('FailedCreate: pods "a" is forbidden: violates PodSecurity', Cause.ADMISSION_REFUSED),
    ],
)
def test_what_events_say_of_pods_that_do_not_start_is_the_cause(said: str, cause: Cause) -> None:
    failure = not_started([], Explanation(NOW, said), NOW, LATER)
    assert failure.reason == cause
    assert said in failure.message


@pytest.mark.parametrize(
    ("waited", "cause"), [(1, Cause.UNKNOWN), (9, Cause.UNKNOWN), (19, Cause.UNSCHEDULABLE)]
)
def test_a_pod_that_was_given_a_node_too_late_was_unschedulable(waited: int, cause: Cause) -> None:
    placed = (NOW + timedelta(seconds=waited)).isoformat()
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": placed}
    metadata = {"name": "pod", "uid": "pod", "resourceVersion": "1", "labels": {}}
    pod = pod_state({"metadata": metadata, "status": {"conditions": [condition]}})
    event = Explanation(LATER, "Scheduled: Successfully assigned research/pod to node-1")
    assert not_started([pod], event, NOW, LATER).reason == cause


def pending(said: str) -> PodState:
    return replace(KILLED, phase="Pending", exit_code=None, waiting=said)


def test_of_many_reasons_why_pods_wait_the_first_are_told_and_the_others_counted() -> None:
    gang = [pending(f"Unschedulable: {index:03} nodes are full") for index in range(200)]
    told = obstacle([*gang, *gang], None)
    assert told.startswith("Unschedulable: 000 nodes are full; Unschedulable: 001 nodes are full; ")
    assert told.endswith("; and 197 more")
    assert obstacle(gang[:3], None).endswith("; Unschedulable: 002 nodes are full")


def test_a_cause_is_found_in_a_reason_that_is_not_told() -> None:
    gang = [pending(f"ContainerError: {index}") for index in range(9)]
    refused = pending("ErrImagePull: not found")
    assert not_started([*gang, refused], None, NOW, LATER).reason == Cause.IMAGE_PULL_ERROR
