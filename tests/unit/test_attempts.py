"""Attempts: which failures are followed, when, and never two at once."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aligntune.api.causes import RETRY, Cause, Retry
from aligntune.api.conditions import Phase
from aligntune.api.progress import Checkpoint, Outcome, Progress
from aligntune.api.status import AlignTuneJobStatus, Attempt, Attempts, Failure
from aligntune_operator.attempts import (
    SUSPENDED,
    add_attempt,
    close_newest,
    count_pod_time,
    follow,
    goodput,
    setbacks,
)
from aligntune_operator.observe import (
    NODE_LOST_TIMEOUT,
    AlignTuneJobState,
    JobState,
    Key,
    PodState,
    observe,
)
from aligntune_operator.plan import CreateJob, DeleteJob, plan
from aligntune_operator.status.conditions import finished
from aligntune_operator.status.reduce import reduce_status
from tests.cluster.processes import REPOSITORY
from tests.golden.test_golden import CASES, observed_in

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
    "storage": {"claimName": "c"},
}
CREATED = AlignTuneJobState(Key("ns", "job"), "uid", 1, 1, NOW, False, SPEC, AlignTuneJobStatus())


def followed(
    cause: Cause,
    *,
    steps: tuple[int, ...] = (0,),
    checkpoint: int = 0,
    policy: dict[str, Any] | None = None,
    suspended: int = 0,
    **attempts: Any,
) -> tuple[Attempts, Failure]:
    """What follows the last of attempts that began at `steps`, the first `suspended` of which a
    person ended.
    """
    history = [
        Attempt(
            attempt=n,
            job=f"job-{n}",
            from_step=step,
            start=NOW,
            end=NOW,
            reason=SUSPENDED if n <= suspended else cause,
        )
        for n, step in enumerate(steps, 1)
    ]
    observed = observe(replace(CREATED, spec=SPEC | {"policy": policy or {}}))
    return follow(
        Failure(reason=cause, message="why", retryable=True),
        Attempts(current=len(steps), history=history, **attempts),
        observed,
        Checkpoint(step=checkpoint, path="c", saved_at=NOW) if checkpoint else None,
        NOW,
    )


@pytest.mark.parametrize("cause", [cause for cause in Cause if RETRY[cause] == Retry.NEVER])
def test_what_would_fail_the_same_way_is_not_tried_again(cause: Cause) -> None:
    used_up = cause == Cause.DEADLINE_EXCEEDED
    policy = {"activeDeadlineSeconds": 1} if used_up else {}
    attempts, failure = followed(cause, policy=policy, active_seconds=1)
    assert attempts.next_start is None
    assert not failure.retryable


@pytest.mark.parametrize("cause", [cause for cause in Cause if RETRY[cause] == Retry.COUNTED])
def test_other_faults_count_and_wait(cause: Cause) -> None:
    attempts, _ = followed(cause)
    assert (attempts.restarts, attempts.preemptions) == (1, 0)
    assert attempts.next_start is not None
    assert timedelta(seconds=9) <= attempts.next_start - NOW <= timedelta(seconds=12)


def test_a_preempted_run_that_got_further_goes_on_at_once() -> None:
    attempts, _ = followed(Cause.PREEMPTED, steps=(0, 100), checkpoint=200, restarts=3)
    assert attempts.next_start == NOW
    assert (attempts.restarts, attempts.preemptions) == (3, 1)


def test_preemptions_count_from_the_third_attempt_that_gained_nothing() -> None:
    second, _ = followed(Cause.PREEMPTED, steps=(0, 100, 100), checkpoint=100)
    third, _ = followed(Cause.PREEMPTED, steps=(0, 100, 100, 100), checkpoint=100)
    assert (second.restarts, second.preemptions) == (0, 1)
    assert (third.restarts, third.preemptions) == (1, 0)


def test_attempts_that_a_person_suspended_are_no_setbacks() -> None:
    attempts, _ = followed(Cause.PREEMPTED, steps=(0, 0, 0), suspended=2, policy={"maxRestarts": 0})
    assert attempts.next_start is not None
    assert (attempts.restarts, attempts.preemptions) == (0, 1)


def test_the_wait_doubles_up_to_five_minutes() -> None:
    waits = []
    for number in range(1, 10):
        attempts, _ = followed(Cause.NCCL_ERROR, steps=(0,) * number, policy={"maxRestarts": 100})
        assert attempts.next_start is not None
        waits.append((attempts.next_start - NOW).total_seconds())
    assert all(10 * 2**n <= wait + 1 <= 12 * 2**n + 1 for n, wait in enumerate(waits[:5]))
    assert all(299 <= wait <= 360 for wait in waits[5:])


def test_a_job_whose_restarts_are_used_up_fails_and_says_so() -> None:
    attempts, failure = followed(Cause.NCCL_ERROR, restarts=3)
    assert attempts.next_start is None
    assert "all 3 restarts of spec.policy.maxRestarts are used up" in failure.message


def test_a_hang_is_final_where_the_policy_says_so() -> None:
    assert followed(Cause.STALLED)[0].next_start is not None
    assert followed(Cause.STALLED, policy={"onStall": "Fail"})[0].next_start is None


def test_the_deadline_is_over_all_attempts() -> None:
    policy = {"activeDeadlineSeconds": 600}
    assert followed(Cause.PREEMPTED, policy=policy, active_seconds=599)[0].next_start is not None
    attempts, failure = followed(Cause.PREEMPTED, policy=policy, active_seconds=600)
    assert attempts.next_start is None
    assert failure.reason == Cause.DEADLINE_EXCEEDED


@pytest.mark.parametrize("raised", [{"activeDeadlineSeconds": 900}, {}])
def test_a_deadline_that_was_raised_ends_the_attempt_under_way_and_not_the_job(
    raised: dict[str, int],
) -> None:
    """Its Job keeps the one that it began with, which cannot be told from the time it ran."""
    attempts, failure = followed(Cause.DEADLINE_EXCEEDED, policy=raised, active_seconds=600)
    assert attempts.next_start is not None
    assert (attempts.restarts, attempts.preemptions) == (0, 1)
    assert failure.reason == attempts.history[-1].reason == Cause.PREEMPTED
    assert failure.message == "spec.policy.activeDeadlineSeconds was changed under this attempt"


def test_a_deadline_whose_seconds_were_rounded_is_not_taken_for_one_that_was_raised() -> None:
    policy = {"activeDeadlineSeconds": 600}
    attempts, failure = followed(Cause.DEADLINE_EXCEEDED, policy=policy, active_seconds=599)
    assert attempts.next_start is None
    assert failure.reason == Cause.DEADLINE_EXCEEDED


def test_a_batch_is_halved_only_where_the_policy_says_so() -> None:
    halve = {"onCudaOutOfMemory": "HalveBatch"}
    assert followed(Cause.CUDA_OUT_OF_MEMORY)[0].batch_divisor == 1
    assert followed(Cause.OUT_OF_MEMORY, policy=halve)[0].batch_divisor == 1
    attempts, failure = followed(Cause.CUDA_OUT_OF_MEMORY, policy=halve)
    assert attempts.batch_divisor == 2
    assert failure.message == "why (the next attempt takes 2 rows at a time)"


def test_a_batch_of_one_cannot_be_halved_and_the_failure_says_so() -> None:
    attempts, failure = followed(
        Cause.CUDA_OUT_OF_MEMORY, policy={"onCudaOutOfMemory": "HalveBatch"}, batch_divisor=4
    )
    assert attempts.batch_divisor == 4
    assert "a batch of 1 cannot be halved" in failure.message


def test_setbacks_are_counted_back_from_the_newest_attempt() -> None:
    def of(*steps: int, now: int) -> int:
        history = [Attempt(attempt=n, job="j", from_step=step) for n, step in enumerate(steps)]
        return setbacks(Attempts(history=history), now)

    assert of(now=0) == 0
    assert of(0, now=0) == 1
    assert of(0, now=5) == 0
    assert of(0, 0, 5, 5, now=5) == 2
    assert of(0, 5, 5, now=9) == 0


def test_goodput_counts_the_time_of_kept_steps_against_all_time_that_pods_were_held() -> None:
    first = Attempt(attempt=1, job="j", start=NOW, end=NOW + timedelta(seconds=100))
    second = Attempt(attempt=2, job="j", start=NOW + timedelta(seconds=200))
    attempts = Attempts(
        current=2, active_seconds=100, active_since=second.start, history=[first, second]
    )
    progress = Progress(training_seconds=75, updated_at=NOW + timedelta(seconds=250))
    assert goodput(attempts, progress) == 0.5
    assert goodput(Attempts(), Progress()) is None


@pytest.mark.parametrize(("told", "reached"), [(0, None), (1810, 1810)])
def test_an_attempt_has_reached_what_it_told_itself_and_not_what_the_one_before_did(
    told: int, reached: int | None
) -> None:
    first = Attempt(attempt=1, job="job-1", to_step=1750, reason=SUSPENDED, start=NOW, end=NOW)
    known = Progress(step=1750, total_steps=4000)
    before = AlignTuneJobStatus(progress=known, attempts=Attempts(current=1, history=[first]))
    job = JobState("job-2", "second", 1, "uid", 2, NOW, failed_reason="failed", ended=NOW)
    outcome = Outcome(result="Failed", reason=Cause.NCCL_ERROR, exit_code=75, step=told)
    pod = PodState(
        *("pod", "pod", 1, "second", 0, "Failed"), exit_code=75, message=outcome.model_dump_json()
    )
    after = reduce_status(observe(replace(CREATED, status=before), (job,), (pod,)), at(30))
    assert [entry.to_step for entry in after.attempts.history] == [1750, reached]
    assert after.progress is not None
    assert after.progress.step == (told or known.step), "the run as a whole is where it was"


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


IN_A_QUEUE = JobState("job-1", "uid", 1, "uid", 1, NOW, suspended=True)
"""As the operator creates it for a queue, and in what its life makes of it."""
LET_GO = replace(IN_A_QUEUE, suspended=False, suspended_since=at(1), suspended_before=True)
HAS_PODS = replace(LET_GO, suspended_since=None, started=at(100))
ASKED_BACK = replace(HAS_PODS, suspended=True)
EVICTED = replace(ASKED_BACK, suspended_since=at(160))
LET_GO_AGAIN = replace(EVICTED, suspended=False)
HAS_PODS_AGAIN = replace(LET_GO_AGAIN, suspended_since=None, started=at(1000))


def counted(*seen: JobState, last_report: datetime | None = None, end: datetime) -> int:
    """The seconds of an attempt that ends at `end`, and whose Job was seen in these states."""
    attempts = add_attempt(Attempts(), 1, "job-1", NOW, 0)
    for job in seen:
        attempts = count_pod_time(attempts, job, last_report)
        again = count_pod_time(attempts, job, last_report)
        assert again == attempts, "a state that is seen twice counts once"
    return close_newest(attempts, "Succeeded", end, None).active_seconds


def test_time_in_a_queue_is_not_counted_and_time_before_an_eviction_is() -> None:
    whole = (IN_A_QUEUE, LET_GO, HAS_PODS, ASKED_BACK, EVICTED, LET_GO_AGAIN, HAS_PODS_AGAIN)
    assert counted(*whole, end=at(1200)) == 60 + 200
    assert counted(*whole[:2], end=at(90)) == 0
    assert counted(*whole[:3], end=at(130)) == 30
    assert counted(*whole[:4], end=at(150)) == 50
    assert counted(*whole[:5], end=at(900)) == 60
    assert counted(*whole[:6], end=at(999)) == 60


def test_an_eviction_that_nobody_saw_is_counted_to_the_last_report() -> None:
    missed = (IN_A_QUEUE, HAS_PODS, HAS_PODS_AGAIN)
    assert counted(*missed, last_report=at(150), end=at(1200)) == 50 + 200
    assert counted(*missed, end=at(1200)) == 200
    assert counted(IN_A_QUEUE, HAS_PODS, LET_GO_AGAIN, end=at(1200)) == 60
    evicted_again = replace(HAS_PODS_AGAIN, suspended_since=at(1040))
    assert counted(IN_A_QUEUE, HAS_PODS, evicted_again, last_report=at(150), end=at(1200)) == 90


def test_a_pods_clock_counts_at_most_the_time_until_its_queue_let_it_go_again() -> None:
    missed = (IN_A_QUEUE, HAS_PODS, HAS_PODS_AGAIN)
    assert counted(*missed, last_report=at(1_000_000), end=at(1200)) == 900 + 200
    assert counted(*missed, last_report=at(-1_000_000), end=at(1200)) == 200


def test_without_a_queue_an_attempt_counts_from_its_jobs_creation_to_its_end() -> None:
    created = JobState("job-1", "uid", 1, "uid", 1, NOW)
    started = replace(created, started=at(2))
    assert counted(created, started, end=at(100)) == 100
    attempts = count_pod_time(add_attempt(Attempts(), 1, "job-1", NOW, 0), created, None)
    assert count_pod_time(attempts, started, None) == attempts, "no status is written for it"


Arrow = tuple[str, str]


def drawn_arrows() -> set[Arrow]:
    """The state diagram of the documentation."""
    text = (REPOSITORY / "docs" / "lifecycle.md").read_text("utf-8")
    return set(re.findall(r"^    (\w+) --> (\w+)", text, re.MULTILINE))


ARROWS = drawn_arrows()


def reachable(arrows: set[Arrow]) -> dict[str, set[str]]:
    """The phases that may be seen after each where passes are missed in between."""
    after = {str(phase): {str(phase)} for phase in Phase}
    for _ in Phase:
        for one, other in arrows:
            for known in after.values():
                if one in known:
                    known.add(other)
    return after


REACHABLE = reachable(ARROWS)


GANG = SPEC | {"runtime": {"nodes": 2}, "policy": {"startTimeoutSeconds": 300}}
GRACE = timedelta(seconds=30)


class World(RuleBasedStateMachine):
    """A job of two pods on a cluster where anything may happen at any time.

    The kubelets and the Job controller are played as they behave; the operator's core is the real
    one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.state = replace(CREATED, spec=GANG)
        self.jobs: dict[str, JobState] = {}
        self.pods: dict[str, PodState] = {}
        self.created: list[int] = []
        self.unreachable: set[str] = set()
        self.pods_given = 0
        self.queued_seconds = 0
        self.all_seen = True
        self.queued = False
        """Whether its Jobs are a queue's to let go."""
        self.seen: set[Arrow] = set()

    @initialize(queued=st.booleans())
    def it_may_be_for_a_queue(self, queued: bool) -> None:
        self.queued = queued

    @rule(dies=st.booleans())
    def reconcile(self, dies: bool = False) -> None:
        """One pass; the operator may die before the status is written.

        What it deletes goes in its own time, after the pass.
        """
        deleted = []
        observed = observe(self.state, tuple(self.jobs.values()), tuple(self.pods.values()))
        for action in plan(observed, self.now):
            if isinstance(action, CreateJob):
                self.create(action.attempt)
            elif isinstance(action, DeleteJob):
                self.jobs[action.uid] = replace(self.jobs[action.uid], deleting=True)
                deleted.append(action.uid)
        if not dies:
            observed = observe(self.state, tuple(self.jobs.values()), tuple(self.pods.values()))
            before, after = self.state.status, reduce_status(observed, self.now)
            assert after.phase in REACHABLE[before.phase], f"{before.phase} to {after.phase}"
            if after.attempts.current > before.attempts.current == 0:
                (first,) = self.jobs.values()
                assert first.generation == self.state.generation, "it trains what was edited"
            if after.phase != before.phase:
                self.seen.add((before.phase, after.phase))
            self.state = replace(self.state, status=after)
        for uid in deleted:
            self.terminate(uid)

    def create(self, attempt: int) -> None:
        assert attempt not in {job.attempt for job in self.jobs.values()}
        writers = [pod for pod in self.pods.values() if not pod.ended and not pod.lost(self.now)]
        assert not writers, "two writers on one output folder"
        assert not finished(self.state.status)
        assert not self.state.spec.get("suspend")
        self.created.append(attempt)
        uid = f"job-{len(self.created)}"
        job = JobState(uid, uid, 1, "uid", attempt, self.now, generation=self.state.generation)
        if self.queued:
            held = replace(job, suspended=True, suspended_since=self.now, suspended_before=True)
            self.jobs[uid] = held
        else:
            self.jobs[uid] = job
            self.give_pods(uid)

    def give_pods(self, job_uid: str) -> None:
        for index in (0, 1):
            self.pods_given += 1
            name = f"{job_uid}-{index}-{self.pods_given}"
            self.pods[name] = PodState(name, name, 1, job_uid=job_uid, index=index)

    def terminate(self, job_uid: str) -> None:
        """The pods of a Job are deleted; those that do not run are gone at once."""
        for pod in list(self.pods.values()):
            if pod.job_uid == job_uid and not pod.running:
                del self.pods[pod.uid]
            elif pod.job_uid == job_uid and pod.lost_at is None:
                self.pods[pod.uid] = replace(pod, lost_at=self.now + GRACE + NODE_LOST_TIMEOUT)
        self.collect()

    def collect(self) -> None:
        """A Job that is being deleted goes when its pods are gone."""
        left = {pod.job_uid for pod in self.pods.values()}
        for job in list(self.jobs.values()):
            if job.deleting and job.uid not in left:
                self.forget(job)

    def forget(self, job: JobState) -> None:
        """A Job is gone; what the operator has not seen of it by now it will not see."""
        self.jobs.pop(job.uid, None)
        if job.active_since != self.state.status.attempts.active_since:
            self.all_seen = False

    def running(self) -> list[PodState]:
        return [
            pod for pod in self.pods.values() if pod.running and pod.uid not in self.unreachable
        ]

    def end(self, pod: PodState, code: int) -> None:
        """A pod ends; the first that fails ends its Job and so its peer."""
        phase = "Failed" if code else "Succeeded"
        self.pods[pod.uid] = replace(pod, phase=phase, running=False, exit_code=code)
        if pod.lost_at is not None:
            del self.pods[pod.uid]
        elif code:
            self.terminate_peers(pod)
        self.collect()
        job = self.jobs.get(pod.job_uid)
        peers = [other for other in self.pods.values() if other.job_uid == pod.job_uid]
        if job is None or job.deleting or job.over or not all(peer.ended for peer in peers):
            return
        if job.suspended:
            return
        failed = any(peer.exit_code for peer in peers) or len(peers) < 2
        self.jobs[job.uid] = replace(
            job,
            complete=not failed,
            failed_reason="PodFailurePolicy" if failed else None,
            ended=self.now,
        )

    def terminate_peers(self, pod: PodState) -> None:
        for other in list(self.pods.values()):
            if other.job_uid == pod.job_uid and other.phase == "Pending":
                del self.pods[other.uid]
            elif other.job_uid == pod.job_uid and other.running and other.lost_at is None:
                self.pods[other.uid] = replace(other, lost_at=self.now + GRACE + NODE_LOST_TIMEOUT)

    @rule(seconds=st.sampled_from([1, 15, 100, 400]))
    def time_passes(self, seconds: int) -> None:
        # One that is given up on may linger, suspended, beside the next attempt's.
        if any(job.suspended and not job.deleting for job in self.jobs.values()):
            self.queued_seconds += seconds
        self.now += timedelta(seconds=seconds)

    @rule(suspend=st.booleans())
    def edit(self, suspend: bool) -> None:
        self.state = replace(
            self.state,
            spec=GANG | {"suspend": suspend},
            generation=self.state.generation + 1,
        )

    @rule(index=st.sampled_from([0, 1]))
    def a_pod_starts(self, index: int) -> None:
        for pod in list(self.pods.values()):
            if pod.phase == "Pending" and pod.index == index:
                self.pods[pod.uid] = replace(pod, phase="Running", running=True)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), code=st.sampled_from([0, 0, 1, 65, 137, 143]))
    def a_pod_ends(self, data: st.DataObject, code: int) -> None:
        self.end(data.draw(st.sampled_from(self.running())), code)

    def newest_job(self) -> JobState | None:
        """The Job under way, which a queue may take or give."""
        known = [job for job in self.jobs.values() if not job.deleting and not job.over]
        return max(known, key=lambda job: job.attempt, default=None)

    @rule(seen=st.booleans())
    def its_queue_evicts_it(self, seen: bool) -> None:
        job = self.newest_job()
        if job is not None and not job.suspended:
            self.jobs[job.uid] = replace(
                job, suspended=True, suspended_since=self.now, suspended_before=True
            )
            self.terminate(job.uid)
            # Else it may be let go again before the operator comes back.
            self.reconcile(dies=not seen)

    @rule()
    def its_queue_lets_it_go(self) -> None:
        job = self.newest_job()
        left = {pod.job_uid for pod in self.pods.values()}
        if job is not None and job.suspended and job.uid not in left:
            self.jobs[job.uid] = replace(
                job, suspended=False, suspended_since=None, started=self.now
            )
            self.give_pods(job.uid)

    @precondition(lambda self: self.jobs)
    @rule()
    def somebody_deletes_the_newest_job_in_the_background(self) -> None:
        job = max(self.jobs.values(), key=lambda job: job.attempt)
        self.terminate(job.uid)
        self.forget(job)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_node_goes_down(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.running()))
        self.unreachable.add(pod.uid)
        lost_at = pod.lost_at or self.now + timedelta(seconds=330) + NODE_LOST_TIMEOUT
        self.pods[pod.uid] = replace(pod, lost_at=lost_at)

    @invariant()
    def attempts_are_numbered_in_order_and_counted(self) -> None:
        assert self.created == sorted(self.created)
        assert self.state.status.attempts.restarts <= 3

    @invariant()
    def time_in_a_queue_is_not_counted(self) -> None:
        attempts = self.state.status.attempts
        seconds = attempts.active_seconds
        job = self.newest_job()
        if attempts.active_since and job is not None and job.active_since == attempts.active_since:
            seconds += int((self.now - attempts.active_since).total_seconds())
        if self.all_seen:
            assert seconds <= (self.now - NOW).total_seconds() - self.queued_seconds

    def teardown(self) -> None:
        """Left in peace, every job comes to an end."""
        self.state = replace(self.state, spec=GANG)
        if observe(self.state, tuple(self.jobs.values())).outdated:
            # Its name is free once somebody has deleted by force what a dead node keeps.
            for uid in self.unreachable:
                self.pods.pop(uid, None)
            self.collect()
        for _ in range(60):
            if finished(self.state.status):
                break
            self.reconcile()
            self.its_queue_lets_it_go()
            self.a_pod_starts(0)
            self.a_pod_starts(1)
            self.reconcile()
            for pod in self.running():
                if pod.uid in self.pods:
                    self.end(pod, 143 if pod.lost_at else 0)
            self.now += NODE_LOST_TIMEOUT
        assert self.state.status.phase in (Phase.SUCCEEDED, Phase.FAILED)
        assert all(entry.end for entry in self.state.status.attempts.history)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=400, stateful_step_count=40)


