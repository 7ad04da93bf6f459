"""How old a status is while many jobs report at once, and what following them costs the operator.

A real API server, Job controller and operator; the operator runs as in a pod, and asks the pods
straight. What stands in: a kubelet that says that pods run, and one server behind the loopback
addresses of all of them, whose every answer is new. All of it lives in network and mount namespaces
of its own, which takes root, where the API server has the address that pods know.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import psutil
import yaml
from aiohttp import web

from aligntune.api.env import PROGRESS_PORT
from aligntune.api.labels import JOB_NAME
from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import TOKEN_FILE, Connection, connect
from bench.scale.figures import cuts
from bench.scale.sides import NAMESPACE, OURS, PODS, align_tune_job
from bench.scale.world import prepare
from tests.cluster.control_plane import ControlPlane

SECONDS = 120
NODE = "bench"
CONNECTIONS = 16
LOOKS = 20
"""Jobs whose status is read in each second."""
PATIENCE_SECONDS = 600
METRICS = "http://127.0.0.1:8080/metrics"
MERGE = "application/merge-patch+json"


async def reported(jobs: int) -> dict[str, Any]:
    """The figures of one run with so many jobs: this module, as a program in its namespaces."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "--mount", sys.executable, "-m", "bench.scale.reporting", str(jobs)),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, "see above"
    found: dict[str, Any] = json.loads(told)
    return found


def become_a_pod(cluster: ControlPlane, folder: Path) -> None:
    """Puts what a pod finds where it looks: its token, and the API server by its name."""
    admin = ("create", "clusterrolebinding", NAMESPACE, "--clusterrole=cluster-admin")
    cluster.kubectl(*admin, f"--serviceaccount={NAMESPACE}:default")
    token = cluster.kubectl("-n", NAMESPACE, "create", "token", "default", "--duration=2h")
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost kubernetes.default.svc\n")
    [entry] = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"]
    port = entry["cluster"]["server"].rpartition(":")[2]
    to_server = ("-p", "tcp", "-d", "127.0.0.1", "--dport", "443", "-j", "REDIRECT")
    for command in (
        ("mount", "-t", "tmpfs", "tmpfs", "/run"),
        ("mount", "--bind", str(hosts), "/etc/hosts"),
        ("iptables", "-t", "nat", "-A", "OUTPUT", *to_server, "--to-ports", port),
    ):
        subprocess.run(command, check=True)
    TOKEN_FILE.parent.mkdir(parents=True)
    TOKEN_FILE.write_text(token)
    authority = (cluster.state / "pki" / "ca.crt").read_bytes()
    TOKEN_FILE.with_name("ca.crt").write_bytes(authority)


class Trainers:
    """Stand-in for the endpoints of all pods, told apart by the address that is asked."""

    def __init__(self) -> None:
        self._uids: dict[str, str] = {}

    def address(self, uid: str) -> str:
        """The address of a new pod."""
        number = len(self._uids)
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        self._uids[address] = uid
        return address

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answers for as long as it lasts."""
        runner = web.ServerRunner(web.Server(self._answer), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", PROGRESS_PORT, backlog=1024).start()
        yield
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """As a trainer's endpoint, which closes each connection."""
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        response = web.json_response(snapshot(self._uids[address]))
        response.force_close()
        return response


def snapshot(uid: str) -> dict[str, Any]:
    """What a trainer reports at this moment."""
    now = datetime.now(UTC)
    step = int(now.timestamp()) % 10**6
    progress = {
        "step": step,
        "totalSteps": 10**6,
        "epoch": step / 10**6,
        "percent": step // 10**4,
        "etaSeconds": 10**6 - step,
        "samplesPerSecond": 12.1 + step % 10 / 10,
        "tokensPerSecond": 9100.0 + step % 100,
        "trainingSeconds": float(step),
        "activity": "training",
        "updatedAt": now.isoformat(),
    }
    metrics = {f"metric{number}": step / (number + 1) for number in range(8)}
    saved = {"step": step - step % 200, "path": "bench/checkpoint", "savedAt": now.isoformat()}
    told = {"loss": 1.5 + step % 7 / 10} | metrics
    return {"podUid": uid, "progress": progress, "metrics": told, "checkpoint": saved}


