"""How long from an AlignTuneJob's creation to its Job's, on a real control plane, and at what cost.

    python bench/reconcile.py

Creates jobs one every 200 ms, then many at once, and watches Jobs appear. Times are from the answer
to the POST until the watch shows the Job, both seen by this client; the control plane, the operator
and the client share the machine's cores. Bare Jobs created by the same client are the floor.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import Connection, connect

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.control_plane import ControlPlane  # noqa: E402 - the tests are no package of ours
from tests.integration.conftest import align_tune_job, claim  # noqa: E402

NAMESPACE = "bench"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
ALIGN_TUNE_JOBS = f"/apis/aligntune.io/v1alpha1/namespaces/{NAMESPACE}/aligntunejobs"
Make = Callable[[str], dict[str, Any]]
ONE_BY_ONE, AT_ONCE, CONNECTIONS = 50, 200, 16


def plain_job(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "i"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"aligntune.io/job-name": name}},
        "spec": {"backoffLimit": 0, "template": template},
    }


class Client:
    """Creates objects and notes when; watches Jobs and notes when."""

    def __init__(self, connection: Connection) -> None:
        self._session, self._server = connection.session, connection.server
        self.created: dict[str, float] = {}
        self.seen: dict[str, float] = {}

    async def post(self, path: str, body: dict[str, Any]) -> None:
        async with self._session.post(self._server + path, json=body) as answer:
            answer.raise_for_status()
        self.created[body["metadata"]["name"]] = time.monotonic()

    async def watch(self) -> None:
        """For ever: the first sight of each Job, by the name of its AlignTuneJob."""
        params = {"watch": "true", "labelSelector": "aligntune.io/job-name"}
        async with self._session.get(self._server + JOBS, params=params) as stream:
            async for line in stream.content:
                event = json.loads(line)
                name = event["object"]["metadata"]["labels"]["aligntune.io/job-name"]
                self.seen.setdefault(name, time.monotonic())

    async def all_seen(self) -> list[float]:
        """Waits for every Job; seconds from each POST's answer to the sight of its Job."""
        while set(self.created) - set(self.seen):
            await asyncio.sleep(0.01)
        waits = [max(self.seen[name] - at, 0.0) for name, at in self.created.items()]
        self.created.clear()
        return waits


async def at_once(
    client: Client, path: str, make: Callable[[str], dict[str, Any]], tag: str
) -> float:
    """Creates many through a few connections; seconds until the last Job is seen."""
    slots = asyncio.Semaphore(CONNECTIONS)

    async def one(name: str) -> None:
        async with slots:
            await client.post(path, make(name))

    began = time.monotonic()
    await asyncio.gather(*(one(f"{tag}-{number}") for number in range(AT_ONCE)))
    await client.all_seen()
    return time.monotonic() - began


def row(what: str, waits: list[float]) -> str:
    cuts = statistics.quantiles(waits, n=100)
    figures = (cuts[49], cuts[94], cuts[98], max(waits))
    return f"| {what} | " + " | ".join(f"{seconds * 1000:.0f}" for seconds in figures) + " |"


async def measure(operator: psutil.Process) -> None:
    connection = connect(kopf_settings())
    client = Client(connection)
    watching = asyncio.create_task(client.watch())
    await asyncio.sleep(1)

    print("| creation to Job, ms | p50 | p95 | p99 | max |\n|---|---|---|---|---|")
    for number in range(ONE_BY_ONE):
        await client.post(ALIGN_TUNE_JOBS, align_tune_job(f"single-{number}"))
        await asyncio.sleep(0.2)
    print(row(f"{ONE_BY_ONE} jobs, five a second", await client.all_seen()))

    cpu = sum(operator.cpu_times()[:2])
    floors, ours = [], []
    for turn in range(3):
        floors.append(await at_once(client, JOBS, plain_job, f"floor-{turn}"))
        ours.append(await at_once(client, ALIGN_TUNE_JOBS, align_tune_job, f"burst-{turn}"))
    cpu = sum(operator.cpu_times()[:2]) - cpu
    for what, times in (("bare Jobs", floors), ("AlignTuneJobs", ours)):
        rates = sorted(AT_ONCE / seconds for seconds in times)
        slowest, median, fastest = rates[0], rates[1], rates[-1]
        print(f"\n{AT_ONCE} {what} at once: {median:.0f}/s ({slowest:.0f}-{fastest:.0f})")
    jobs = 3 * AT_ONCE + ONE_BY_ONE
    memory = operator.memory_info().rss / 2**20
    print(f"\noperator: {1000 * cpu / (3 * AT_ONCE):.0f} ms of CPU per job")
    print(f"operator with {jobs} jobs: {memory:.0f} MiB resident")
    watching.cancel()
    await connection.close()


def prepare(cluster: ControlPlane) -> None:
    """The CRD, and a namespace with the claim that every job names."""
    cluster.install(ROOT / "crds" / "aligntune.io_aligntunejobs.yaml")
    cluster.kubectl("create", "namespace", NAMESPACE)
    models = json.dumps(claim("models"))
    cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=models)
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "state") as cluster:
        prepare(cluster)
        with subprocess.Popen(
            [sys.executable, "-m", "aligntune_operator", "--http-port", "0", "--log-level", "ERROR"]
        ) as process:
            time.sleep(15)
            operator = psutil.Process(process.pid)
            print(f"operator idle: {operator.memory_info().rss / 2**20:.0f} MiB resident\n")
            asyncio.run(measure(operator))
            process.terminate()


if __name__ == "__main__":
    main()
