"""A real Prometheus, Debian's: its programs, and a server that scrapes what it is told to."""

import json
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aligntune.api.labels import JOB_NAME
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


Scrape = dict[str, Any]
"""An entry of `scrape_configs`, in Prometheus' words."""


def at(name: str, address: str) -> Scrape:
    """One endpoint, over plain HTTP."""
    return {"job_name": name, "static_configs": [{"targets": [address]}]}


class Access(NamedTuple):
    """To an API server."""

    server: str
    """Its URL."""
    authority: str
    """File with the certificate of its authority."""
    token: str
    """Of an account that may get pods/proxy."""


def proxied(name: str, access: Access, targets: Path, *, honor_labels: bool = False) -> Scrape:
    """Pods, asked through the API server; which, says a file that is read again as it changes."""
    return {
        "job_name": name,
        "scheme": "https",
        "honor_labels": honor_labels,
        "authorization": {"credentials": access.token},
        "tls_config": {"ca_file": access.authority},
        "file_sd_configs": [{"files": [str(targets)]}],
    }


def target(access: Access, pod: Mapping[str, Any], port: int) -> dict[str, Any]:
    """A pod in such a file, with the labels that a monitor of the chart would give it."""
    meta = pod["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    labels = {
        "__metrics_path__": f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics",
        "namespace": namespace,
        "pod": name,
        "instance": name,
    }
    if job := meta["labels"].get(JOB_NAME):
        labels["aligntune_io_job_name"] = job
    return {"targets": [urllib.parse.urlsplit(access.server).netloc], "labels": labels}


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
def scraping(folder: Path, *scrapes: Scrape) -> Iterator[Prometheus]:
    """Scrapes every second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))
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
