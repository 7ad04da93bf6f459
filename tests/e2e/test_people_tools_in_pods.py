"""`aligntune` and the pods of a real kubelet: logs and curves while they run, and when they are
gone.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.e2e.conftest import NAMESPACE, Tenant, example

FINISH_SECONDS = 1200
"""How long a job may take on a busy machine; nothing here measures time."""
STEPS = 30


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("operator")
def test_logs_of_all_ranks_and_the_curve_outlive_the_pods(
    cluster: Cluster, tenant: Tenant, tmp_path: Path
) -> None:
    def aligntune(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aligntune", *arguments, "-n", NAMESPACE],
            check=False, capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "COLUMNS": "120"},
        )  # fmt: skip

    def out(*arguments: str) -> str:
        done = aligntune(*arguments)
        sys.stdout.write(f"$ aligntune {' '.join(arguments)}\n{done.stderr}{done.stdout}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    manifest = example("sft-chat")
    manifest["metadata"]["name"] = "told"
    manifest["spec"]["sft"]["model"]["maxLength"] = 32
    manifest["spec"]["sft"]["train"] |= {"maxSteps": STEPS, "perDeviceBatchSize": 1}
    # Else only the first process has something to say while nothing is wrong.
    manifest["spec"]["runtime"]["env"] = [{"name": "TRANSFORMERS_VERBOSITY", "value": "info"}]
    manifest["spec"]["runtime"]["processesPerNode"] = 2
    manifest["spec"]["policy"] = {"podRetentionSeconds": 0}
    tenant.apply(manifest)

    def step() -> int:
        status = tenant.status("told")
        assert status.get("phase") != "Failed", status
        return int(status.get("progress", {}).get("step", 0))

    wait_until("a step is seen", lambda: step() > 0, FINISH_SECONDS)
    running = out("logs", "told", "--tail", "50")
    assert re.search(rf"^\[rank 0\] \S+ INFO step 1/{STEPS}: loss", running, re.MULTILINE)
    assert "[rank 1] " in running
    assert "[rank 0] " not in out("logs", "told", "--rank", "1")
    assert "loss: " in out("plot", "told", "--file", "running.png")
    assert (tmp_path / "running.png").read_bytes().startswith(b"\x89PNG")

    followed = out("logs", "told", "--follow")
    assert f"step {STEPS}/{STEPS}: loss" in followed
    assert "told: Succeeded" in out("watch", "told")
    wait_until("the pods are removed", lambda: tenant.pod("told") == "", 120)

    stored = out("logs", "told")
    assert f"step {STEPS}/{STEPS}: loss" in stored
    assert {line[:9] for line in stored.splitlines()} == {"[rank 0] ", "[rank 1] "}
    last = out("logs", "told", "--rank", "0", "--tail", "3")
    assert len(last.splitlines()) == 3
    told = out("plot", "told")
    assert f"at step {STEPS}" in told
    assert (tmp_path / "told.png").read_bytes().startswith(b"\x89PNG")
    assert tenant("get", "pods", "-o", "name") == "", "no reader is left behind"
    tenant("delete", "atj", "told")
