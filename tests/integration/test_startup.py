"""The operator against clusters that are not as it needs them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.cluster.control_plane import ControlPlane


def operator(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligntune_operator", *(options or ("--http-port", "0"))],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_the_crd_it_says_so_and_ends(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "state") as control_plane:
        ended = operator(KUBECONFIG=str(control_plane.kubeconfig))
    assert ended.returncode == 1
    assert "the cluster has no AlignTuneJobs: apply crds/ first" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_mistake_in_the_settings_is_a_sentence() -> None:
    ended = operator(ALIGNTUNE_OPERATOR_WORKERS="0", KUBECONFIG="")
    assert ended.returncode == 78
    assert "ALIGNTUNE_OPERATOR_WORKERS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    ended = operator(KUBECONFIG="", HOME=str(tmp_path))
    assert ended.returncode == 1
    assert "set KUBECONFIG to a kubeconfig" in ended.stderr


def test_a_port_that_another_process_has_is_a_sentence(control_plane: ControlPlane) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        ended = operator("--http-port", str(port), KUBECONFIG=str(control_plane.kubeconfig))
    assert ended.returncode == 78
    assert ended.stderr.splitlines()[-1] == (
        f"aligntune-operator: --http-port {port}: address already in use; choose another, or 0"
        " for none"
    )
    assert "Traceback" not in ended.stderr
