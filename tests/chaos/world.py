"""One row's surroundings: a namespace with jobs, replicas of the operator, and pods that live."""

import json
import random
import signal
import ssl
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from aligntune.api.labels import ATTEMPT, JOB_NAME
from tests.chaos.accounts import Account
from tests.chaos.endpoints import Network
from tests.chaos.proxy import Proxy
from tests.cluster import packages
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator, align_tune_job, claim
from tests.cluster.processes import wait_until

SETTLE_SECONDS = 300
"""How long everything may take to come right; nothing here measures time."""
STARTING = (429, 503)
"""What an API server answers that is ready, and has not opened the storage of each kind yet."""
ALIGN_TUNE_JOBS = "apis/aligntune.io/v1alpha1"
FINAL = ("Succeeded", "Failed")
EXPECTED = {
    "done": "Succeeded",
    "retried": "Succeeded",
    "wrong": "Failed",
    "steady": "Succeeded",
    "held": "Succeeded",
    "gang": "Succeeded",
}
"""What a job does, by the beginning of its name -> how it must end."""

Object = dict[str, Any]


class ApiServer:
    """The real API server, as its administrator sees it."""

    def __init__(self, control_plane: ControlPlane) -> None:
        pki = control_plane.state / "pki"
        self.anyone = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        """Whoever asks: no certificate says who it is."""
        self.credentials = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self.credentials.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        [entry] = yaml.safe_load(control_plane.kubeconfig.read_text())["clusters"]
        self.url: str = entry["cluster"]["server"]
        self._client = httpx.Client(base_url=self.url, verify=self.credentials, timeout=20)

    def __call__(self, verb: str, path: str, body: object = None, **headers: str) -> Object:
        """One request; errors are raised.

        Raises:
            httpx.HTTPError: It failed, or the API server is away.
        """
        content = None if body is None else json.dumps(body)
        answer = self._client.request(
            verb, path, content=content, headers={"Content-Type": "application/json"} | headers
        )
        answer.raise_for_status()
        found: Object = answer.json()
        return found

    def close(self) -> None:
        self._client.close()


