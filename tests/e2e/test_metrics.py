"""What operator and trainer export, as a real Prometheus and its own tool judge it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from aligntune.api.run import JobIdentity
from aligntune.pod.endpoint import LOOPBACK, Endpoint
from docs.metrics import GPU, SNAPSHOT, exposed_name, of_the_operator, of_the_trainer
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import CRD, Operator, align_tune_job
from tests.cluster.processes import wait_until
from tests.cluster.prometheus import Prometheus, at, program, scraping

SCRAPED_SECONDS = 120
OF_WORK_TO_COME = {"aligntune_operator_progress_polls_total"}
"""Exported once a pod has been asked, and there is none here."""


class Once:
    """What the client library asks for metrics."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


@pytest.mark.parametrize("exported", [of_the_operator, of_the_trainer])
def test_names_units_and_help_are_as_prometheus_wants_them(
    exported: Callable[[], list[Metric]],
) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once(exported()))
    done = subprocess.run(
        [program("promtool"), "check", "metrics", "--extended"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def check_found(prometheus: Prometheus, job: str, metrics: list[Metric]) -> None:
    """Each is there, by the name that the reference page tells."""
    for metric in metrics:
        name = exposed_name(metric)
        suffix = "_count" if metric.type in {"summary", "histogram"} else ""
        query = f'{name}{suffix}{{job="{job}"}}'
        if name not in OF_WORK_TO_COME and not name.startswith("aligntune_job_"):
            wait_until(query, lambda query=query: bool(prometheus.query(query)), SCRAPED_SECONDS)


def test_prometheus_finds_all_that_the_reference_lists(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "state") as control_plane:
        control_plane.install(CRD)
        manifest = json.dumps(align_tune_job("scraped", storage={"ephemeral": True}))
        control_plane.kubectl("apply", "-f", "-", stdin=manifest)
        operator = Operator(control_plane.kubeconfig, tmp_path / "operator.log")
        operator.start()
        identity = JobIdentity(name="support-bot", namespace="research")
        with (
            Endpoint(
                host=LOOPBACK, port=0, job=identity, snapshot=SNAPSHOT, read_gpus=lambda: (GPU,)
            ) as endpoint,
            scraping(
                tmp_path,
                at("operator", operator.address),
                at("trainer", f"{LOOPBACK}:{endpoint.port}"),
            ) as prometheus,
        ):
            check_found(prometheus, "trainer", of_the_trainer())
            check_found(prometheus, "operator", of_the_operator())
            query = 'aligntune_job_phase{namespace="default", aligntunejob="scraped"}'
            wait_until(query, lambda: bool(prometheus.query(query)), SCRAPED_SECONDS)
        assert operator.stop() == 0
