"""What GitOps tools make of every golden status, by their own rules."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from tests.cluster.binaries import binary
from tests.cluster.processes import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "gitops" / "argocd-health.lua"
GENERATION = 1
STATUSES = sorted(Path(__file__).parent.glob("*/status.yaml"))


class Health(NamedTuple):
    kstatus: str
    argo: str


EXPECTED = {
    "Pending": Health("InProgress", "Progressing"),
    "Starting": Health("InProgress", "Progressing"),
    "Restarting": Health("InProgress", "Progressing"),
    "Queued": Health("Current", "Suspended"),
    "Suspended": Health("Current", "Suspended"),
    "Running": Health("Current", "Healthy"),
    "Succeeded": Health("Current", "Healthy"),
    "Failed": Health("Failed", "Degraded"),
}
REFUSED = Health("Failed", "Degraded")
STOPPING = Health("InProgress", "Progressing")

Judge = Callable[[list[dict[str, Any]]], list[dict[str, str]]]


@pytest.fixture(scope="session")
def judge() -> Judge:
    """kstatus's library and Argo CD's Lua interpreter, asked about objects."""
    program = binary("gitops")

    def ask(objects: list[dict[str, Any]]) -> list[dict[str, str]]:
        lines = "".join(json.dumps(found) + "\n" for found in objects)
        done = subprocess.run(
            [program, SCRIPT], input=lines, check=True, capture_output=True, text=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def job(status: Any = None, **metadata: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "apiVersion": "aligntune.io/v1alpha1",
        "kind": "AlignTuneJob",
        "metadata": {"name": "chat", "namespace": "research", "generation": GENERATION} | metadata,
        "spec": {},
    }
    return body if status is None else body | {"status": status}


def expected(status: dict[str, Any]) -> Health:
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    if conditions["Accepted"]["status"] == "False":
        return REFUSED
    if conditions.get("Reconciling", {}).get("reason") == "Stopping":
        return STOPPING
    return EXPECTED[status["phase"]]


def test_every_status_is_read_as_its_phase_says(judge: Judge) -> None:
    statuses = [YAML(typ="safe").load(file) for file in STATUSES]
    assert {status["phase"] for status in statuses} == EXPECTED.keys()
    answers = judge([job(status) for status in statuses])
    for file, status, answer in zip(STATUSES, statuses, answers, strict=True):
        assert Health(answer["kstatus"], answer["argo"]) == expected(status), file.parent.name


def test_what_the_operator_has_not_seen_is_in_progress(judge: Judge) -> None:
    status = YAML(typ="safe").load(Path(__file__).parent / "succeeded" / "status.yaml")
    answers = judge([job(), job(status, generation=GENERATION + 1)])
    assert [answer["argo"] for answer in answers] == ["Progressing", "Progressing"]
    assert answers[1]["kstatus"] == "InProgress"


def test_argo_cd_shows_the_reason_of_a_failure(judge: Judge) -> None:
    status = YAML(typ="safe").load(Path(__file__).parent / "wrong-model-name" / "status.yaml")
    [answer] = judge([job(status)])
    assert answer["message"] == status["failure"]["message"]
