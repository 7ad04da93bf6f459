"""etcd, the API server and the controllers as plain processes: no root, no containers."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.cluster import fake_nodes
from tests.cluster.binaries import binary
from tests.cluster.certificates import Authority
from tests.cluster.kubectl import kubectl, succeeds
from tests.cluster.processes import Processes, free_port, wait_until

SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
UNBROKEN_LOG_MEGABYTES = 100_000
"""More than any test writes: who reads what happened reads one file. The default is 100."""
MARKER = "aligntune-cluster"
"""File that tells a state folder, which may be wiped, from one given by mistake."""


@dataclass(frozen=True)
class Endpoint:
    """Where the API server is reached: by who reads the kubeconfig, and by pods (advertised)."""

    port: int
    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    advertised: str = "127.0.0.1"


class Kubernetes(ABC):
    """An API server in a state folder; as a context manager it starts on entry, stops on exit.

    Args:
        state: Folder for certificates, data, logs and the kubeconfig; `start` wipes it.
        outlive_parent: Whether the processes go on when the process that starts them ends.
    """

    def __init__(self, state: Path, *, outlive_parent: bool = False) -> None:
        self.state = state.resolve()
        self.kubeconfig = self.state / "kubeconfig"
        self._processes = Processes(self.state, outlive_parent=outlive_parent)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts from an empty state, over whatever an earlier run left; returns when usable."""
        self.stop()
        wipe(self.state)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills everything and leaves the state folder, so that logs can be read."""
        self._processes.stop()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; CalledProcessError carries its stderr when it fails."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def install(self, crd: Path) -> None:
        """Applies a CustomResourceDefinition and waits until its objects can be written.

        `kubectl wait` fails on one that is so new that it has no conditions at all.
        """
        self.kubectl("apply", "--server-side", "-f", str(crd))

        def established() -> bool:
            found = json.loads(self.kubectl("get", "-f", str(crd), "-o", "json"))
            conditions = found.get("status", {}).get("conditions") or ()
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        wait_until(f"{crd.name} is established", established, seconds=120)

    def process(self, name: str) -> psutil.Process:
        """One of the cluster's programs, to suspend, resume or kill."""
        found = self._processes.find(name)
        if found is None:
            raise RuntimeError(f"No {name} runs for {self.state}: see the logs there.")
        return found

    @abstractmethod
    def _start(self) -> None: ...


class ControlPlane(Kubernetes):
    """A Kubernetes with controllers and without nodes, on free loopback ports. Needs no root.

    Any number run side by side, each in a state folder of its own.

    Args:
        state: Folder for certificates, data, logs and the kubeconfig; `start` wipes it.
        scheduler: Whether pods are scheduled.
        fake_nodes: Nodes that kwok plays, on which pods are scheduled.
        pods: What becomes of a pod on a fake node: files of kwok's Stages.
        audited: Resources, by their API group, of which each write is written down.
        api_server_flags: More flags for the API server.
        outlive_parent: Whether the processes go on when the process that starts them ends.
    """

    def __init__(
        self,
        state: Path,
        *,
        scheduler: bool = False,
        fake_nodes: int = 0,
        pods: Sequence[Path] = fake_nodes.SUCCEEDS,
        audited: Mapping[str, Sequence[str]] | None = None,
        audits_accounts: bool = False,
        api_server_flags: Sequence[str] = (),
        outlive_parent: bool = False,
    ) -> None:
        super().__init__(state, outlive_parent=outlive_parent)
        self._scheduler = scheduler
        self._fake_nodes = fake_nodes
        self._pods = pods
        self._audited = audited or {}
        self._audits_accounts = audits_accounts
        self._api_server_flags = api_server_flags

    def restart(self, name: str) -> None:
        """Kills etcd or the API server and starts it again; returns when the API server is well."""
        self._processes.restart(name)
        self._processes.wait_until(
            "the API server is ready", lambda: succeeds(self.kubeconfig, "get", "--raw", "/readyz")
        )

    def _start(self) -> None:
        endpoint = Endpoint(free_port())
        start_components(
            self.state,
            self._processes,
            endpoint,
            with_scheduler=self._scheduler or self._fake_nodes > 0,
            more_flags=(
                *audit_flags(self.state, self._audited, accounts=self._audits_accounts),
                *self._api_server_flags,
            ),
        )
        if self._fake_nodes:
            fake_nodes.start(self._processes, self.kubeconfig, self._fake_nodes, self._pods)


