"""The operator as a process of its own, its CRD, and the smallest job for it."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.processes import REPOSITORY, free_port

CRD = REPOSITORY / "crds" / "aligntune.io_aligntunejobs.yaml"
DEADLINE_SECONDS = 60
"""How long anything may take on a busy machine; nothing here measures time."""


class Operator:
    """`python -m aligntune_operator` as a process of its own; `env` adds to its environment."""

    def __init__(
        self, kubeconfig: Path, log: Path, *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._env = {"KUBECONFIG": str(kubeconfig)} | dict(env or {})
        self._log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aligntune_operator", "--http-port", str(self._port),
                 *self._options],
                env={**os.environ, **self._env},
                stdout=log,
                stderr=log,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def address(self) -> str:
        """Host and port of its /metrics."""
        return f"127.0.0.1:{self._port}"

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Waits for it to end by itself; its exit code."""
        assert self._process is not None
        code = self._process.wait(DEADLINE_SECONDS)
        self._process = None
        return code

    def ended(self) -> int:
        """The exit code of one that has ended by itself."""
        assert self._process is not None
        return self._process.wait(0)

    @property
    def leads(self) -> bool:
        return self.running and self.metrics().get("aligntune_operator_leader") == 1

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._process = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def metrics(self) -> dict[str, float]:
        """Empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


def claim(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def align_tune_job(name: str, **spec: Any) -> dict[str, Any]:
    """The smallest job that starts, with these sections in place of its own."""
    return {
        "apiVersion": "aligntune.io/v1alpha1",
        "kind": "AlignTuneJob",
        "metadata": {"name": name},
        "spec": {
            "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
            "runtime": {"gpusPerNode": 0},
            "storage": {"claimName": "models"},
        }
        | spec,
    }