class ObservedWorld(World):
    """The same where the operator sees each thing happen, and misses none."""

    def settle(self) -> None:
        for _ in range(3):
            self.reconcile()

    @invariant()
    def a_phase_follows_as_drawn(self) -> None:
        self.settle()
        assert self.seen <= ARROWS

    def teardown(self) -> None:
        """The other world's, in which much happens at once."""


TestObservedWorld = ObservedWorld.TestCase
TestObservedWorld.settings = settings(max_examples=100, stateful_step_count=40)

Happens = Callable[[ObservedWorld], object]


def pods_start(world: ObservedWorld) -> None:
    world.a_pod_starts(0)
    world.a_pod_starts(1)


def one_starts(world: ObservedWorld) -> None:
    world.a_pod_starts(0)


def all_end(code: int) -> Happens:
    """The first pod by itself, the others since it has failed."""

    def happens(world: ObservedWorld) -> None:
        for pod in world.running():
            world.end(world.pods[pod.uid], code)

    return happens


def suspended(suspend: bool) -> Happens:
    return lambda world: world.edit(suspend)


def evicted(world: ObservedWorld) -> None:
    world.its_queue_evicts_it(seen=True)


def let_go(world: ObservedWorld) -> None:
    world.its_queue_lets_it_go()


def its_job_is_deleted(world: ObservedWorld) -> None:
    world.somebody_deletes_the_newest_job_in_the_background()


