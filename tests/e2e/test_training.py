"""A real model, fine-tuned on real data by kubectl apply, on a real kubelet."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import cache
from tests.cluster.binaries import binary
from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import scraping
from tests.e2e.conftest import FINISH_SECONDS, NAMESPACE, Monitoring, Tenant, example


class PhaseWatch:
    """`kubectl get --watch` in the background: every phase in its order."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.phases: list[str] = []
        self._process = subprocess.Popen(
            [binary("kubectl"), "--kubeconfig", cluster.kubeconfig, "-n", NAMESPACE,
             "get", "atj", name, "--watch", "-o", "jsonpath={.status.phase}{'\\n'}"],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            phase = line.strip()
            if phase and phase != (self.phases or [""])[-1]:
                self.phases.append(phase)

    def stop(self) -> list[str]:
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)
        return self.phases


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("operator")
def test_the_demo_trains_by_kubectl_apply(cluster: Cluster, tenant: Tenant, tmp_path: Path) -> None:
    manifest = example("sft-chat")
    steps = manifest["spec"]["sft"]["train"]["maxSteps"]
    tenant.apply(manifest)
    watch = PhaseWatch(cluster, "sft-chat")

    def progress() -> dict[str, Any]:
        return tenant.status("sft-chat").get("progress", {})

    wait_until("a step is seen", lambda: progress().get("step", 0) > 0, FINISH_SECONDS)
    seen = tenant.status("sft-chat")
    assert seen["phase"] == "Running"
    assert seen["progress"]["totalSteps"] == steps
    assert seen["metrics"]["loss"] > 0
    check_scraped(cluster, tenant, tmp_path)

    tenant("wait", "--for=condition=Complete", "atj/sft-chat", f"--timeout={FINISH_SECONDS}s")
    assert watch.stop() == ["Starting", "Running", "Succeeded"]
    status = tenant.status("sft-chat")
    assert status["progress"]["step"] == steps
    assert status["checkpoint"]["step"] == steps
    assert status["attempts"]["history"][0]["exitCode"] == 0

    folder = tenant.models / status["model"]["path"]
    check_loads(folder)

    described = tenant("describe", "atj", "sft-chat")
    for told in ("AttemptStarted", "PodsRunning", "Trained", f"Trained {steps} steps"):
        assert told in described
    line = tenant("get", "atj", "sft-chat").splitlines()[1].split()
    assert line[:6] == ["sft-chat", "trl", "sft", "Succeeded", f"{steps}/{steps}", "100%"]

    tenant("delete", "atj", "sft-chat")
    wait_until("no pod is left", lambda: tenant.pod("sft-chat") == "", 120)
    assert folder.is_dir(), "what is on the storage is never deleted"


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("operator")
def test_a_job_without_a_claim_trains_on_its_pods_own_disk(tenant: Tenant) -> None:
    manifest = example("sft-chat")
    manifest["metadata"]["name"] = "own-disk"
    manifest["spec"]["storage"] = {"ephemeral": True}
    manifest["spec"]["sft"]["train"]["maxSteps"] = 2
    tenant.apply(manifest)
    tenant("wait", "--for=condition=Complete", "atj/own-disk", f"--timeout={FINISH_SECONDS}s")
    assert tenant.status("own-disk")["checkpoint"]["step"] == 2


def check_loads(folder: Path) -> None:
    """What the pod saved loads with plain transformers and PEFT, and is no longer the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = cache.folder().parent / "models" / "SmolLM2-135M-Instruct"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    question = AutoTokenizer.from_pretrained(folder)("Are you sentient?", return_tensors="pt")
    tuned = model(**question).logits
    with model.disable_adapter():
        assert not tuned.equal(model(**question).logits)


def check_scraped(cluster: Cluster, tenant: Tenant, folder: Path) -> None:
    """A real Prometheus finds the trainer's numbers at its pod, the operator's at its own."""
    with scraping(folder, *Monitoring(cluster, tenant, folder).scrapes) as prometheus:
        for metric in (
            'aligntune_train_step{aligntune_io_job_name="sft-chat"}',
            "aligntune_train_loss",
            "aligntune_train_step_seconds_sum",
            f'max(aligntune_job_step{{namespace="{NAMESPACE}", aligntunejob="sft-chat"}})',
            "count(aligntune_operator_leader)",
        ):
            wait_until(f"{metric} is scraped", lambda m=metric: bool(prometheus.query(m)), 60)
            [series] = prometheus.query(metric)
            assert float(series["value"][1]) > 0


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("operator")
class TestFailures:
    """Of the user's making, told by the cause."""

    def test_a_wrong_model_name_is_told_as_such(self, tenant: Tenant) -> None:
        manifest = example("sft-chat")
        manifest["metadata"]["name"] = "wrong-name"
        manifest["spec"]["sft"]["model"]["name"] = "/cache/models/SmolLM3"
        tenant.apply(manifest)
        tenant("wait", "--for=condition=Failed", "atj/wrong-name", f"--timeout={FINISH_SECONDS}s")
        failure = tenant.status("wrong-name")["failure"]
        assert failure["reason"] == "ModelNotFound"
        assert "/cache/models/SmolLM3" in failure["message"]
        assert failure["exitCode"] == 66
        assert failure["retryable"] is False
        assert "ModelNotFound" in tenant("describe", "atj", "wrong-name")

    def test_a_job_that_needs_more_memory_than_its_limit_is_told_as_such(
        self, tenant: Tenant
    ) -> None:
        manifest = example("sft-chat")
        manifest["metadata"]["name"] = "too-big"
        manifest["spec"]["runtime"]["resources"] = {"limits": {"memory": "700Mi"}}
        manifest["spec"]["policy"] = {"maxRestarts": 0}
        tenant.apply(manifest)
        tenant("wait", "--for=condition=Failed", "atj/too-big", f"--timeout={FINISH_SECONDS}s")
        status = tenant.status("too-big")
        assert status["failure"]["reason"] == "OutOfMemory"
        assert "memory" in status["failure"]["message"]
        outcome = next(tenant.models.glob("too-big-*/attempt-1/outcome.json"))
        assert json.loads(outcome.read_text())["reason"] == "OutOfMemory"
