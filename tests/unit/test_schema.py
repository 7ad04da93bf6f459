"""The models are the only description of a job: every field is described, bounded, in the CRD."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aligntune.api.crd import custom_resource_definition
from aligntune.api.job import NAME_MAX_LENGTH, AlignTuneJobSpec
from aligntune.api.names import job_name
from aligntune.api.progress import Outcome, Snapshot
from aligntune.api.run import RunConfig
from aligntune.api.status import AlignTuneJobStatus, TrainedModel
from tests.cluster.processes import REPOSITORY

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_no_word_of_the_crd_is_a_boolean_for_kubectl() -> None:
    """PyYAML reads YAML 1.1, as Kubernetes' Go libraries do."""
    file = REPOSITORY / "crds" / "aligntune.io_aligntunejobs.yaml"
    assert yaml.safe_load(file.read_text()) == custom_resource_definition()


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


SPEC_FIELDS = dict(fields(SCHEMA["properties"]["spec"], "spec"))
ALL_FIELDS = SPEC_FIELDS | dict(fields(SCHEMA["properties"]["status"], "status"))


@pytest.mark.parametrize("path", sorted(ALL_FIELDS))
def test_every_field_is_described(path: str) -> None:
    assert ALL_FIELDS[path].get("description"), f"{path} has no docstring in its model"


@pytest.mark.parametrize("path", sorted(SPEC_FIELDS))
def test_every_field_that_a_tenant_fills_is_bounded(path: str) -> None:
    field = SPEC_FIELDS[path]
    match field.get("type"):
        case "array":
            assert "maxItems" in field
        case "string":
            assert {"maxLength", "enum"} & field.keys()
        case "integer" | "number":
            assert {"minimum", "maximum"} <= field.keys() or "enum" in field
        case "object" if isinstance(field.get("additionalProperties"), dict):
            assert "maxProperties" in field


def test_the_longest_host_name_of_a_pod_is_one_that_dns_takes() -> None:
    name, nodes = "a" * NAME_MAX_LENGTH, SPEC_FIELDS["spec.runtime.nodes"]["maximum"]
    assert len(f"{job_name(name, uid='u', attempt=99)}-{nodes - 1}") == 63


@pytest.mark.parametrize(
    "path", [path for path in SPEC_FIELDS if path.startswith("spec.policy.") and "Seconds" in path]
)
def test_no_wait_is_too_long_for_a_date(path: str) -> None:
    datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=SPEC_FIELDS[path]["maximum"])


def test_the_api_server_is_told_no_defaults_so_that_git_and_cluster_stay_equal() -> None:
    assert '"default"' not in json.dumps(SCHEMA)


def test_the_crd_stays_well_below_the_limit_of_an_object() -> None:
    assert len(json.dumps(custom_resource_definition())) < 256 * 1024


@pytest.mark.parametrize("model", [AlignTuneJobSpec, AlignTuneJobStatus, RunConfig])
def test_no_two_spellings_of_one_field(model: type) -> None:
    assert "_" not in "".join(model.model_json_schema(by_alias=True)["properties"])


