"""What operator and trainer export, as Prometheus' own tool judges it."""

import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from docs.metrics import of_the_operator, of_the_trainer
from tests.cluster.prometheus import program


class Once:
    """What the client library asks for metrics."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


@pytest.mark.parametrize("exported", [of_the_operator, of_the_trainer])
def test_names_units_and_help_are_as_prometheus_wants_them(exported: object) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once(exported()))  # type: ignore[operator]
    done = subprocess.run(
        [program("promtool"), "check", "metrics", "--extended"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
