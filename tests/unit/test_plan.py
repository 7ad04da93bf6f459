"""Properties of the pure core, over states that hypothesis makes up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aligntune.api.conditions import Condition, Phase
from aligntune.api.progress import Outcome, Progress, Snapshot
from aligntune.api.status import AlignTuneJobStatus
from aligntune_operator.observe import (
    AlignTuneJobState,
    Explanation,
    JobState,
    Key,
    Observed,
    PodState,
    Poll,
    observe,
)
from aligntune_operator.plan import CreateJob, DeleteJob, Explain, Wait, plan
from aligntune_operator.status.conditions import finished
from aligntune_operator.status.reduce import reduce_status

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPEC = {
    "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
    "storage": {"claimName": "c"},
}

snapshots = st.builds(
    Snapshot,
    progress=st.builds(Progress, step=st.integers(0, 100), total_steps=st.just(100)),
    metrics=st.dictionaries(st.sampled_from(["loss", "gradNorm"]), st.floats(0, 10)),
)
outcomes = st.sampled_from(
    [
        "",
        "Traceback (most recent call last):",
        Outcome(result="Succeeded", exit_code=0, step=100, model_path="m").model_dump_json(),
        Outcome(result="Failed", reason="DataError", exit_code=65, message="bad").model_dump_json(),
    ]
)


def pod(job: JobState, index: int, how: str, message: str) -> PodState:
    state = PodState(f"{job.name}-{index}", f"{job.uid}-{index}", 1, job.uid, index)
    match how:
        case "running":
            return replace(state, phase="Running", running=True, ip="10.0.0.1")
        case "succeeded":
            return replace(state, phase="Succeeded", exit_code=0, message=message)
        case "failed":
            return replace(state, phase="Failed", exit_code=1, message=message)
        case _:
            return state


@st.composite
def observations(draw: st.DrawFn, status: AlignTuneJobStatus | None = None) -> Observed:
    spec = dict(SPEC, suspend=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        spec["storage"] = {}
    state = AlignTuneJobState(
        Key("ns", "job"),
        "uid",
        1,
        1,
        NOW,
        draw(st.booleans()),
        spec,
        status or AlignTuneJobStatus(),
    )
    if draw(st.booleans()):
        return observe(state)
    end = draw(st.sampled_from(["", "complete", "failed"]))
    job = JobState(
        "job-1",
        "job-uid",
        1,
        owner_uid="uid",
        attempt=draw(st.integers(1, 3)),
        created=NOW,
        deleting=draw(st.booleans()),
        complete=end == "complete",
        failed_reason="PodFailurePolicy" if end == "failed" else None,
        ended=NOW if end else None,
    )
    how = st.sampled_from(["pending", "running", "succeeded", "failed"])
    lost = st.none() | st.sampled_from([NOW, NOW + timedelta(seconds=30)])
    pods = [
        replace(pod(job, i, draw(how), draw(outcomes)), lost_at=draw(lost))
        for i in range(draw(st.integers(0, 2)))
    ]
    if draw(st.booleans()):
        earlier = pod(job, 0, draw(how), draw(outcomes))
        pods.append(replace(earlier, uid="old", job_uid="earlier", lost_at=draw(lost)))
    poll = draw(st.none() | st.builds(Poll, st.just("job-uid-0"), st.just(NOW), snapshots))
    return observe(state, (job,), tuple(pods), poll=poll)


times = st.integers(0, 100).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(observations(), times)
def test_reducing_a_second_time_changes_nothing(observed: Observed, now: datetime) -> None:
    once = reduce_status(observed, now)
    again = replace(observed, object=replace(observed.object, status=once))
    assert reduce_status(again, now) == once


@given(observations(), st.data(), times)
def test_a_job_that_is_over_stays_over_whatever_is_seen_later(
    observed: Observed, data: st.DataObject, now: datetime
) -> None:
    status = reduce_status(observed, now)
    later = reduce_status(data.draw(observations(status)), now + timedelta(seconds=1))
    if finished(status):
        assert later.phase == status.phase
        assert later.conditions == status.conditions
    assert later.attempts.current >= status.attempts.current
    assert later.attempts.restarts >= status.attempts.restarts


@given(observations(), times)
def test_verdicts_speak_of_the_newest_generation_also_after_the_end(
    observed: Observed, now: datetime
) -> None:
    status = reduce_status(observed, now)
    edited = replace(observed, object=replace(observed.object, status=status, generation=2))
    later = reduce_status(edited, now)
    assert {c.observed_generation for c in later.conditions} == {later.observed_generation} == {2}


@given(observations(), times)
def test_stopping_the_pods_of_a_job_is_never_its_failure(observed: Observed, now: datetime) -> None:
    jobs = tuple(replace(job, deleting=True, complete=False) for job in observed.jobs)
    status = reduce_status(replace(observed, jobs=jobs), now)
    assert status.phase not in (Phase.SUCCEEDED, Phase.FAILED)


@given(observations(), times)
def test_a_plan_that_was_carried_out_plans_nothing_new(observed: Observed, now: datetime) -> None:
    for action in plan(observed, now):
        if isinstance(action, CreateJob):
            created = JobState("job-1", "new", 2, "uid", attempt=action.attempt, created=now)
            observed = replace(observed, jobs=(*observed.jobs, created))
        elif isinstance(action, DeleteJob):
            jobs = tuple(
                replace(job, deleting=True) if job.uid == action.uid else job
                for job in observed.jobs
            )
            observed = replace(observed, jobs=jobs)
        elif isinstance(action, Explain):
            observed = replace(observed, explanation=Explanation(now, ""))
    assert all(isinstance(action, Wait) for action in plan(observed, now))


@given(observations(), times)
def test_once_a_status_is_written_nothing_is_waited_for_that_has_passed(
    observed: Observed, now: datetime
) -> None:
    written = replace(observed.object, status=reduce_status(observed, now))
    observed = replace(observed, object=written)
    waits = [action.until for action in plan(observed, now) if isinstance(action, Wait)]
    assert all(until >= now for until in waits)


def test_a_pod_that_is_lost_beside_the_next_attempt_is_not_waited_for() -> None:
    state = AlignTuneJobState(Key("ns", "job"), "uid", 1, 1, NOW, False, SPEC, AlignTuneJobStatus())
    job = JobState("job-2", "second", 1, owner_uid="uid", attempt=2, created=NOW)
    runs = pod(job, 0, "running", "")
    lost = replace(runs, uid="old", job_uid="first", lost_at=NOW)
    assert plan(observe(state, (job,), (runs, lost)), NOW + timedelta(seconds=1)) == []


@given(observations(), times)
def test_no_second_attempt_starts_while_one_is_there(observed: Observed, now: datetime) -> None:
    if observed.jobs:
        assert not any(isinstance(action, CreateJob) for action in plan(observed, now))


@given(observations(), times)
def test_every_condition_is_there_with_a_reason_and_a_sentence(
    observed: Observed, now: datetime
) -> None:
    status = reduce_status(observed, now)
    conditions = {condition.type: condition for condition in status.conditions}
    assert set(Condition) - conditions.keys() == {Condition.GPU_TOO_SMALL}
    assert all(condition.message for condition in status.conditions)
    assert (conditions["Complete"].status == "True") == (status.phase == Phase.SUCCEEDED)
    assert (conditions["Failed"].status == "True") == (status.phase == Phase.FAILED)
    assert (conditions["Finished"].status == "True") == (
        status.phase in (Phase.SUCCEEDED, Phase.FAILED)
    )
    assert not (conditions["Reconciling"].status == conditions["Stalled"].status == "True")
