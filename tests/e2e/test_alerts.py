"""The alert rules, as Prometheus' own tool reads and runs them."""

import subprocess

from tests.cluster.processes import REPOSITORY
from tests.cluster.prometheus import program

RULES = REPOSITORY / "charts" / "aligntune-operator" / "files" / "alerts.yaml"
CASES = REPOSITORY / "tests" / "e2e" / "alerts.yaml"


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_what_prometheus_takes() -> None:
    assert "8 rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES)
