"""AlignTuneJobs that start from one another, applied at once to a real API server."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Api
from tests.integration.test_lifecycle import RUNNING, ended

Make = Callable[..., dict[str, Any]]


def sft(model: dict[str, str]) -> dict[str, Any]:
    return {"model": model, "datasets": [{"name": "d"}]}


def ppo(model: str, judge: str) -> dict[str, Any]:
    models = {"model": {"fromJob": model}, "rewardModel": {"fromJob": judge}}
    return {"algo": "ppo", "datasets": [{"name": "d"}]} | models


def train(api: Api, name: str) -> None:
    """Lets the pod of a job end with a model."""
    pod = api.pod_of(name)
    api.play_kubelet(pod, running=RUNNING)
    outcome = {"result": "Succeeded", "exitCode": 0, "step": 9, "modelPath": f"{name}/model"}
    api.play_kubelet(pod, terminated=ended(0, outcome))
    api("wait", "--for=condition=Complete", f"atj/{name}", "--timeout=60s")


def waits(api: Api, name: str) -> str:
    condition = api.condition(name, "Reconciling")
    return str(condition["message"]) if condition["reason"] == "WaitingForJobs" else ""


@pytest.mark.usefixtures("operator")
def test_stages_applied_at_once_run_in_their_order(api: Api, manifest: Make) -> None:
    sums = manifest("sums", rl=ppo("chat", "judge"))
    del sums["spec"]["sft"]
    api.apply(sums, manifest("judge", sft=sft({"fromJob": "chat"})), manifest("chat"))
    api.until("sums waits for both", lambda: "chat" in waits(api, "sums"))
    api.until("judge waits", lambda: "chat, which is Starting" in waits(api, "judge"))
    assert api.condition("sums", "Accepted")["status"] == "True"
    assert not api.jobs_of("judge") + api.jobs_of("sums")

    train(api, "chat")
    api.until("judge has what it waits for", lambda: bool(api.jobs_of("judge")))
    api.until("sums waits for one", lambda: "chat" not in waits(api, "sums"))
    assert not api.jobs_of("sums")

    train(api, "judge")
    pod = api.pod_of("sums")
    config = json.loads(pod["metadata"]["annotations"]["aligntune.io/config"])
    assert config["rl"]["model"]["name"] == "/aligntune/sources/chat"
    assert config["rl"]["rewardModel"]["name"] == "/aligntune/sources/judge"
    [mount] = [
        mount
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"] == "/aligntune/sources/judge"
    ]
    assert (mount["subPath"], mount["readOnly"]) == ("judge/model", True)
    lineage = api.status("sums")["lineage"]
    uid = json.loads(api("get", "atj", "chat", "-o", "json"))["metadata"]["uid"]
    assert [source["job"] for source in lineage] == ["chat", "judge"]
    assert lineage[0]["uid"] == uid


@pytest.mark.usefixtures("operator")
def test_a_job_fails_with_the_one_whose_model_it_waits_for(api: Api, manifest: Make) -> None:
    api.apply(manifest("more", sft=sft({"fromJob": "chat"})), manifest("chat"))
    outcome = {"result": "Failed", "reason": "DataError", "exitCode": 65, "message": "no column"}
    api.play_kubelet(api.pod_of("chat"), terminated=ended(65, outcome))
    api("wait", "--for=condition=Failed", "atj/more", "--timeout=60s")
    assert api.status("more")["failure"]["reason"] == "SourceFailed"
    assert api.status("more")["failure"]["message"].endswith("failed: no column")
    assert not api.jobs_of("more")


@pytest.mark.usefixtures("operator")
def test_jobs_that_wait_for_each_other_are_refused_until_one_is_mended(
    api: Api, manifest: Make
) -> None:
    api.apply(
        manifest("one", sft=sft({"fromJob": "two"})),
        manifest("two", sft=sft({"fromJob": "three"})),
        manifest("three", sft=sft({"fromJob": "one"})),
    )
    for name in ("one", "two", "three"):
        api.until("refused", lambda name=name: api.condition(name, "Stalled")["status"] == "True")  # type: ignore[misc]
    message = api.condition("one", "Accepted")["message"]
    assert message == "fromJob: these jobs wait for each other: one -> two -> three -> one"
    api.apply(manifest("three"))
    api.until("three runs", lambda: bool(api.jobs_of("three")))
    api.until("the others wait", lambda: "three" in waits(api, "two") and bool(waits(api, "one")))
