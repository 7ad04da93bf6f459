"""The models are the only description of a job: every field is described, bounded, in the CRD."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aligntune.api.crd import custom_resource_definition
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.run import RunConfig
from aligntune.api.status import AlignTuneJobStatus

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


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
        case "object" if isinstance(field.get("additionalProperties"), dict):
            assert "maxProperties" in field


def test_the_api_server_is_told_no_defaults_so_that_git_and_cluster_stay_equal() -> None:
    assert '"default"' not in json.dumps(SCHEMA)


def test_the_crd_stays_well_below_the_limit_of_an_object() -> None:
    assert len(json.dumps(custom_resource_definition())) < 256 * 1024


@pytest.mark.parametrize("model", [AlignTuneJobSpec, AlignTuneJobStatus, RunConfig])
def test_no_two_spellings_of_one_field(model: type) -> None:
    assert "_" not in "".join(model.model_json_schema(by_alias=True)["properties"])


def test_neither_config_nor_operator_loads_a_training_library() -> None:
    code = (
        "import sys, aligntune, aligntune.core.backend_factory, aligntune.api.job;"
        "import aligntune.pod.launcher, aligntune_operator.__main__;"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'kubernetes'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