class World:
    """What a fault is let loose on."""

    def __init__(
        self,
        control_plane: ControlPlane,
        server: ApiServer,
        namespace: str,
        proxy: Proxy,
        replicas: list[Operator],
        rng: random.Random,
        kubelet: "Kubelet",
        account: Account | None = None,
        beside: "World | None" = None,
    ) -> None:
        self.control_plane = control_plane
        self.server = server
        self.namespace = namespace
        self.proxy = proxy
        self.replicas = replicas
        self.rng = rng
        self.kubelet = kubelet
        self.account = account
        """As whom the operator asks; None: the administrator."""
        self.beside = beside
        """The other namespace that the operator watches."""
        self.names: list[str] = []
        self.exits: list[int] = []
        """Exit codes of replicas that ended by themselves, and were started again."""
        self.struck: set[tuple[str, int]] = set()
        """The attempts that a fault has ended, by job and number."""
        self.lost_peer = {"NcclError"}
        """What the first attempt of a job that loses a peer may be said to have ended of."""

    @property
    def operator(self) -> Operator:
        return self.replicas[0]

    def every(self, kind: str, api: str = "api/v1", selector: str = "") -> list[Object]:
        path = f"/{api}/namespaces/{self.namespace}/{kind}"
        found = self.server("GET", f"{path}?labelSelector={selector}" if selector else path)
        items: list[Object] = found["items"]
        return items

    def jobs(self) -> list[Object]:
        return self.every("jobs", "apis/batch/v1")

    def align_tune_jobs(self) -> dict[str, Object]:
        found = self.every("aligntunejobs", ALIGN_TUNE_JOBS)
        return {one["metadata"]["name"]: one for one in found}

    def status(self, name: str) -> Object:
        found: Object = self.align_tune_jobs().get(name, {}).get("status", {})
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase", ""))

    def step(self, name: str) -> int:
        """How far the status says that it is."""
        return int(self.status(name).get("progress", {}).get("step", 0))

    def progress_unknown(self, name: str) -> bool:
        conditions = self.status(name).get("conditions", ())
        return any(c["type"] == "ProgressUnknown" and c["status"] == "True" for c in conditions)

    def apply(self, *names: str, **spec: Object) -> None:
        """Creates jobs that behave as their names say, with these sections in place of their
        own."""
        for name in names:
            body = manifest(name, **spec)
            self.server("POST", self._path("aligntunejobs", ALIGN_TUNE_JOBS), body)
            if name not in self.names:
                self.names.append(name)

    def delete(self, kind: str, name: str, api: str = "api/v1", **options: Any) -> None:
        """Deletes an object; the answer that there is none is fine."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1"} | options
        try:
            self.server("DELETE", f"{self._path(kind, api)}/{name}", body)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise

    def delete_job(self, name: str) -> None:
        self.delete("aligntunejobs", name, ALIGN_TUNE_JOBS, propagationPolicy="Background")

    def some_time(self, most: float = 3.0, least: float = 0.0) -> None:
        """Lets a random time pass, in which the operator is wherever it is."""
        end = time.monotonic() + self.rng.uniform(least, most)
        wait_until("a random time has passed", lambda: time.monotonic() > end, most + 1)

    def tend_for(self, seconds: float) -> None:
        """Lets time pass, and starts replicas again that end meanwhile."""
        end = time.monotonic() + seconds
        self.until(f"{seconds:.0f} s have passed", lambda: time.monotonic() > end, seconds + 60)

    def until(
        self, what: str, condition: Callable[[], bool], seconds: float = SETTLE_SECONDS
    ) -> None:
        """Waits, and starts replicas again that have ended, as a Deployment would."""

        def holds() -> bool:
            self.tend()
            try:
                return condition()
            except httpx.TransportError:
                return False
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in STARTING:
                    raise
                return False

        wait_until(what, holds, seconds)

    def until_running(self, name: str) -> Object:
        """A pod of a job that runs."""

        def found() -> list[Object]:
            pods = self.every("pods", selector=f"{JOB_NAME}={name}")
            return [
                pod
                for pod in pods
                if pod["status"].get("phase") == "Running"
                and "deletionTimestamp" not in pod["metadata"]
            ]

        self.until(f"{name} runs", lambda: bool(found()) or self.phase(name) in FINAL)
        return next(iter(found()), {})

    def strike(self, name: str, fault: Callable[[Object], None]) -> None:
        """Ends the attempt under way of a job that would run on, by what is done to its pod, and
        waits until another runs."""
        pod = self.until_running(name)
        number = attempt_of(pod)
        fault(pod)
        self.struck.add((name, number))
        self.until(f"{name} runs again", lambda: attempt_of(self.until_running(name)) == number + 1)

    def tend(self) -> None:
        for replica in self.replicas:
            if not replica.running:
                self.exits.append(replica.ended())
                replica.start()

    def kill(self, replica: Operator) -> None:
        replica.stop(signal.SIGKILL)
        replica.start()

    def leader(self) -> Operator:
        self.until("one leads", lambda: any(replica.leads for replica in self.replicas))
        return next(replica for replica in self.replicas if replica.leads)

    def _path(self, kind: str, api: str) -> str:
        return f"/{api}/namespaces/{self.namespace}/{kind}"


def attempt_of(pod: Object) -> int:
    """The number of the attempt that a pod belongs to."""
    return int(pod["metadata"]["labels"][ATTEMPT])


def manifest(name: str, **spec: Object) -> Object:
    policy = {"maxRestarts": 20, "terminationGracePeriodSeconds": 5} | spec.pop("policy", {})
    return align_tune_job(name, policy=policy, **spec)


class Kubelet:
    """Stand-in for scheduler and kubelet, which have no place here: lets pods live and end.

    A pod is bound, runs and reports for a while, and ends as the name of its job says: `done`
    trains to its end, `retried` loses a peer first and trains to its end in later attempts, `wrong`
    has bad data, `steady` and `held` train until they may end, the first undisturbed. A pod that is
    deleted saves a checkpoint and goes.
    """

    def __init__(self, server: ApiServer, namespace: str, seed: int, pods: Network) -> None:
        self._server, self._namespace = server, namespace
        self.pods = pods
        self.may_end = threading.Event()
        self.saving = threading.Event()
        """Set while pods that are deleted are at their checkpoints, and do not end."""
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._due: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        while not self._stop.wait(0.1):
            pods: list[Object] = []
            with suppress(httpx.HTTPError):
                pods = self._server("GET", path)["items"]
            for pod in pods:
                # the API server is away, or the pod is: a kubelet tries again, too
                with suppress(httpx.HTTPError):
                    self._live(pod)

    def _live(self, pod: Object) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        now, uid = time.monotonic(), metadata["uid"]
        over = phase in FINAL
        name = metadata["labels"][JOB_NAME]
        if "deletionTimestamp" in metadata and self.saving.is_set():
            return
        if "deletionTimestamp" in metadata:
            if not over and phase == "Running":
                self._end(pod, 143, {"result": "Preempted", "reason": "Preempted", "step": 1})
            self._server(
                "DELETE", self._path(pod), {"kind": "DeleteOptions", "apiVersion": "v1",
                                            "gracePeriodSeconds": 0},
            )  # fmt: skip
        elif over:
            return
        elif not pod["spec"].get("nodeName"):
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": metadata["name"]},
                "target": {"kind": "Node", "name": "chaos"},
            }
            self._server("POST", f"{self._path(pod)}/binding", binding)
        elif phase != "Running":
            self._due[uid] = now + self._rng.uniform(0.5, 4)
            address = self.pods.join(metadata["name"], uid, int(metadata["labels"][ATTEMPT]))
            started = {"running": {"startedAt": "2026-11-01T12:00:00Z"}}
            self._say(pod, "Running", started, podIP=address, podIPs=[{"ip": address}])
        elif name.startswith(("steady", "held")) and not self.may_end.is_set():
            return
        elif now > self._due.get(uid, 0):
            self._end(pod, *last_words(metadata["labels"]))

    def _end(self, pod: Object, code: int, words: Object) -> None:
        message = json.dumps(self.pods.dialect(words | {"exitCode": code}))
        state = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
        self._say(pod, "Failed" if code else "Succeeded", {"terminated": state})

    def _say(self, pod: Object, phase: str, state: Object, **more: Any) -> None:
        container = {
            "name": "trainer",
            "image": "trainer",
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        self._server(
            "PATCH",
            f"{self._path(pod)}/status",
            {"status": {"phase": phase, "containerStatuses": [container]} | more},
            **{"Content-Type": "application/merge-patch+json"},
        )

    def _path(self, pod: Object) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods/{pod['metadata']['name']}"


def last_words(labels: dict[str, str]) -> tuple[int, Object]:
    """How a pod ends by itself: exit code and termination message."""
    job, attempt = labels[JOB_NAME], int(labels[ATTEMPT])
    if job.startswith("wrong"):
        return 65, {"result": "Failed", "reason": "DataError", "message": "row 7 is bad"}
    if job.startswith("retried") and attempt == 1:
        return 75, {"result": "Failed", "reason": "NcclError", "message": "a peer is gone"}
    return 0, {"result": "Succeeded", "step": 60, "totalSteps": 60, "modelPath": "model"}


@contextmanager
def world(
    control_plane: ControlPlane,
    server: ApiServer,
    folder: Path,
    *,
    name: str,
    seed: int,
    replicas: int,
    clock_hours: int = 0,
    fake_nodes: bool = False,
    account: bool = False,
    beside: bool = False,
) -> Iterator[World]:
    """A namespace of its own with a fresh operator, whose requests go through a proxy.

    Where the control plane has fake nodes, kwok lets pods live, and not our own stand-in. With an
    `account` the operator is one, with rights in its namespaces alone, else the administrator.
    `beside` the namespace, it watches another.
    """
    namespace = f"{name}-{seed}"
    namespaces = (namespace, f"{namespace}-beside") if beside else (namespace,)
    folder.mkdir()
    who = Account(control_plane.state, server, folder / "token") if account else None
    for each in namespaces:
        make_namespace(server, each, who)
        server("POST", "/api/v1/persistentvolumes", volume(each))
    pods = Network()
    kubelets = [Kubelet(server, each, seed, pods) for each in namespaces]
    with ExitStack() as stack:
        credentials = server.anyone if who else server.credentials
        proxy = stack.enter_context(Proxy(server.url, credentials, pods))
        for kubelet in () if fake_nodes else kubelets:
            stack.enter_context(kubelet)
        options = ["--namespaces", ",".join(namespaces), "--poll-interval-seconds", "2"]
        if replicas > 1:
            options += ["--lease-namespace", namespace]
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(plain_kubeconfig(proxy.url, who)))
        started = [
            Operator(
                kubeconfig,
                folder / f"operator-{number}.log",
                *options,
                env=clock_off_by(clock_hours),
            )
            for number in range(replicas)
        ]
        for replica in started:
            replica.start()
        rng = random.Random(seed)
        found: World | None = None
        for each, kubelet in reversed(tuple(zip(namespaces, kubelets, strict=True))):
            found = World(
                control_plane, server, each, proxy, started, rng, kubelet, who, beside=found
            )
        assert found is not None
        found.until("the operator is ready", lambda: all(r.metrics() for r in started))
        try:
            yield found
        finally:
            for replica in started:
                if replica.running:
                    replica.send(signal.SIGCONT)
                    replica.stop(signal.SIGKILL)


def make_namespace(server: ApiServer, name: str, account: Account | None) -> None:
    """A namespace in which the operator may do everything, with the claim that jobs name."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    server("POST", "/api/v1/namespaces", body)
    server("POST", f"/api/v1/namespaces/{name}/persistentvolumeclaims", claim("models"))
    if account is not None:
        account.let_in(name)


def volume(namespace: str) -> Object:
    """For the namespace's claim: a scheduler, where there is one, asks for it."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": namespace, "name": "models"},
            "hostPath": {"path": "/nowhere"},
        },
    }


def clock_off_by(hours: int) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong; the monotonic one stays right."""
    if not hours:
        return {}
    if packages.missing():
        packages.install()
    library = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/faketime/libfaketime.so.1"
    assert Path(library).is_file(), library
    return {
        "LD_PRELOAD": library,
        "FAKETIME": f"{hours:+d}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def plain_kubeconfig(url: str, account: Account | None = None) -> Object:
    """For the proxy, which asks nobody who they are; the API server asks accounts."""
    user = {"tokenFile": str(account.file)} if account else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "chaos", "cluster": {"server": url}}],
        "users": [{"name": "chaos", "user": user}],
        "contexts": [{"name": "chaos", "context": {"cluster": "chaos", "user": "chaos"}}],
        "current-context": "chaos",
    }
