"""The operator's life with a job, on a real API server with the real Job controller and GC."""

import json
import random
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.operator_process import Operator
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]
RUNNING = {"startedAt": "2026-11-01T12:00:00Z"}


def ended(code: int, message: object, reason: str = "") -> dict[str, Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    reason = reason or ("Error" if code else "Completed")
    return {"exitCode": code, "reason": reason, "message": text}


def event_reasons(api: Api, name: str) -> set[str]:
    return {e["reason"] for e in api.every("events") if e["involvedObject"]["name"] == name}


@pytest.mark.usefixtures("operator")
def test_a_job_becomes_a_job_of_its_own_with_one_pod(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.until("accepted", lambda: api.condition("chat", "Accepted")["status"] == "True")
    [job] = api.jobs_of("chat")
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("AlignTuneJob", "chat")
    assert job["spec"]["backoffLimit"] == 0
    assert api.phase("chat") == "Starting"
    pod = api.pod_of("chat")
    config = json.loads(pod["metadata"]["annotations"]["aligntune.io/config"])
    assert config["sft"]["model"]["name"] == "m"
    assert config["job"]["uid"] == owner["uid"]
    api.until("told", lambda: "AttemptStarted" in event_reasons(api, "chat"))
    columns = api("get", "atj", "chat").splitlines()
    assert columns[0].split() == [
        "NAME", "BACKEND", "TASK", "PHASE", "STEP", "PROGRESS", "LOSS", "ETA", "RESTARTS", "AGE",
    ]  # fmt: skip
    assert columns[1].split()[:4] == ["chat", "trl", "sft", "Starting"]


@pytest.mark.usefixtures("operator")
def test_success_is_read_from_the_pods_last_words(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    pod = api.pod_of("chat")
    api.play_kubelet(pod, running=RUNNING)
    api.until("running", lambda: api.phase("chat") == "Running")
    assert api.condition("chat", "Reconciling")["status"] == "False"
    outcome = {
        "result": "Succeeded",
        "exitCode": 0,
        "step": 60,
        "totalSteps": 60,
        "metrics": {"loss": 1.25},
        "modelPath": "chat/model",
    }
    api.play_kubelet(pod, terminated=ended(0, outcome))
    api("wait", "--for=condition=Complete", "atj/chat", "--timeout=60s")
    status = api.status("chat")
    assert status["phase"] == "Succeeded"
    assert status["model"]["path"] == "chat/model"
    assert status["summary"] == {
        "backend": "trl",
        "task": "sft",
        "progress": "60/60",
        "percent": "100%",
        "loss": "1.25",
        "eta": "",
    }
    assert status["attempts"]["history"][0]["reason"] == "Succeeded"
    api.until("told", lambda: "Trained" in event_reasons(api, "chat"))


@pytest.mark.parametrize(
    ("terminated", "reason", "sentence"),
    [
        (
            ended(66, {"result": "Failed", "reason": "ModelNotFound", "exitCode": 66,
                       "message": "no model named 'm'"}),
            "ModelNotFound",
            "no model named 'm'",
        ),
        (ended(137, "step 3\n", "OOMKilled"), "OutOfMemory", "more memory than its limit"),
        (ended(65, "KeyError: 'text'\n"), "DataError", "exit code 65"),
        (ended(3, ""), "Unknown", "exit code 3"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("operator")
def test_a_failure_is_told_with_its_cause(
    api: Api,
    manifest: Make,
    terminated: dict[str, Any],
    reason: str,
    sentence: str,
) -> None:
    api.apply(manifest("chat", policy={"maxRestarts": 0}))
    api.play_kubelet(api.pod_of("chat"), terminated=terminated)
    api("wait", "--for=condition=Finished", "atj/chat", "--timeout=60s")
    status = api.status("chat")
    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == reason
    assert sentence in status["failure"]["message"]
    assert status["failure"]["exitCode"] == terminated["exitCode"]
    assert api.condition("chat", "Failed")["reason"] == reason
    assert api.condition("chat", "Stalled")["status"] == "True"
    api.until("told", lambda: reason in event_reasons(api, "chat"))
    assert len(api.jobs_of("chat")) == 1


@pytest.mark.usefixtures("operator")
def test_a_fault_that_may_pass_is_followed_by_another_attempt_until_restarts_are_used_up(
    api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat", policy={"maxRestarts": 1}))
    lost = {"result": "Failed", "reason": "NcclError", "exitCode": 75, "message": "a peer is gone"}
    api.play_kubelet(api.pod_of("chat"), terminated=ended(75, lost))
    api.until("restarting", lambda: api.phase("chat") == "Restarting")
    api.until("told", lambda: "NcclError" in event_reasons(api, "chat"))
    assert api.condition("chat", "Reconciling")["reason"] == "Restarting"
    api.until("second attempt", lambda: api.phase("chat") == "Starting")
    assert api.status("chat")["attempts"]["restarts"] == 1
    assert len(api.jobs_of("chat")) == 2, "the first Job stays for its logs"

    [second] = api.every("pods", "aligntune.io/job-name=chat,aligntune.io/attempt=2")
    api.play_kubelet(second, terminated=ended(75, lost))
    api("wait", "--for=condition=Finished", "atj/chat", "--timeout=60s")
    status = api.status("chat")
    assert status["failure"]["reason"] == "NcclError"
    assert "all 1 restarts of spec.policy.maxRestarts are used up" in status["failure"]["message"]
    assert [entry["reason"] for entry in status["attempts"]["history"]] == ["NcclError"] * 2


@pytest.mark.usefixtures("operator")
def test_a_preempted_run_goes_on_at_once_and_counts_no_restart(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat", policy={"maxRestarts": 0}))
    checkpoint = {"step": 7, "path": "chat/checkpoint-7", "savedAt": "2026-11-01T12:00:00Z"}
    preempted = {"result": "Preempted", "reason": "Preempted", "exitCode": 143, "step": 7}
    words = preempted | {"checkpoint": checkpoint}
    api.play_kubelet(api.pod_of("chat"), terminated=ended(143, words))
    api.until("second attempt", lambda: api.status("chat")["attempts"]["current"] == 2)
    attempts = api.status("chat")["attempts"]
    assert (attempts["restarts"], attempts["preemptions"]) == (0, 1)
    assert [entry["fromStep"] for entry in attempts["history"]] == [0, 7]


@pytest.mark.usefixtures("operator")
def test_pods_that_a_quota_refuses_are_told_of_and_let_go_after_the_start_timeout(
    api: Api, manifest: Make
) -> None:
    api("create", "quota", "none", "--hard=pods=0")
    api.apply(manifest("chat", policy={"startTimeoutSeconds": 30, "maxRestarts": 0}))
    api.until(
        "told why", lambda: "exceeded quota" in api.condition("chat", "Running").get("message", "")
    )
    api("wait", "--for=condition=Finished", "atj/chat", "--timeout=60s")
    assert api.status("chat")["failure"]["reason"] == "QuotaExceeded"
    api.until("the Job is let go", lambda: api.jobs_of("chat") == [])


@pytest.mark.usefixtures("operator")
def test_pods_that_pod_security_refuses_are_told_of_within_a_minute(
    api: Api, manifest: Make
) -> None:
    api("label", "namespace", api.namespace, "pod-security.kubernetes.io/enforce=restricted")
    opted_in = {"runtime": {"gpusPerNode": 0, "lockMemory": True}}
    api.apply(manifest("chat", policy={"startTimeoutSeconds": 60}, **opted_in))
    api.until(
        "told why",
        lambda: "violates PodSecurity" in api.condition("chat", "Running").get("message", ""),
    )
    api("wait", "--for=condition=Failed", "atj/chat", "--timeout=90s")
    assert api.status("chat")["failure"]["reason"] == "AdmissionRefused"


@pytest.mark.usefixtures("operator")
def test_what_trains_cannot_change_once_accepted_and_other_things_can(
    api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat"))
    api.until("accepted", lambda: api.condition("chat", "Accepted")["status"] == "True")
    other_model = {"model": {"name": "other"}, "datasets": [{"name": "d"}]}
    for change, section in (
        ({"sft": other_model}, "sft"),
        ({"backend": "unsloth"}, "backend"),
        ({"runtime": {"nodes": 2}}, "runtime"),
        ({"storage": {"ephemeral": True}}, "storage"),
        ({"hub": {"tokenSecret": {"name": "hf", "key": "token"}}}, "hub"),
    ):
        stdin = manifest("chat", **change)
        assert f"spec.{section} cannot change once the job is accepted" in api.refusal(
            "apply", "-f", "-", stdin=stdin
        )
    api.apply(manifest("chat", policy={"maxRestarts": 5}))


@pytest.mark.usefixtures("operator")
def test_a_map_whose_keys_are_free_cannot_change_either(api: Api, manifest: Make) -> None:
    """Of maps without a schema for their keys, CEL compares the keys that both sides have."""

    def job(placed_by: str, parameter: str, module: str) -> dict[str, Any]:
        placed = {"gpusPerNode": 0, "affinity": {placed_by: {}}}
        made = manifest("chat", runtime=placed)
        made["spec"] |= {"rl": made["spec"].pop("sft")}
        made["spec"]["rl"] |= {
            "algo": "grpo",
            "rewards": [{"name": "length_range", "params": {parameter: 10}}],
            "grpo": {"promptsPerStep": 1, "numGenerations": 2},
            "train": {"perDeviceBatchSize": 2},
        }
        made["spec"]["rl"]["model"]["lora"] = {"targetModules": [module]}
        return made

    api.apply(job("nodeAffinity", "minimum", "q_proj"))
    api.until("accepted", lambda: api.condition("chat", "Accepted")["status"] == "True")
    for changed, section in (
        (job("podAffinity", "minimum", "q_proj"), "runtime"),
        (job("nodeAffinity", "maximum", "q_proj"), "rl"),
        (job("nodeAffinity", "minimum", "k_proj"), "rl"),
    ):
        assert f"spec.{section} cannot change once the job is accepted" in api.refusal(
            "replace", "-f", "-", stdin=changed
        )


@pytest.mark.usefixtures("operator")
def test_a_spec_that_only_the_operator_can_refuse_is_refused_and_can_be_mended_in_place(
    api: Api, manifest: Make
) -> None:
    broken = manifest("topics", backend="unsloth")
    broken["spec"]["sft"]["task"] = "text_classification"
    api.apply(broken)
    api.until("refused", lambda: api.condition("topics", "Accepted")["status"] == "False")
    assert api.condition("topics", "Accepted")["reason"] == "Unsupported"
    assert api.condition("topics", "Stalled")["status"] == "True"
    assert api.jobs_of("topics") == []
    mended = json.dumps({"spec": {"backend": "trl"}})
    api("patch", "atj", "topics", "--type=merge", "-p", mended)
    api.until("accepted", lambda: api.condition("topics", "Accepted")["status"] == "True")
    assert len(api.jobs_of("topics")) == 1


@pytest.mark.usefixtures("operator")
def test_a_job_that_the_api_server_refuses_says_so_in_the_status(api: Api, manifest: Make) -> None:
    for affinity in ({"nodeAffinity": "everywhere"}, {"nodeAfinity": {}}):
        [name] = affinity
        job = name.lower()
        api.apply(manifest(job, runtime={"gpusPerNode": 0, "affinity": affinity}))
        api.until(
            "told", lambda job=job: api.condition(job, "Accepted")["reason"] == "AdmissionRefused"
        )
        assert name in api.condition(job, "Accepted")["message"]


@pytest.mark.usefixtures("operator")
def test_a_spec_of_bottomless_depth_stops_nobody_else(api: Api, manifest: Make) -> None:
    api.create_deep(manifest("deep", runtime={"gpusPerNode": 0, "affinity": "HERE"}))
    api.apply(manifest("chat"))
    api.until("accepted", lambda: api.condition("chat", "Accepted")["status"] == "True")
    condition = "jsonpath={.status.conditions[?(@.type=='Accepted')].status}"
    api.until("refused", lambda: api("get", "atj", "deep", "-o", condition) == "False")


@pytest.mark.parametrize("propagation", ["background", "foreground"])
@pytest.mark.usefixtures("operator")
def test_deleting_a_job_removes_all_its_children(
    api: Api, manifest: Make, propagation: str
) -> None:
    api.apply(manifest("chat", runtime={"gpusPerNode": 0, "nodes": 2}))
    api.pod_of("chat")
    assert api.every("services")
    api("delete", "atj", "chat", f"--cascade={propagation}")
    for kind in ("pods", "jobs", "services"):
        api.until(f"no {kind} left", lambda kind=kind: api.every(kind) == [])


@pytest.mark.usefixtures("operator")
def test_the_same_name_at_once_is_another_job(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    [first] = api.jobs_of("chat")
    api("delete", "atj", "chat", "--cascade=background", "--wait=false")
    api.apply(manifest("chat"))
    api.until("started again", lambda: api.phase("chat") == "Starting")
    api.until("one job left", lambda: len(api.jobs_of("chat")) == 1)
    [second] = api.jobs_of("chat")
    assert second["metadata"]["name"] != first["metadata"]["name"]
    owner = second["metadata"]["ownerReferences"][0]
    assert owner["uid"] == api.get("atj", "chat")["metadata"]["uid"]


@pytest.mark.usefixtures("operator")
def test_suspending_removes_the_pods_and_resuming_starts_the_next_attempt(
    api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    api.apply(manifest("chat", suspend=True))
    api.until("no job left", lambda: api.jobs_of("chat") == [])
    assert api.phase("chat") == "Suspended"
    assert api.condition("chat", "Suspended")["status"] == "True"
    api.apply(manifest("chat"))
    api.until("started again", lambda: api.phase("chat") == "Starting")
    [job] = api.jobs_of("chat")
    assert job["metadata"]["labels"]["aligntune.io/attempt"] == "2"
    assert api.status("chat")["attempts"]["current"] == 2


@pytest.mark.usefixtures("operator")
def test_suspending_a_pod_that_trains_waits_for_its_checkpoint_and_is_no_failure(
    api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat"))
    pod = api.pod_of("chat")
    api.bind(pod)
    api.play_kubelet(pod, running=RUNNING)
    api.until("running", lambda: api.phase("chat") == "Running")

    api.apply(manifest("chat", suspend=True))
    api.until("stopping", lambda: api.condition("chat", "Reconciling")["reason"] == "Stopping")
    assert api.condition("chat", "Suspended")["status"] == "False"
    preempted = {"result": "Preempted", "reason": "Preempted", "exitCode": 143, "step": 7}
    api.play_kubelet(pod, terminated=ended(143, preempted))
    name = pod["metadata"]["name"]
    api("delete", "pod", name, "--grace-period=0", "--force")
    api.until("suspended", lambda: api.phase("chat") == "Suspended")
    assert api.condition("chat", "Failed")["status"] == "False"

    api.apply(manifest("chat"))
    api.until("started again", lambda: api.status("chat")["attempts"]["current"] == 2)
    assert api.phase("chat") == "Starting"


@pytest.mark.usefixtures("operator")
def test_a_queue_decides_when_a_job_holds_pods_and_an_eviction_is_no_failure(
    api: Api, manifest: Make, local_queues: Callable[[str], dict[str, Any]]
) -> None:
    """Kueue itself is not here: its writes to a Job, as its contract has them, are played."""
    job = manifest("chat")
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    api.apply(job)
    api.until("missed", lambda: "LocalQueue gpu" in api.condition("chat", "Accepted")["message"])
    api.apply(local_queues("gpu"))
    api.until("queued", lambda: api.phase("chat") == "Queued")
    [queued] = api.jobs_of("chat")
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert api.condition("chat", "Suspended")["reason"] == "Queued"
    assert api.every("pods") == []

    def admit(admitted: bool) -> None:
        patch = json.dumps({"spec": {"suspend": not admitted}})
        api("patch", "job", queued["metadata"]["name"], "--type=merge", "-p", patch)

    def attempts() -> dict[str, Any]:
        found: dict[str, Any] = api.status("chat")["attempts"]
        return found

    def start() -> str:
        return str(api.get("job", queued["metadata"]["name"])["status"]["startTime"])

    assert "activeSince" not in attempts()
    admit(True)
    pod = api.pod_of("chat")
    api.bind(pod)
    api.play_kubelet(pod, running=RUNNING)
    api.until("running", lambda: api.phase("chat") == "Running")
    api.until("counting", lambda: attempts().get("activeSince") == start())

    admit(False)
    api.until("evicted", lambda: api.phase("chat") == "Queued")
    preempted = {"result": "Preempted", "reason": "Preempted", "exitCode": 143, "step": 7}
    api.play_kubelet(pod, terminated=ended(143, preempted))
    api("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    api.until("its pod is gone", lambda: api.every("pods") == [])
    api.until("not counting", lambda: "activeSince" not in attempts())
    conditions = api.get("job", queued["metadata"]["name"])["status"]["conditions"]
    [evicted] = [c["lastTransitionTime"] for c in conditions if c["type"] == "Suspended"]
    held = datetime.fromisoformat(evicted) - datetime.fromisoformat(start())
    assert attempts()["activeSeconds"] == held.total_seconds()

    admit(True)
    again = api.pod_of("chat")
    assert again["metadata"]["uid"] != pod["metadata"]["uid"]
    api.bind(again)
    api.play_kubelet(again, running=RUNNING)
    api.until("running again", lambda: api.phase("chat") == "Running")
    [same] = api.jobs_of("chat")
    assert same["metadata"]["uid"] == queued["metadata"]["uid"]
    assert attempts()["current"] == 1
    api.until("counting again", lambda: attempts().get("activeSince") == start())
    assert attempts()["activeSeconds"] == held.total_seconds()


@pytest.mark.usefixtures("operator")
def test_a_job_deleted_by_hand_is_followed_by_the_next_attempt(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    [job] = api.jobs_of("chat")
    api("delete", "job", job["metadata"]["name"], "--cascade=foreground")
    api.until("started again", lambda: api.status("chat")["attempts"]["current"] == 2)


@pytest.mark.usefixtures("operator")
def test_an_edited_job_that_is_over_can_still_be_waited_for(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.play_kubelet(api.pod_of("chat"), terminated=ended(0, "{}"))
    api("wait", "--for=condition=Finished", "atj/chat", "--timeout=60s")
    api.apply(manifest("chat", policy={"podRetentionSeconds": 7200}))
    # kubectl passes over a condition that was observed on an older spec
    api("wait", "--for=condition=Finished", "atj/chat", "--timeout=60s")
    assert api.get("atj", "chat")["metadata"]["generation"] == 2
    assert api.condition("chat", "Finished")["observedGeneration"] == 2


@pytest.mark.usefixtures("operator")
def test_applying_the_same_manifest_again_changes_nothing(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    api.pod_of("chat")
    before = api.get("atj", "chat")
    assert "unchanged" in api("apply", "-f", "-", stdin=manifest("chat"))
    assert api.get("atj", "chat")["metadata"] == before["metadata"]
    assert before["spec"] == manifest("chat")["spec"]


@pytest.mark.usefixtures("operator")
def test_finished_jobs_are_cleaned_up_as_the_policy_says(api: Api, manifest: Make) -> None:
    api.apply(
        manifest("kept", policy={"podRetentionSeconds": 0}),
        manifest("gone", policy={"ttlSecondsAfterFinished": 0}),
    )
    for name in ("kept", "gone"):
        api.play_kubelet(api.pod_of(name), terminated=ended(0, "{}"))
    api.until("the Job is removed", lambda: api.jobs_of("kept") == [])
    assert api.phase("kept") == "Succeeded"
    names = lambda: [o["metadata"]["name"] for o in api.every("atj")]  # noqa: E731
    api.until("the AlignTuneJob is removed", lambda: names() == ["kept"])
    api.until("its Job too", lambda: api.jobs_of("gone") == [])


def test_an_operator_killed_at_any_time_loses_nothing_and_doubles_nothing(
    api: Api, operator: Operator, manifest: Make
) -> None:
    names = [f"job-{number}" for number in range(30)]
    rng = random.Random(7)
    for batch in range(0, len(names), 10):
        api.apply(*(manifest(name) for name in names[batch : batch + 10]))
        target = rng.randint(0, batch + 10)
        api.until(f"{target} Jobs", lambda target=target: len(api.every("jobs")) >= target)
        operator.stop(signal.SIGKILL)
        operator.start()
    api.until("all started", lambda: all(
        job.get("status", {}).get("phase") == "Starting" for job in api.every("atj")
    ))  # fmt: skip
    for name in names:
        assert len(api.jobs_of(name)) == 1
        assert api.status(name)["attempts"]["current"] == 1

    operator.stop(signal.SIGKILL)
    api.play_kubelet(api.pod_of("job-0"), terminated=ended(65, "bad row"))
    api("delete", "atj", "job-1", "--cascade=background")
    operator.start()
    api.until("failure seen", lambda: api.phase("job-0") == "Failed")
    api.until("children gone", lambda: api.jobs_of("job-1") == [])


def test_two_hundred_jobs_at_once_cost_one_job_and_few_writes_each(
    api: Api, operator: Operator, manifest: Make
) -> None:
    count = 200
    api.apply(*(manifest(f"job-{number}") for number in range(count)))
    api.until("all started", lambda: all(
        job.get("status", {}).get("phase") == "Starting" for job in api.every("atj")
    ))  # fmt: skip
    jobs = api.every("jobs")
    assert len(jobs) == count
    assert len({job["metadata"]["ownerReferences"][0]["uid"] for job in jobs}) == count
    requests = operator.metrics()
    creations = requests[
        'aligntune_operator_api_requests_total{code="201",resource="jobs",verb="POST"}'
    ]
    assert creations == count
    statuses = sum(
        value
        for name, value in requests.items()
        if name.startswith("aligntune_operator_api_requests_total{") and "/status" in name
    )
    assert statuses <= 2 * count


def test_a_graceful_stop_is_clean(api: Api, operator: Operator, manifest: Make) -> None:
    api.apply(manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    assert operator.stop() == 0
