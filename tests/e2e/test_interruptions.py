"""What may happen to a running job, on a real kubelet: it goes on from where it was."""

import json
from functools import partial
from typing import Any

import pytest

from tests.cluster.processes import wait_until
from tests.e2e.conftest import FINISH_SECONDS, NAMESPACE, PAUSE_SECONDS, Tenant, example

STEPS = 16


def job(name: str, save_every: int, steps: int = STEPS, **spec: Any) -> dict[str, Any]:
    """A short run of the chat example; checkpoints every `save_every` steps."""
    manifest = example("sft-chat")
    manifest["metadata"]["name"] = name
    sft = manifest["spec"]["sft"]
    sft["train"] |= {"maxSteps": steps, "perDeviceBatchSize": 2}
    sft["checkpoint"] = {"everySteps": save_every}
    manifest["spec"]["runtime"] |= spec.pop("runtime", {})
    manifest["spec"] |= spec
    return manifest


def wait_for_step(tenant: Tenant, name: str, step: int) -> None:
    def reached() -> bool:
        status = tenant.status(name)
        assert status.get("phase") not in ("Succeeded", "Failed"), status
        return status.get("progress", {}).get("step", 0) >= step

    what = f"{name} has done {step} steps"
    wait_until(what, reached, FINISH_SECONDS, pause_seconds=PAUSE_SECONDS)


def evict(tenant: Tenant, pod: str, **options: Any) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
        **options,
    }
    url = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    tenant("create", "--raw", url, "-f", "-", stdin=eviction)


def finish(tenant: Tenant, name: str) -> dict[str, Any]:
    """The attempts of a job that has succeeded, with every step of its loss curve made once."""
    status = tenant.until_succeeded(name)
    folder = (tenant.models / status["model"]["path"]).parent
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    tenant("delete", "atj", name)
    attempts: dict[str, Any] = status["attempts"]
    return attempts


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("operator")
class TestInterruptions:
    """One job after the other."""

    def test_an_evicted_pod_loses_no_step(self, tenant: Tenant) -> None:
        tenant.apply(job("evicted", save_every=1000))
        wait_for_step(tenant, "evicted", 3)
        pod = tenant.pod("evicted").removeprefix("pod/")
        evict(tenant, pod)
        attempts = finish(tenant, "evicted")
        assert (attempts["restarts"], attempts["preemptions"]) == (0, 1)
        first, second = attempts["history"]
        assert first["reason"] == "Preempted"
        assert second["fromStep"] == first["toStep"] >= 3

    def test_a_suspended_job_holds_no_pod_and_goes_on_when_it_is_resumed(
        self, tenant: Tenant
    ) -> None:
        manifest = job("suspended", save_every=1000)
        tenant.apply(manifest)
        wait_for_step(tenant, "suspended", 3)
        tenant.suspend("suspended")
        tenant("wait", "--for=condition=Suspended", "atj/suspended", "--timeout=180s")
        assert tenant.pod("suspended") == ""
        tenant.suspend("suspended", suspend=False)
        attempts = finish(tenant, "suspended")
        assert (attempts["restarts"], attempts["preemptions"]) == (0, 0)
        first, second = attempts["history"]
        assert first["reason"] == "Suspended"
        assert second["fromStep"] == first["toStep"] >= 3

    def test_two_pods_train_together_and_the_loss_of_one_is_free(self, tenant: Tenant) -> None:
        """It has no time for a checkpoint, so that its peer fails in a collective."""
        tenant.apply(job("gang", save_every=2, runtime={"nodes": 2}))
        wait_for_step(tenant, "gang", 4)
        second = "batch.kubernetes.io/job-completion-index=1,aligntune.io/job-name=gang"
        pod = tenant("get", "pods", "-l", second, "-o", "name").strip().removeprefix("pod/")
        evict(tenant, pod, deleteOptions={"gracePeriodSeconds": 0})
        attempts = finish(tenant, "gang")
        assert (attempts["restarts"], attempts["preemptions"]) == (0, 1)
        assert attempts["history"][0]["reason"] == "Preempted"
        assert attempts["history"][1]["fromStep"] >= 4

    def test_a_run_that_hangs_is_ended_and_goes_on(self, tenant: Tenant) -> None:
        tenant.apply(job("hung", save_every=2, policy={"stallTimeoutSeconds": 90}))
        # What is stopped in the middle of a checkpoint does not hang: that may take its time.
        written = partial(tenant.models.glob, "hung-*/checkpoint-4/complete.json")
        wait_until("a checkpoint is complete", lambda: any(written()), FINISH_SECONDS)
        stop = (
            "import os, signal\n"
            "for pid in filter(str.isdecimal, os.listdir('/proc')):\n"
            "    found = open(f'/proc/{pid}/cmdline', 'rb').read()\n"
            "    if b'aligntune.pod.rank' in found and int(pid) != os.getpid():\n"
            "        os.kill(int(pid), signal.SIGSTOP)\n"
        )
        pod = tenant.pod("hung").removeprefix("pod/")
        tenant("exec", pod, "-c", "trainer", "--", "python3", "-c", stop)
        attempts = finish(tenant, "hung")
        assert attempts["restarts"] == 1
        assert attempts["history"][0]["reason"] == "Stalled"
