"""A control plane with fake nodes, the operator, and the watcher, as real processes."""

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import Connection, connect
from bench.scale import requests
from bench.scale.sides import NAMESPACE, Side, paths
from bench.scale.usage import Meter
from bench.scale.watcher import Streams
from tests.cluster.control_plane import ControlPlane
from tests.cluster.helm import CHART, RELEASE, helm
from tests.cluster.helm import NAMESPACE as OPERATORS
from tests.cluster.operator_process import CRD, Operator
from tests.cluster.processes import wait_until

FAKE_NODES = 10
RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


class Watched(NamedTuple):
    """What the watcher sees."""

    folder: Path
    done: Callable[[], Awaitable[bytes]]
    """Waits until all objects have succeeded."""


@dataclass
class World:
    """What a run has around it."""

    cluster: ControlPlane
    connection: Connection
    folder: Path
    audit: Path | None = None
    """Where each request is written down, if it is."""
    controllers: dict[str, psutil.Process] = field(default_factory=dict)
    """Those that are measured, by the name that the report calls them."""

    def meter(self) -> Meter:
        """Of every process but the client and the watcher."""
        programs = {name: self.cluster.process(name) for name in PROGRAMS}
        return Meter(programs | self.controllers)

    def requests(self) -> Counter[str]:
        """What the API server was asked until now."""
        return requests.counted(self._api_metrics())

    def stored(self) -> dict[str, float]:
        """Bytes that an object takes in etcd, by resource."""
        return requests.stored(self._api_metrics())

    def _api_metrics(self) -> str:
        return self.cluster.kubectl("get", "--raw", "/metrics")

    def asked(self) -> Counter[str]:
        """What each client asked of the API server until now, if that is written down."""
        return requests.by_client(self.audit.read_text()) if self.audit else Counter()

    @asynccontextmanager
    async def watched(self, side: Side, count: int) -> AsyncIterator[Watched]:
        """Watches, and tells when so many objects have succeeded."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        done_in = "objects" if "objects" in paths(side) else "jobs"
        streams = Streams(str(folder), paths(side), done_in, side.done, count)
        watcher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.scale.watcher", json.dumps(streams._asdict())),
            stdout=asyncio.subprocess.PIPE,
        )
        assert watcher.stdout is not None
        try:
            for _ in streams.paths:
                await watcher.stdout.readline()
            yield Watched(folder, watcher.stdout.readline)
        finally:
            watcher.terminate()
            await watcher.wait()


def prepare(cluster: ControlPlane) -> None:
    """The CRD and a namespace; this process becomes the administrator."""
    cluster.install(CRD)
    cluster.kubectl("create", "namespace", NAMESPACE)
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)


@contextmanager
def world(*, audited: bool = False) -> Iterator[World]:
    """An empty cluster, with the CRD and a namespace.

    Args:
        audited: Whether the API server writes each request down, which costs it CPU.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy, audit = folder / "audit-policy.json", folder / "audit.log"
        policy.write_text(json.dumps(requests.AUDIT_POLICY))
        flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit}")
        with ControlPlane(
            folder / "state", fake_nodes=FAKE_NODES, api_server_flags=flags if audited else ()
        ) as cluster:
            prepare(cluster)
            connection = connect(kopf_settings())
            connection.session.headers["User-Agent"] = requests.CLIENT
            yield World(cluster, connection, folder, audit if audited else None)


@contextmanager
def nobody(_: World) -> Iterator[None]:
    """No controllers but Kubernetes' own."""
    yield


def kubeconfig_of(cluster: ControlPlane, namespace: str, account: str) -> dict[str, Any]:
    """A kubeconfig with the token of a service account."""
    found: dict[str, Any] = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("-n", namespace, "create", "token", account, "--duration=24h")
    found["users"][0]["user"] = {"token": token.strip()}
    return found


@contextmanager
def operator(around: World, options: Sequence[str] = ()) -> Iterator[Operator]:
    """The operator, idle, with the chart's service account and rights."""
    rendered = yaml.safe_load_all(helm("template", RELEASE, CHART, "--namespace", OPERATORS))
    rights = [manifest for manifest in rendered if manifest["kind"] in RIGHTS]
    document = {"apiVersion": "v1", "kind": "List", "items": rights}
    around.cluster.kubectl("create", "namespace", OPERATORS)
    around.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    kubeconfig = around.folder / "operator.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(kubeconfig_of(around.cluster, OPERATORS, RELEASE)))
    ours = Operator(kubeconfig, around.folder / "operator.log", *options)
    ours.start()
    try:
        wait_until("the operator is ready", lambda: bool(ours.metrics()), seconds=60)
        around.controllers["operator"] = psutil.Process(ours.pid)
        yield ours
    finally:
        del around.controllers["operator"]
        ours.stop()
