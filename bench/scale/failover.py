"""How long until another replica reconciles after the leader was stopped, or killed."""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from aligntune.api.labels import JOB_NAME
from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import Connection, connect
from bench.scale.sides import JOBS, NAMESPACE, OURS
from bench.scale.workloads import Client
from bench.scale.world import prepare
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator
from tests.cluster.processes import wait_until

SIGNALS = (signal.SIGTERM, signal.SIGKILL)
REPLICAS = 2
PATIENCE_SECONDS = 300
OPTIONS = ("--lease-namespace", NAMESPACE, "--log-level", "ERROR")


async def failovers(jobs: int) -> dict[str, Any]:
    """One failover for each signal, with so many jobs there whose pods wait for a node."""
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, ControlPlane(Path(name) / "state") as cluster:
        prepare(cluster)
        connection = connect(kopf_settings())
        replicas = [
            Operator(cluster.kubeconfig, Path(name) / f"operator-{number}.log", *OPTIONS)
            for number in range(REPLICAS)
        ]
        for replica in replicas:
            replica.start()
        try:
            await Client(connection).at_once(OURS, [f"there-{number}" for number in range(jobs)])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await jobs_of(connection, JOB_NAME) < jobs:
                    await asyncio.sleep(0.5)
            found = {each.name: await failover(connection, replicas, each) for each in SIGNALS}
        finally:
            for replica in replicas:
                replica.stop(signal.SIGKILL)
        await connection.close()
    return {
        "count": jobs,
        "seconds": time.monotonic() - began,
        "load": [load, os.getloadavg()[0]],
        "failover_seconds": found,
    }


async def failover(
    connection: Connection, replicas: list[Operator], number: signal.Signals
) -> float:
    """Seconds from the signal to the leader until the Job of a new AlignTuneJob is there."""
    wait_until(
        "both replicas are there and one leads", lambda: complete(replicas), PATIENCE_SECONDS
    )
    [leader] = [replica for replica in replicas if replica.leads]
    name = number.name.lower()
    leader.send(number)
    began = time.monotonic()
    await Client(connection).create(OURS, name)
    while not await jobs_of(connection, f"{JOB_NAME}={name}"):
        await asyncio.sleep(0.02)
    took = time.monotonic() - began
    leader.wait()
    leader.start()
    return took


def complete(replicas: list[Operator]) -> bool:
    """Whether every replica answers, and one leads."""
    return all(replica.metrics() for replica in replicas) and any(r.leads for r in replicas)


async def jobs_of(connection: Connection, selector: str) -> int:
    """How many Jobs with a label there are."""
    url, asked = f"{connection.server}/{JOBS}", {"labelSelector": selector}
    async with connection.session.get(url, params=asked) as answer:
        answer.raise_for_status()
        return len((await answer.json())["items"])
