"""The one cause of an attempt's end: what came first, and not what followed from it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aligntune.api.causes import Cause
from aligntune.api.progress import Outcome
from aligntune_operator.observe import JobState, PodState
from aligntune_operator.status.failure import classify

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
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
