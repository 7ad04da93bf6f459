"""A real Prometheus, Debian's: its programs, and a server that scrapes what it is told to."""

import json
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cluster import cache
from tests.cluster.processes import wait_until

APT = ("apt-get", "-o", "APT::Sandbox::User=root")


def program(name: str) -> Path:
    """`prometheus` or `promtool` out of Debian's package; nothing is installed or started."""

    def fetch(file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*APT, "update", "-qq"], check=True)
            subprocess.run([*APT, "download", "-qq", "prometheus"], cwd=folder, check=True)
            [package] = Path(folder).glob("*.deb")
            subprocess.run(["dpkg", "-x", package, f"{folder}/root"], check=True)
            file.write_bytes(Path(f"{folder}/root/usr/bin/{name}").read_bytes())
            file.chmod(0o755)

    return cache.once(f"prometheus/{name}", fetch)


class Target(NamedTuple):
    """Something with metrics."""

    name: str
    address: str
    path: str = "/metrics"
    labels: dict[str, str] | None = None
    secured: dict[str, Any] | None = None
    """How it is reached by TLS, in Prometheus' words; None: it is plain HTTP."""


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of a PromQL expression."""
        return self._ask("query", query=expression)

    def over(self, expression: str, start: float, end: float, step: int) -> list[dict[str, Any]]:
        """The range vector of a PromQL expression: every `step` seconds between two moments."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def _ask(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def scraping(folder: Path, *targets: Target) -> Iterator[Prometheus]:
    """Scrapes every second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": target.name,
                "metrics_path": target.path,
                "static_configs": [{"targets": [target.address], "labels": target.labels or {}}],
                **(target.secured or {}),
            }
            for target in targets
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(port)
        wait_until("Prometheus is ready", prometheus.ready, 60)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)