def minutes_pass(world: ObservedWorld) -> None:
    world.time_passes(400)


STORIES: dict[str, tuple[bool, tuple[Happens, ...]]] = {
    "trained": (False, (pods_start, all_end(0))),
    "has bad data": (False, (pods_start, all_end(65))),
    "has bad data, and a pod that never ran": (False, (one_starts, all_end(65))),
    "is tried again": (False, (pods_start, all_end(75), minutes_pass)),
    "does not start in time, is suspended and resumed": (
        False,
        (minutes_pass, suspended(True), suspended(False), minutes_pass),
    ),
    "is suspended while it starts": (False, (suspended(True), suspended(False))),
    "is suspended while it trains": (False, (pods_start, suspended(True), all_end(143))),
    "is let go, evicted, and suspended in its queue": (
        True,
        (let_go, pods_start, evicted, all_end(143), suspended(True), suspended(False)),
    ),
    "is evicted before it runs": (True, (let_go, evicted)),
    "loses its Jobs in its queue": (True, (its_job_is_deleted, minutes_pass) * 6),
}


def transitions(queued: bool, story: Iterable[Happens]) -> set[Arrow]:
    world = ObservedWorld()
    world.it_may_be_for_a_queue(queued)
    world.settle()
    for happens in story:
        happens(world)
        world.settle()
    return world.seen


