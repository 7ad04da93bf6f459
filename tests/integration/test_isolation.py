"""Each job's NetworkPolicy on a real API server; that a network enforces it is not shown here."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator
from tests.integration.conftest import Api

OPERATOR = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "aligntune-system"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "aligntune-operator"}},
}


def test_a_jobs_pods_are_closed_to_others_as_long_as_it_lives(
    control_plane: ControlPlane, api: Api, manifest: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    observers = ("--observers", json.dumps([OPERATOR]))
    where = ("--namespaces", api.namespace)
    log = tmp_path / "log"
    operator = Operator(control_plane.kubeconfig, log, "--network-policies", *observers, *where)
    operator.start()
    api.apply(manifest("chat"))
    labels = api.pod_of("chat")["metadata"]["labels"]
    [policy] = api.every("networkpolicies")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= labels.items()
    assert policy["spec"] == {
        "podSelector": {"matchLabels": chosen},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": chosen}}]},
            {"from": [OPERATOR], "ports": [{"port": 9400, "protocol": "TCP"}]},
        ],
    }

    api("delete", "job", "-l", "aligntune.io/job-name=chat")
    api.until("the next attempt", lambda: api.status("chat")["attempts"]["current"] == 2)
    [same] = api.every("networkpolicies")
    assert same["metadata"]["uid"] == policy["metadata"]["uid"]

    api("delete", "atj", "chat")
    api.until("it is gone", lambda: api.every("networkpolicies") == [])
    assert operator.stop(signal.SIGTERM) == 0
    assert "Traceback" not in operator.log