def test_neither_config_nor_operator_loads_a_training_library() -> None:
    code = (
        # kopf itself loads the client where it is installed; in the operator's image it is not
        "import sys; sys.modules['kubernetes'] = None;"
        "import aligntune, aligntune.core.backend_factory, aligntune.api.job, aligntune.cli;"
        "import aligntune.pod.launcher, aligntune_operator.__main__;"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'matplotlib'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def violations(schema: dict[str, Any], value: Any, path: str = "status") -> Iterator[str]:
    """Where a JSON value is not what the API server takes."""
    if not fits(schema, value):
        yield path
    if isinstance(value, dict):
        for name, child in value.items():
            known = schema.get("properties", {}).get(name) or schema["additionalProperties"]
            yield from violations(known, child, f"{path}.{name}")
    if isinstance(value, list):
        for child in value:
            yield from violations(schema["items"], child, f"{path}[]")


def fits(schema: dict[str, Any], value: Any) -> bool:
    match value:
        case dict():
            return len(value) <= schema.get("maxProperties", math.inf)
        case list():
            return len(value) <= schema.get("maxItems", math.inf)
        case str():
            time = schema.get("format") == "date-time"
            return (
                value in schema.get("enum", [value])
                and len(value) <= schema.get("maxLength", math.inf)
                and not (time and datetime.fromisoformat(value).tzinfo is None)
            )
        case _:
            low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
            int64 = schema["type"] != "integer" or -(2**63) <= value < 2**63
            return math.isfinite(value) and int64 and low <= value <= high


hostile_counts = st.integers(-1, 2**54) | st.sampled_from([10**40, 10**400, 1.0, True, "3", None])
hostile_numbers = (
    st.floats() | st.sampled_from([10**400, -(10**400), "1", "nan", True]) | hostile_counts
)
hostile_times = st.sampled_from(
    ["2026-11-01T00:00:00", "2026-11-01T00:00:00+23:59", "0001-01-01T00:00:00Z", 0, 1e20, "soon"]
)
hostile_names = st.sampled_from(["loss", "eval/loss", "", "1", "a" * 65, "ä", "a\n"]) | st.text()
hostile_metrics = st.dictionaries(hostile_names, hostile_numbers, max_size=3)
checkpoints = st.fixed_dictionaries(
    {"step": hostile_counts, "path": st.sampled_from(["c", "x" * 5000]), "savedAt": hostile_times}
)
snapshots = st.fixed_dictionaries(
    {},
    optional={
        "attempt": hostile_counts,
        "progress": st.fixed_dictionaries(
            {},
            optional={
                "step": hostile_counts,
                "totalSteps": hostile_counts,
                "epoch": hostile_numbers,
                "percent": hostile_counts,
                "etaSeconds": hostile_counts,
                "tokensPerSecond": hostile_numbers,
                "activity": st.sampled_from(["training", "x" * 100]),
                "updatedAt": hostile_times,
                "unheardOf": hostile_counts,
            },
        ),
        "metrics": hostile_metrics,
        "checkpoint": checkpoints,
    },
)
outcomes = st.fixed_dictionaries(
    {"result": st.just("Succeeded"), "exitCode": hostile_counts},
    optional={
        "step": hostile_counts,
        "totalSteps": hostile_counts,
        "metrics": hostile_metrics,
        "checkpoint": checkpoints,
        "modelPath": st.sampled_from(["m", "x" * 5000]),
    },
)


@given(snapshots)
def test_a_snapshot_that_is_accepted_fits_into_the_status(document: dict[str, Any]) -> None:
    try:
        told = Snapshot.model_validate_json(json.dumps(document))
    except ValidationError:
        return
    fits_into_the_status(
        AlignTuneJobStatus(progress=told.progress, metrics=told.metrics, checkpoint=told.checkpoint)
    )


@given(outcomes)
def test_an_outcome_that_is_accepted_fits_into_the_status(document: dict[str, Any]) -> None:
    try:
        told = Outcome.model_validate_json(json.dumps(document))
    except ValidationError:
        return
    fits_into_the_status(
        AlignTuneJobStatus(
            progress={"step": told.step, "totalSteps": told.total_steps},
            metrics=told.metrics,
            checkpoint=told.checkpoint,
            attempts={
                "history": [{"attempt": 1, "job": "j", "reason": "r", "exitCode": told.exit_code}]
            },
            model=TrainedModel(path=told.model_path),
        )
    )


def fits_into_the_status(status: AlignTuneJobStatus) -> None:
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert not list(violations(SCHEMA["properties"]["status"], written))
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]{0,63}", name) for name in status.metrics)
    assert AlignTuneJobStatus.model_validate(json.loads(json.dumps(written))) == status


def test_one_bad_number_does_not_cost_the_report() -> None:
    metrics = '{"loss": 1, "a b": 2, "big": 1e999, "' + "x" * 65 + '": 3}'
    told = Snapshot.model_validate_json(
        '{"progress": {"step": 7, "etaSeconds": 5000000000}, "metrics": ' + metrics + "}"
    )
    assert told.metrics == {"loss": 1}
    assert (told.progress.step, told.progress.eta_seconds) == (7, None)


@pytest.mark.parametrize("value", [10**40, -1, 2**53 + 1])
def test_a_step_that_no_run_reaches_is_refused(value: int) -> None:
    with pytest.raises(ValidationError):
        Snapshot.model_validate({"progress": {"step": value}})


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        Snapshot.model_validate_json('{"progress": {"updatedAt": "2026-11-01T00:00:00"}}')


def test_a_newer_versions_status_is_read_without_what_is_new_in_it() -> None:
    document = {
        "phase": "Running",
        "tomorrow": 1,
        "progress": {"step": 3, "tomorrow": 1},
        "attempts": {"current": 2, "history": [{"attempt": 1, "job": "j", "reason": "r", "x": 1}]},
    }
    status = AlignTuneJobStatus.model_validate(document)
    assert (status.attempts.current, status.progress and status.progress.step) == (2, 3)


@pytest.mark.parametrize(
    "document",
    [{"phase": "Dreaming"}, {"failure": {"reason": "Bored", "message": "", "retryable": True}}],
)
def test_a_phase_or_cause_of_another_version_is_not_taken_for_one_of_ours(
    document: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        AlignTuneJobStatus.model_validate(document)
