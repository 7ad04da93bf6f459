"""From `kubectl apply` to the first optimizer step on a cluster with a kubelet, part by part.

    python bench/apply_to_first_step.py [RUNS]        # as root

The chart's two replicas, the example sft-chat with an image that is on the node, one job after the
other. All processes are on this machine, so that one clock tells all moments: the API server's
objects as a watch brings them, processes as the kernel began them, and the end of the first step as
the rank writes it down (at_first_step/sitecustomize.py).
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from intervals import spread
from kubernetes import client, config, watch
from methods import compile_ours
from sections import publish

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from aligntune.api import env  # noqa: E402 - the tests are no package of ours
from aligntune.api.labels import JOB_NAME  # noqa: E402
from tests.cluster import packages  # noqa: E402
from tests.cluster.cluster import Cluster  # noqa: E402
from tests.cluster.processes import wait_until  # noqa: E402
from tests.cluster.volumes import MOUNT_PATHS, PACKAGES, SOURCE  # noqa: E402
from tests.e2e.conftest import NAMESPACE, Chart, Tenant, example, new_tenant  # noqa: E402

PATIENCE_SECONDS = 300
PARTS = (
    "kubectl",
    "operator: the Job",
    "Job controller: the pod",
    "scheduler",
    "kubelet and containerd: the launcher",
    "launcher: the rank",
    "rank: the first step",
)
"""Each ends where the thing after the colon is there."""
COMMANDS = ("launch", "aligntune.pod.rank")
"""An argument of the launcher's command, and one of the rank's."""

Marks = dict[str, float]
"""Name of a moment -> when it was, in seconds of the monotonic clock."""


def main(runs: int) -> None:
    packages.require()
    compile_ours()
    load = os.getloadavg()[0]
    with Cluster(ROOT / ".cache" / "bench-apply") as cluster:
        tenant = new_tenant(cluster, ROOT / ".cache" / "bench-apply" / "models")
        chart = Chart(cluster)
        chart.install()
        first_step(cluster, tenant, "warm")
        found = [first_step(cluster, tenant, f"run-{number}") for number in range(runs)]
        chart.uninstall()
    lines = ["| part | s, median (range) |", "|---|---|"]
    lines += [
        f"| {part} | {spread([seconds[part] for seconds in found], 2)} |"
        for part in (*PARTS, "total")
    ]
    title = f"From kubectl apply to the first step, sft, {runs} jobs"
    publish("apply-to-first-step", title, lines, found, load=load)


def first_step(cluster: Cluster, tenant: Tenant, name: str) -> dict[str, float]:
    """Seconds of each part for one job, and of all."""
    manifest = example("sft-chat")
    manifest["metadata"]["name"] = name
    told = tenant.models / f"{name}.first-step"
    code = (f"{MOUNT_PATHS[SOURCE]}/bench/at_first_step", MOUNT_PATHS[SOURCE])
    manifest["spec"].setdefault("runtime", {})["env"] = [
        {"name": "PYTHONPATH", "value": ":".join((*code, MOUNT_PATHS[PACKAGES]))},
        {"name": "FIRST_STEP", "value": f"{env.STORAGE_DIR}/{told.name}"},
    ]
    manifest["spec"]["policy"] = {"maxRestarts": 0}
    with watched(cluster, name) as marks:
        began = time.monotonic()
        tenant.apply(manifest)
        applied = time.monotonic()
        processes = started(marks)
        wait_until("the first step is done", told.exists, PATIENCE_SECONDS)
    tenant("delete", "atj", name, "--wait")
    moments = [
        *(applied, marks["job"], marks["pod"], marks["bound"]),
        *processes,
        float(told.read_text()),
    ]
    # The operator does not wait for kubectl to end.
    moments[0] = min(applied, marks["job"])
    ends = zip(PARTS, moments, [began, *moments], strict=False)
    return {part: end - start for part, end, start in ends} | {"total": moments[-1] - began}


@contextmanager
def watched(cluster: Cluster, name: str) -> Iterator[Marks]:
    """When the job's Job and pod are there, and when the pod has a node."""
    marks: Marks = {}
    api = config.new_client_from_config(str(cluster.kubeconfig))
    jobs, pods = client.BatchV1Api(api), client.CoreV1Api(api)
    stop = threading.Event()

    def follow(listing: Callable[..., Any], mark: str) -> None:
        stream = watch.Watch().stream(
            listing,
            NAMESPACE,
            label_selector=f"{JOB_NAME}={name}",
            timeout_seconds=PATIENCE_SECONDS,
        )
        for event in stream:
            now = time.monotonic()
            marks.setdefault(mark, now)
            if mark == "pod" and event["object"].spec.node_name:
                marks.setdefault("bound", now)
            if stop.is_set():
                return

    for listing, mark in (
        (jobs.list_namespaced_job, "job"),
        (pods.list_namespaced_pod, "pod"),
    ):
        threading.Thread(target=follow, args=(listing, mark), daemon=True).start()
    time.sleep(1)  # until the watches stand
    yield marks
    stop.set()


def started(marks: Marks) -> list[float]:
    """When the launcher and the rank began, once both have."""
    offset = time.time() - time.monotonic()
    since = time.time()

    def moment(word: str) -> float | None:
        for process in psutil.process_iter(["cmdline", "create_time"]):
            with suppress(psutil.NoSuchProcess):
                new = process.info["create_time"] > since - 1
                if new and word in (process.info["cmdline"] or ()):
                    return float(process.info["create_time"] - offset)
        return None

    found: list[float] = []
    for word in COMMANDS:
        wait_until(f"{word} runs", lambda word=word: moment(word) is not None, PATIENCE_SECONDS)
        began = moment(word)
        assert began is not None
        found.append(began)
    assert {"job", "pod", "bound"} <= set(marks)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