def wipe(state: Path) -> None:
    """Empties a state folder, and refuses one that holds anything else."""
    state.mkdir(parents=True, exist_ok=True)
    marker = state / MARKER
    if any(state.iterdir()) and not marker.exists():
        raise RuntimeError(
            f"{state} is not empty and holds no cluster: name another folder with --state."
        )
    marker.touch()
    for entry in state.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != marker:
            entry.unlink()


def start_components(
    state: Path,
    processes: Processes,
    endpoint: Endpoint,
    *,
    with_scheduler: bool,
    more_flags: Sequence[str] = (),
) -> Authority:
    """Starts the control plane in an empty state folder and returns its certificate authority."""
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"):
        binary(name)  # built before the first deadline begins to run
    (state / "bin").mkdir()
    (state / "bin" / "kubectl").symlink_to(binary("kubectl"))
    authority = Authority(state / "pki")
    server = f"https://{endpoint.host}:{endpoint.port}"
    administrator = authority.issue("admin", group="system:masters")
    kubeconfig = authority.kubeconfig(state / "kubeconfig", server, administrator)

    etcd = f"http://127.0.0.1:{free_port()}"
    peers = f"http://127.0.0.1:{free_port()}"
    processes.start(
        "etcd",
        binary("etcd"),
        f"--data-dir={state / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={etcd}",
        f"--advertise-client-urls={etcd}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--log-level=warn",
    )

    has_pods = not ip_address(endpoint.advertised).is_loopback
    serving = authority.issue(
        "kube-apiserver",
        *dict.fromkeys((endpoint.host, endpoint.advertised, "127.0.0.1", KUBERNETES_SERVICE)),
        *("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
    )
    kubelet_client = authority.issue("kubelet-client", group="system:masters")
    service_accounts = authority.issue("service-accounts")
    processes.start(
        "kube-apiserver",
        binary("kube-apiserver"),
        f"--etcd-servers={etcd}",
        f"--bind-address={endpoint.bind}",
        f"--advertise-address={endpoint.advertised}",
        f"--secure-port={endpoint.port}",
        # A loopback address is refused in Endpoints, and without pods nobody looks there.
        f"--endpoint-reconciler-type={'lease' if has_pods else 'none'}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.pair.certificate}",
        f"--kubelet-certificate-authority={authority.pair.certificate}",
        f"--kubelet-client-certificate={kubelet_client.certificate}",
        f"--kubelet-client-key={kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={service_accounts.key}",
        f"--service-account-key-file={service_accounts.key}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        *more_flags,
    )
    processes.wait_until(
        "the API server is ready", lambda: succeeds(kubeconfig, "get", "--raw", "/readyz")
    )

    processes.start(
        "kube-controller-manager",
        binary("kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--use-service-account-credentials",
        # Made if it is missing, by default below /usr.
        f"--flex-volume-plugin-dir={state / 'volume-plugins'}",
        f"--root-ca-file={authority.pair.certificate}",
        f"--service-account-private-key-file={service_accounts.key}",
        f"--cluster-signing-cert-file={authority.pair.certificate}",
        f"--cluster-signing-key-file={authority.pair.key}",
        # Half a minute sooner than by default; the node renews its lease every 2 s.
        "--node-monitor-grace-period=20s",
        # The defaults (5 workers, 20 requests a second) make the Job controller the bottleneck.
        "--concurrent-job-syncs=20",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    )
    if with_scheduler:
        processes.start(
            "kube-scheduler",
            binary("kube-scheduler"),
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        )
    processes.wait_until(
        "the controllers have made the default service account",
        lambda: succeeds(kubeconfig, "get", "serviceaccount", "default"),
    )
    return authority


def audit_log(state: Path) -> Path:
    """A line of JSON for each request that is audited."""
    return state / "logs" / "audit.log"


def audit_flags(
    state: Path, resources: Mapping[str, Sequence[str]], *, accounts: bool = False
) -> list[str]:
    """Flags of an API server that writes down each write to these resources.

    Args:
        state: The cluster's folder.
        resources: By their API group.
        accounts: Also write down what each service account asks for, but for Kubernetes' own.
    """
    if not resources and not accounts:
        return []
    policy = state / "audit-policy.json"
    writes = {
        "level": "RequestResponse",
        "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        "resources": [
            {"group": group, "resources": list(names)} for group, names in resources.items()
        ],
    }
    theirs = [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    ]
    document = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [*([writes] if resources else []), *(theirs if accounts else [])],
    }
    policy.write_text(json.dumps(document))
    return [
        f"--audit-policy-file={policy}",
        f"--audit-log-path={audit_log(state)}",
        f"--audit-log-maxsize={UNBROKEN_LOG_MEGABYTES}",
    ]
