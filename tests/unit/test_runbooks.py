"""Each alert has its page; alerts and dashboards ask for metrics that the code exports."""

import json
import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify
from mkdocs.config import load_config
from mkdocs.structure.files import File
from ruamel.yaml import YAML

from aligntune_operator.cache import Cache
from aligntune_operator.metrics import JobCollector
from docs.metrics import JOB, exposed_name, of_the_operator, of_the_trainer

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "aligntune-operator"
RULES = YAML(typ="safe").load(CHART / "files" / "alerts.yaml")
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
RUNBOOKS = ROOT / "docs" / "runbooks"
ABOUT_STORAGE = {"AlignTuneVolumeNearlyFull"}
OF_THE_KUBELET = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_a_page_that_says_what_to_do(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"**{part}.**" in page


@pytest.mark.parametrize("alert", ALERTS)
def test_the_link_of_an_alert_is_the_address_of_its_page_on_the_site(alert: str) -> None:
    site = load_config(str(ROOT / "mkdocs.yml"))
    page = File(
        f"runbooks/{alert}.md",
        site.docs_dir,
        site.site_dir,
        use_directory_urls=site.use_directory_urls,
    )
    assert ALERTS[alert]["annotations"]["runbook_url"] == page.url.replace("runbooks", "RUNBOOKS")


@pytest.mark.parametrize("alert", sorted({*ALERTS} - ABOUT_STORAGE))
def test_a_page_about_the_operators_work_tells_how_to_find_the_log_of_its_leader(
    alert: str,
) -> None:
    page, _, heading = "../operations.md#the-leaders-log".partition("#")
    assert f"({page}#{heading})" in (RUNBOOKS / f"{alert}.md").read_text()
    headings = re.findall(r"^## (.*)$", (RUNBOOKS / page).read_text(), re.MULTILINE)
    assert heading in [slugify(text, "-") for text in headings]


def test_every_page_has_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == set(ALERTS)


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Every metric of the operator and of a trainer."""
    return {exposed_name(metric) for metric in (*of_the_operator(), *of_the_trainer())}


def test_alerts_ask_for_metrics_that_there_are(exported: set[str]) -> None:
    for rule in ALERTS.values():
        asked = set(re.findall(r"\b(aligntune_\w+|kubelet_\w+)", rule["expr"]))
        assert asked
        assert asked <= exported | OF_THE_KUBELET, asked - exported


@pytest.mark.parametrize("name", ["fleet", "job", "operator"])
def test_dashboards_ask_for_metrics_that_there_are(name: str, exported: set[str]) -> None:
    panels = json.loads((CHART / "files" / "dashboards" / f"{name}.json").read_text())["panels"]
    for target in (target for panel in panels for target in panel["targets"]):
        asked = re.findall(r"\b(aligntune_(?!io_)\w+)", target["expr"])
        names = {re.sub("_(bucket|sum|count)$", "", asked_for) for asked_for in asked}
        assert names
        assert names <= exported, names - exported


def test_a_job_that_never_told_of_a_step_can_be_chosen() -> None:
    """An alert may be about just such a one."""
    cache = Cache()
    cache.take_object({**JOB, "status": {"phase": "Running"}})
    told = {metric.name for metric in JobCollector(cache).collect() if metric.samples}
    dashboard = json.loads((CHART / "files" / "dashboards" / "job.json").read_text())
    variables = {choice["name"]: choice["query"] for choice in dashboard["templating"]["list"]}
    for name in ("namespace", "job"):
        [asked] = re.findall(r"label_values\((\w+)", variables[name]["query"])
        assert asked in told


def test_the_operators_dashboard_shows_one_release_at_a_time() -> None:
    dashboard = json.loads((CHART / "files" / "dashboards" / "operator.json").read_text())
    for query in (target["expr"] for panel in dashboard["panels"] for target in panel["targets"]):
        assert query.count("aligntune_operator_") == query.count('{job="$release"}')
    assert "release" in {variable["name"] for variable in dashboard["templating"]["list"]}


@pytest.mark.parametrize("page", [*ROOT.glob("docs/**/*.md")], ids=lambda page: page.stem)
def test_pages_speak_of_metrics_that_there_are(page: Path, exported: set[str]) -> None:
    told = re.findall(r"\baligntune_(?:job|operator|train)s?_\w+", page.read_text())
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in told}
    assert names <= exported, names - exported
