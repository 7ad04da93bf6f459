"""Properties that hold for every config: documents are drawn from the published schema."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aligntune.core.config.base import Section
from aligntune.core.config.errors import mistakes
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig

CONFIGS = pytest.mark.parametrize("config", [SFTConfig, UnifiedConfig])
NAMES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]))


def documents(config: type[Section]) -> st.SearchStrategy[Any]:
    """Documents that every field of the schema would take, by itself."""
    schema = config.model_json_schema(by_alias=True)
    return _values(schema, schema.get("$defs", {}))


def _values(schema: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _values(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return st.one_of([_values(one, known) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "object":
        return _mapping(schema, known)
    if schema["type"] == "array":
        least = schema.get("minItems", 0)
        return st.lists(_values(schema["items"], known), min_size=least, max_size=least + 1)
    return _scalar(schema)


def _mapping(schema: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        return st.dictionaries(NAMES, st.integers(), max_size=2)
    required = set(schema.get("required", []))
    fields = {name: _values(one, known) for name, one in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: field for name, field in fields.items() if name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


def _scalar(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "string":
            least = schema.get("minLength", 0)
            return st.text(min_size=least, max_size=min(schema.get("maxLength", 9), least + 9))
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return _numbers(schema)
        case "boolean":
            return st.booleans()
        case _:
            assert schema["type"] == "null", schema
            return st.none()


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return st.floats(
        low,
        high,
        allow_nan=False,
        allow_infinity=False,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
    ).filter(math.isfinite)


@CONFIGS
@settings(max_examples=100)
@given(data=st.data())
def test_a_config_is_what_its_own_dump_says_or_is_refused_at_a_place(
    config: type[Section], data: st.DataObject
) -> None:
    document = data.draw(documents(config))
    try:
        made = config.parse(document)
    except ValidationError as error:
        found = list(mistakes(error, config))
        assert found
        for mistake in found:  # only rules over several fields can be broken
            assert mistake.location[0] in config.model_json_schema(by_alias=True)["properties"]
            assert mistake.message
        return
    assert config.parse(made.model_dump(mode="json")) == made
    assert config.parse(made.model_dump(mode="json", exclude_unset=True)) == made
    assert config.parse(made.model_dump(mode="json", exclude_defaults=True)) == made


@CONFIGS
@settings(max_examples=50)
@given(data=st.data())
def test_an_unknown_field_is_refused_wherever_it_stands(
    config: type[Section], data: st.DataObject
) -> None:
    document = data.draw(documents(config))
    sections = list(_sections(document, ()))
    path, section = data.draw(st.sampled_from(sections))
    section["noSuchField"] = 1
    with pytest.raises(ValidationError) as error:
        config.parse(document)
    unknown = [one.location for one in mistakes(error.value, config) if "unknown" in one.message]
    assert (*path, "noSuchField") in unknown


def _sections(value: Any, path: tuple[int | str, ...]) -> Any:
    """Every mapping in a document with its place; a reward's parameters are the user's own."""
    if isinstance(value, dict):
        yield path, value
        for name, below in value.items():
            if name != "params":
                yield from _sections(below, (*path, name))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _sections(below, (*path, index))


@CONFIGS
def test_the_home_of_an_output_folder_is_expanded_once_for_all_who_write_there(
    config: type[SFTConfig | UnifiedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/mara")
    method = {"algo": "dpo"} if config is UnifiedConfig else {}
    named = {"model": {"name": "m"}, "datasets": [{"name": "d"}], "output_dir": "~/runs/x"}
    assert config.model_validate(method | named).output_dir == "/home/mara/runs/x"
