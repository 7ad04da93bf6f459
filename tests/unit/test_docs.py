"""The pages for people lead to where they say."""

import re
from pathlib import Path

import markdown
import pytest
import yaml

from aligntune.api import conditions
from aligntune.api.causes import Cause
from aligntune.api.conditions import Condition, Reason
from aligntune.api.manifest import read_manifests

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
MANIFESTS = [
    (page.stem, manifest)
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    if "apiVersion: aligntune.io" in block
    for manifest in yaml.safe_load_all(block)
    if manifest["kind"] == "AlignTuneJob"
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    files = [page.parent / target.partition("#")[0] for target in targets]
    assert [str(file) for file in files if not file.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_and_tables_are_such_on_the_site_too(page: Path) -> None:
    html = markdown.markdown(page.read_text(), extensions=["tables", "pymdownx.superfences"])
    words = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert re.findall(r"^\s*(?:[-*] .*|\|.*|```.*)", words, flags=re.MULTILINE) == []


@pytest.mark.parametrize(("page", "manifest"), MANIFESTS, ids=[page for page, _ in MANIFESTS])
def test_every_whole_manifest_is_valid(
    page: str, manifest: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / f"{page}.yaml"
    file.write_text(yaml.safe_dump(manifest))
    assert len(read_manifests(file)) == 1


def test_every_component_of_the_architecture_is_where_it_says() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Component to file")[2]
    paths = [path for path in re.findall(r"`([^`]+)`", table) if "/" in path]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_reason_is_explained_and_no_other() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = set(re.findall(r"`([A-Z][A-Za-z]+)`", page))
    reasons = {value.reason for value in vars(conditions).values() if isinstance(value, Reason)}
    known = reasons | set(Cause) | set(Condition)
    assert known <= told, known - told
    words = {"AttemptStarted", "HalveBatch"}
    assert told <= known | words, told - known - words
