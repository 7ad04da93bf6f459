"""How long until another replica reconciles, with 200 jobs there: after a stop, and after a kill.

    python bench/failover.py [ROUNDS]

Two replicas of the operator on a real control plane. In each round the leader gets SIGTERM, or
SIGKILL, and an AlignTuneJob is created at once; the time is from the signal until its Job is there.
The ended replica is started anew before the next round.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import Connection, connect

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from reconcile import ALIGN_TUNE_JOBS, JOBS, NAMESPACE, prepare  # noqa: E402

from tests.cluster.control_plane import ControlPlane  # noqa: E402 - the tests are no package of ours
from tests.cluster.processes import wait_until  # noqa: E402
from tests.integration.conftest import Operator, align_tune_job  # noqa: E402

THERE = 200
PATIENCE_SECONDS = 300


async def create(connection: Connection, name: str) -> None:
    url = connection.server + ALIGN_TUNE_JOBS
    async with connection.session.post(url, json=align_tune_job(name)) as answer:
        answer.raise_for_status()


async def jobs(session: aiohttp.ClientSession, server: str, selector: str) -> int:
    async with session.get(server + JOBS, params={"labelSelector": selector}) as answer:
        answer.raise_for_status()
        return len((await answer.json())["items"])


async def failover(
    connection: Connection, replicas: list[Operator], number: int, name: str
) -> float:
    """Seconds from the signal to the leader until the Job of a new AlignTuneJob is there."""
    [leader] = [replica for replica in replicas if replica.leads]
    leader.send(number)
    began = time.monotonic()
    await create(connection, name)
    while not await jobs(connection.session, connection.server, f"aligntune.io/job-name={name}"):
        await asyncio.sleep(0.02)
    took = time.monotonic() - began
    leader.wait()
    leader.start()
    return took


def complete(replicas: list[Operator]) -> bool:
    """Whether every replica answers, and one leads."""
    return all(replica.metrics() for replica in replicas) and any(r.leads for r in replicas)


async def measure(replicas: list[Operator], rounds: int) -> None:
    connection = connect(kopf_settings())
    for number in range(THERE):
        await create(connection, f"there-{number}")
    while await jobs(connection.session, connection.server, "aligntune.io/job-name") < THERE:
        await asyncio.sleep(0.5)
    for signalled in (signal.SIGTERM, signal.SIGKILL):
        times = []
        for number in range(rounds):
            wait_until(
                "both replicas are there and one leads",
                lambda: complete(replicas),
                PATIENCE_SECONDS,
            )
            name = f"{signalled.name.lower()}-{number}"
            times.append(await failover(connection, replicas, signalled, name))
        print(
            f"{signalled.name}: {statistics.median(times):.1f} s"
            f" ({min(times):.1f} to {max(times):.1f}), {rounds} rounds,"
            f" load {os.getloadavg()[0]:.1f}"
        )
    await connection.close()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "state") as cluster:
        prepare(cluster)
        options = ("--lease-namespace", NAMESPACE, "--log-level", "ERROR")
        replicas = [
            Operator(cluster.kubeconfig, Path(folder) / f"operator-{number}.log", *options)
            for number in range(2)
        ]
        for replica in replicas:
            replica.start()
        try:
            asyncio.run(measure(replicas, rounds))
        finally:
            for replica in replicas:
                replica.stop(signal.SIGKILL)


if __name__ == "__main__":
    main()
