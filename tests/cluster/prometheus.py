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
    """Of an account that may list and watch pods, and get pods/proxy."""


def pods(name: str, access: Access, selector: str, *, honor_labels: bool = False) -> Scrape:
    """The port `metrics` of all pods with a label, found and asked through the API server.

    They are labelled as by a PodMonitor or ServiceMonitor of the chart.
    """
    meta = "__meta_kubernetes_"
    pod = [f"{meta}namespace", f"{meta}pod_name", f"{meta}pod_container_port_number"]
    proxy = "/api/v1/namespaces/${1}/pods/${2}:${3}/proxy/metrics"
    asks = {
        "authorization": {"credentials": access.token},
        "tls_config": {"ca_file": access.authority},
    }
    return {
        "job_name": name,
        "scheme": "https",
        "honor_labels": honor_labels,
        **asks,
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "api_server": access.server,
                "selectors": [{"role": "pod", "label": selector}],
                **asks,
            }
        ],
        "relabel_configs": [
            {
                "action": "keep",
                "source_labels": [f"{meta}pod_container_port_name"],
                "regex": "metrics",
            },
            {
                "source_labels": pod,
                "regex": "(.+);(.+);(.+)",
                "target_label": "__metrics_path__",
                "replacement": proxy,
            },
            {
                "target_label": "__address__",
                "replacement": urllib.parse.urlsplit(access.server).netloc,
            },
            *(
                {"source_labels": [f"{meta}{source}"], "target_label": target}
                for source, target in (
                    ("namespace", "namespace"),
                    ("pod_name", "pod"),
                    ("pod_name", "instance"),
                    ("pod_label_aligntune_io_job_name", "aligntune_io_job_name"),
                )
            ),
        ],
    }


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
