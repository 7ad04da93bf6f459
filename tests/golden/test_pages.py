"""`aligntune status` of every golden status: the page that people read, in `page.txt` of each case.

`make golden` rewrites them.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import rich.console
from ruamel.yaml import YAML

from aligntune.cluster.job import Job
from aligntune.cluster.pages import live_table, page, table
from tests.golden.test_golden import CASES, CREATED, UID, load

COLUMNS = 100


def job_in(case: Path) -> tuple[Job, datetime]:
    """The job with the status that the case expects, and the time there."""
    body = load(case / "job.yaml")
    metadata = {"uid": UID, "namespace": "default", "creationTimestamp": CREATED}
    body["metadata"] = metadata | body["metadata"]
    body["status"] = load(case / "status.yaml")
    now = load(case / "observed.yaml").get("now", "2026-11-01T12:00:01Z")
    return Job.of(body), datetime.fromisoformat(now)


def shown(renderable: Any, columns: int = COLUMNS) -> str:
    console = rich.console.Console(
        width=columns, highlight=False, markup=False, emoji=False, no_color=True
    )
    with console.capture() as captured:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_status_is_shown_as_this_page(case: Path, request: pytest.FixtureRequest) -> None:
    job, now = job_in(case)
    text = shown(page(job, now))
    file = case / "page.txt"
    if request.config.getoption("--rewrite-golden"):
        file.write_text(text)
    assert file.read_text() == text, f"{file} differs; see `make golden`"


def test_the_table_has_kubectls_columns_and_a_line_for_each_job() -> None:
    running, now = job_in(Path(__file__).parent / "running")
    failed, _ = job_in(Path(__file__).parent / "restarts-used-up")
    lines = shown(table([running, failed], now)).splitlines()
    definition = YAML(typ="safe").load(
        Path(__file__).parents[2] / "crds" / "aligntune.io_aligntunejobs.yaml"
    )
    columns = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    named = [column["name"].upper() for column in columns]
    assert lines[0].split() == ["NAME", *named]
    assert lines[1].split() == [
        "support-bot", "trl", "sft", "Running", "120/400", "30%", "1.917", "1h30m", "0", "5m10s",
    ]  # fmt: skip
    assert "Failed" in lines[2]


def test_a_live_table_on_a_narrow_terminal_cuts_names_and_no_number() -> None:
    running, now = job_in(Path(__file__).parent / "running")
    losses = {running.uid: [float(n) for n in range(40)]}
    named = running._replace(name="an-assistant-for-the-support-desk-of-a-large-company")

    def line(width: int) -> list[str]:
        return shown(live_table([named], now, losses, width), width).splitlines()[1].split()

    name, *numbers = line(80)
    assert named.name.startswith(name.removesuffix("…"))
    assert numbers[:-1] == ["Running", "120/400", "1.917", "1h30m", "0", "5m10s"]
    assert len(numbers[-1]) == 10
    assert line(160)[0] == named.name
    assert len(line(160)[-1]) == 30
