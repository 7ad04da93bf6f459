"""Nodes that kwok plays: pods are scheduled on them and say that they run, and nothing runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.binaries import binary
from tests.cluster.kubectl import kubectl
from tests.cluster.processes import Processes

SELECTOR = "type=kwok"
STAGES = Path(__file__).parent / "stages"
RUNS = (STAGES / "pod-runs.yaml",)
"""Pods run until they are deleted."""
SUCCEEDS = (*RUNS, STAGES / "pod-succeeds.yaml")
"""Jobs' pods run, and have succeeded at once."""


def start(processes: Processes, kubeconfig: Path, count: int, pods: Sequence[Path]) -> None:
    """Starts kwok and returns when all its nodes take pods.

    Args:
        processes: The cluster's.
        kubeconfig: Whose API server it plays for.
        count: How many nodes.
        pods: Files of kwok's Stages, which say what becomes of a pod.
    """
    stages = (STAGES / "node.yaml", *pods)
    processes.start(
        "kwok",
        binary("kwok"),
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=true",
        "--cidr=10.128.0.0/14",
        # Renewed every quarter of it. A node without a lease is taken for lost and found again,
        # over and over, and each time all its pods are written.
        "--node-lease-duration-seconds=20",
        *(f"--config={file}" for file in stages),
    )
    nodes = [_node(f"fake-{number}") for number in range(count)]
    manifests = {"apiVersion": "v1", "kind": "List", "items": nodes}
    kubectl(kubeconfig, "create", "-f", "-", stdin=json.dumps(manifests))
    # `kubectl wait` looks at one node after the other: for many, that is longer than its timeout.
    asked = ("get", "nodes", "-l", SELECTOR, "-o", "json")

    def ready() -> bool:
        items = json.loads(kubectl(kubeconfig, *asked))["items"]
        conditions = [node["status"].get("conditions", ()) for node in items]
        return all(any(c["type"] == "Ready" for c in found) for found in conditions)

    processes.wait_until("the fake nodes are ready", ready)


def _node(name: str) -> dict[str, object]:
    key, value = SELECTOR.split("=")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {key: value}},
    }
