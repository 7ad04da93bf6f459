"""Each alert has its page, and asks for metrics that the code exports."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from aligntune_operator.cache import Cache
from aligntune_operator.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = YAML(typ="safe").load(ROOT / "charts" / "aligntune-operator" / "files" / "alerts.yaml")
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
RUNBOOKS = ROOT / "docs" / "runbooks"
OF_THE_KUBELET = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_a_page_that_says_what_to_do(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook_url"] == f"RUNBOOKS/{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text()
    for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"**{part}.**" in page


def test_every_page_has_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == set(ALERTS)


def test_alerts_ask_for_metrics_that_there_are() -> None:
    registry = CollectorRegistry()
    Metrics(registry, Cache(), lambda: 0, lambda: True)
    exported = set(re.findall(r"# TYPE (\S+)", generate_latest(registry).decode()))
    for rule in ALERTS.values():
        asked = set(re.findall(r"\b(aligntune_\w+|kubelet_\w+)", rule["expr"]))
        assert asked
        assert asked <= exported | OF_THE_KUBELET, asked - exported