def suspended_from_the_first() -> set[Arrow]:
    world = ObservedWorld()
    world.edit(suspend=True)
    world.settle()
    return world.seen


def in_golden_cases() -> set[Arrow]:
    found = set[Arrow]()
    for case in CASES:
        observed, now = observed_in(case)
        before, after = observed.object.status.phase, reduce_status(observed, now).phase
        if before != after:
            found.add((before, after))
    return found


def test_the_state_diagram_is_what_happens_and_no_more() -> None:
    shown = in_golden_cases() | suspended_from_the_first()
    for queued, story in STORIES.values():
        shown |= transitions(queued, story)
    assert shown == ARROWS


def gang(uid: str, spec: dict[str, Any]) -> ObservedWorld:
    world = ObservedWorld()
    world.state = replace(world.state, uid=uid, spec=spec)
    world.settle()
    return world


def share_two_nodes(gangs: list[ObservedWorld]) -> None:
    """For ten minutes: whoever's pods come first get the nodes that are free."""
    for _ in range(600):
        for world in gangs:
            world.settle()
            for pod in world.running():
                if pod.lost_at is not None:
                    world.end(pod, 143)
            for index in (0, 1):
                if sum(len(other.running()) for other in gangs) < 2:
                    world.a_pod_starts(index)
            if len(world.running()) == 2:
                all_end(0)(world)
            world.time_passes(1)


def test_gangs_that_each_hold_half_of_the_nodes_both_train_in_the_end() -> None:
    gangs = [gang("first", GANG), gang("second", GANG)]
    for world in gangs:
        one_starts(world)
    share_two_nodes(gangs)
    assert [world.state.status.phase for world in gangs] == [Phase.SUCCEEDED] * 2


def test_without_a_start_timeout_half_gangs_wait_for_each_other() -> None:
    """So that the test above shows what ends it."""
    gangs = [gang("first", GANG | {"policy": {}}), gang("second", GANG | {"policy": {}})]
    for world in gangs:
        one_starts(world)
    share_two_nodes(gangs)
    assert [world.state.status.phase for world in gangs] == [Phase.STARTING] * 2