class Cluster:
    """The bench's own requests."""

    def __init__(self, connection: Connection) -> None:
        self._session, self._server = connection.session, connection.server

    async def ask(self, verb: str, path: str, body: object = None, kind: str = "") -> Any:
        """One request; errors are raised."""
        headers = {"Content-Type": kind or "application/json"}
        data = None if body is None else json.dumps(body)
        url = f"{self._server}/{path}"
        async with self._session.request(verb, url, data=data, headers=headers) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def age(self, job: int) -> float:
        """Seconds since the trainer said what the status of a job says; inf if it says nothing."""
        found = await self.ask("GET", f"{OURS.path}/job-{job}")
        told = found.get("status", {}).get("progress", {}).get("updatedAt")
        return (datetime.now(UTC) - datetime.fromisoformat(told)).total_seconds() if told else inf

    async def beat(self) -> None:
        """For ever: stand-in for the kubelet's heartbeat, without which its pods are evicted."""
        while True:
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            ready = {"type": "Ready", "status": "True", "reason": "Bench", "lastHeartbeatTime": now}
            body = {"status": {"conditions": [ready]}}
            await self.ask("PATCH", f"api/v1/nodes/{NODE}/status", body, MERGE)
            await asyncio.sleep(5)

    async def run_pods(self, trainers: Trainers, wanted: int) -> None:
        """Stand-in for scheduler and kubelet: says of every pod that it runs."""
        slots, running = asyncio.Semaphore(CONNECTIONS), set[str]()

        async def run(pod: dict[str, Any]) -> None:
            path = f"{PODS}/{pod['metadata']['name']}"
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "target": target}
            address = trainers.address(pod["metadata"]["uid"])
            container = {
                "name": "trainer",
                "image": "trainer",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {}},
            }
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
            body = {"status": status | {"containerStatuses": [container]}}
            async with slots:
                named = binding | {"metadata": {"name": pod["metadata"]["name"]}}
                await self.ask("POST", f"{path}/binding", named)
                await self.ask("PATCH", f"{path}/status", body, MERGE)

        while len(running) < wanted:
            pods = (await self.ask("GET", f"{PODS}?labelSelector={JOB_NAME}"))["items"]
            new = [pod for pod in pods if pod["metadata"]["uid"] not in running]
            running |= {pod["metadata"]["uid"] for pod in new}
            await asyncio.gather(*map(run, new))
            await asyncio.sleep(0.5)

    async def create(self, wanted: int) -> None:
        """Creates the jobs."""
        slots = asyncio.Semaphore(CONNECTIONS)

        async def one(number: int) -> None:
            async with slots:
                await self.ask("POST", OURS.path, align_tune_job(f"job-{number}"))

        await asyncio.gather(*map(one, range(wanted)))


def counted(metrics: str, name: str) -> float:
    """The sum of a counter's series in Prometheus' text."""
    values = re.findall(rf"^{re.escape(name)}.* (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, values))


def scrape() -> str:
    with urllib.request.urlopen(METRICS) as answer:
        text: str = answer.read().decode()
    return text


def peak_mebibytes(pid: int) -> float:
    """The most that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


async def measure(operator: psutil.Process, jobs: int) -> dict[str, Any]:
    """The figures of one run, by their names in the report."""
    connection, trainers = connect(kopf_settings()), Trainers()
    cluster = Cluster(connection)
    load = os.getloadavg()[0]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    await cluster.ask("POST", "api/v1/nodes", node)
    async with trainers.serving(), asyncio.TaskGroup() as group:
        beating = group.create_task(cluster.beat())
        group.create_task(cluster.create(jobs))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await cluster.run_pods(trainers, jobs)
            for job in range(jobs):
                while await cluster.age(job) == inf:
                    await asyncio.sleep(0.5)
        await asyncio.sleep(30)  # what starting them left behind is over

        ages, rng = list[float](), random.Random(0)
        before, cpu, began = await asyncio.to_thread(scrape), operator.cpu_times(), time.monotonic()
        while (took := time.monotonic() - began) < SECONDS:
            looks = rng.sample(range(jobs), min(jobs, LOOKS))
            ages += await asyncio.gather(*map(cluster.age, looks))
            await asyncio.sleep(1)
        after, cpu_after = await asyncio.to_thread(scrape), operator.cpu_times()
        beating.cancel()
    await connection.close()

    def grew(name: str) -> float:
        return counted(after, name) - counted(before, name)

    replaced = 'aligntune_operator_api_requests_total{code="200",resource="aligntunejobs/status"'
    return {
        "count": jobs,
        "seconds": took,
        "load": [load, os.getloadavg()[0]],
        "age_seconds": cuts(ages),
        "cores": (sum(cpu_after[:2]) - sum(cpu[:2])) / took,
        "peak_mib": peak_mebibytes(operator.pid),
        "writes_in_10_s": grew(replaced) / jobs / took * 10,
        "failed_polls": grew('aligntune_operator_progress_polls_total{result="error"}'),
    }


@contextmanager
def operator_in_a_pod() -> Iterator[psutil.Process]:
    """The operator as its pod runs it."""
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    command = [sys.executable, "-m", "aligntune_operator", "--log-level", "ERROR"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def main() -> None:
    jobs = int(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name, ControlPlane(Path(name) / "state") as cluster:
        prepare(cluster)
        become_a_pod(cluster, Path(name))
        with operator_in_a_pod() as operator:
            print(json.dumps(asyncio.run(measure(operator, jobs))))


if __name__ == "__main__":
    main()
